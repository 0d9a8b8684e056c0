"""Make the data directory, and lock each part of it for the one process that writes it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from contracts.errors import ConfigurationError, DataDirInUse, DataDirNotWritable
from contracts.settings import IndexSettings
from contracts.user_folders import is_open_to_others, make_private, user_data_dir

log = structlog.get_logger(__name__)


@contextmanager
def locked(data: Path, part: str) -> Iterator[None]:
    """Hold DATA/PART.lock, which names the pid of this process; make `data` if it is missing.

    The lock ends with the process, even by `kill -9`. Raises DataDirNotWritable, or DataDirInUse
    when another process holds it.
    """
    path = data / f"{part}.lock"
    # Without locks in the file system this fails: a file instead of a lock would outlive the
    # process.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    with ExitStack() as stack:
        try:
            make_private(data)
            _close_to_others(data)
            stack.enter_context(lock)
            path.write_text(f"{os.getpid()}\n")
        except Timeout:
            raise DataDirInUse(
                f"another tidelens (pid {_holder(path)}) runs on the data directory {data} "
                f"({part}.lock); stop it, or give another with --data or TIDELENS_DATA"
            ) from None
        except OSError as error:
            raise _not_writable(data, error) from None
        yield


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def _close_to_others(data: Path) -> None:
    """Close the default folder to other users; warn of another, which may be open on purpose."""
    if not is_open_to_others(data):
        return
    with suppress(ConfigurationError, PermissionError):
        if data == user_data_dir():
            data.chmod(0o700)
            return
    log.warning("other users may look into the data directory", fix=f"chmod 700 {data}")


def node_part(settings: IndexSettings) -> str:
    """Return the name of the part that an index node writes.

    Nodes of other shards or replicas may share the directory.
    """
    return f"index.{settings.shard}.{settings.replica}"


def _not_writable(data: Path, error: OSError) -> DataDirNotWritable:
    return DataDirNotWritable(f"data directory {data}: {error.strerror}; give another with --data")
