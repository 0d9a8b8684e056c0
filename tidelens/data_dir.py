"""The data directory: made, and each part of it locked by the one process that writes it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.errors import DataDirInUse, DataDirNotWritable
from contracts.settings import Settings


@contextmanager
def locked(data: Path, part: str) -> Iterator[None]:
    """Hold DATA/PART.lock, which names our pid; `data` is made unless it is there.

    Raises DataDirNotWritable, DataDirInUse.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        # Not emptied when opened: it may name another process.
        lock = (data / f"{part}.lock").open("a+")
    except OSError as error:
        raise _not_writable(data, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise DataDirInUse(
                f"another tidelens (pid {pid}) runs on the data directory {data} ({part}.lock); "
                "stop it, or give another with --data or TIDELENS_DATA"
            ) from None
        except OSError as error:
            raise _not_writable(data, error) from None
        yield


def node_part(settings: Settings) -> str:
    """What an index node writes; those of other shards or replicas may share the directory."""
    return f"index.{settings.shard}.{settings.replica}"


def _not_writable(data: Path, error: OSError) -> DataDirNotWritable:
    return DataDirNotWritable(f"data directory {data}: {error.strerror}; give another with --data")
