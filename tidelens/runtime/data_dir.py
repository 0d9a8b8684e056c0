"""Create the data directory, and lock each part of it for the one process that writes it."""

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
    """Lock DATA/PART.lock for the context, and write this process's pid into it.

    Creates `data` if it is missing. The system releases the lock when the process ends, even by
    `kill -9`. Raises DataDirInUse if another process has the lock, and DataDirNotWritable if the
    directory or the file cannot be written.
    """
    path = data / f"{part}.lock"
    # On a file system without locks this raises: the library's fallback, a plain file, would
    # outlive the process.
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
    """Make the default folder private; only warn of another, which may be open on purpose."""
    if not is_open_to_others(data):
        return
    with suppress(ConfigurationError, PermissionError):
        if data == user_data_dir():
            data.chmod(0o700)
            return
    log.warning("other users can read the data directory", fix=f"chmod 700 {data}")


def node_part(settings: IndexSettings) -> str:
    """Return the name of the part that an index node writes.

    Nodes of other shards or replicas may share the directory.
    """
    return f"index.{settings.shard}.{settings.replica}"


def _not_writable(data: Path, error: OSError) -> DataDirNotWritable:
    return DataDirNotWritable(f"data directory {data}: {error.strerror}; give another with --data")
