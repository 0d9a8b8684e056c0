"""Files and folders that are whole or absent, whenever a reader or a crash comes.

Each is written beside its path under a hidden name, made durable, and renamed. A writer that fails
removes what it wrote: half a file would only keep a full disk full.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from contracts.user_folders import make_private

PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file that is being written at `partial` and becomes `path` once it is whole."""

    path: Path
    partial: Path

    @classmethod
    def beside(cls, path: Path) -> "PartialFile":
        """Name the partial file of `path`, which differs from those of other processes."""
        return cls(path, path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}"))

    def commit(self, *, durable: bool = True) -> None:
        """Rename the partial file to `path`, which it replaces.

        With `durable`, its bytes and its name outlast a crash of the machine from then on. Raises
        OSError.
        """
        if durable:
            _sync(self.partial)
        self.partial.replace(self.path)
        if durable:
            sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the partial file if it exists."""
        # A read-only file system refuses this even where there is no file.
        with suppress(OSError):
            self.partial.unlink()


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` when the block ends without an error.

    Raises OSError. After any error `path` is as it was, unless only the sync of its folder failed.
    """
    file = PartialFile.beside(path)
    try:
        yield file.partial
        file.commit(durable=durable)
    except BaseException:
        file.discard()
        raise


def atomic_write(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a whole file, or leave `path` as it was. Raises OSError."""
    with atomic_file(path, durable=durable) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new private folder, which becomes `folder` when the block ends without an error.

    Where `folder` exists by then, its files are replaced one by one. It is not made durable: this
    is for copies that can be made again. Raises OSError.
    """
    partial = PartialFile.beside(folder).partial
    shutil.rmtree(partial, ignore_errors=True)
    try:
        make_private(partial)
        yield partial
        _move_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, such as that of a file just renamed. Raises OSError."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_folder(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        for path in partial.iterdir():
            path.replace(folder / path.name)
