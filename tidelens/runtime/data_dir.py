"""The data directory: made, and each part of it locked by the one process that writes it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from contracts.errors import ConfigurationError, DataDirInUse, DataDirNotWritable
from contracts.settings import IndexSettings
from contracts.user_folders import is_open_to_others, make_private, user_data_dir

log = structlog.get_logger(__name__)


@contextmanager
def locked(data: Path, part: str) -> Iterator[None]:
    """Hold DATA/PART.lock, which names our pid; `data` is made unless it is there.

    Raises DataDirNotWritable, DataDirInUse.
    """
    try:
        make_private(data)
        _close_to_others(data)
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


def _close_to_others(data: Path) -> None:
    """Only the folder that is ours alone is changed: another may be open to others on purpose."""
    if not is_open_to_others(data):
        return
    with suppress(ConfigurationError, PermissionError):
        if data == user_data_dir():
            data.chmod(0o700)
            return
    log.warning("other users may look into the data directory", fix=f"chmod 700 {data}")


def node_part(settings: IndexSettings) -> str:
    """What an index node writes; those of other shards or replicas may share the directory."""
    return f"index.{settings.shard}.{settings.replica}"


def _not_writable(data: Path, error: OSError) -> DataDirNotWritable:
    return DataDirNotWritable(f"data directory {data}: {error.strerror}; give another with --data")
