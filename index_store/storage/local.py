"""A blob store on disk: a blob is whole or absent, and durable once written."""

import asyncio
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from contracts.atomic_write import PARTIAL, atomic_file, sync_folder
from contracts.user_folders import make_private
from index_store.segment.files import link_or_copy

# A crash leaves a half-written file behind: one that has not changed for so many seconds.
_ABANDONED_S = 3600.0


class LocalBlobStore:
    """The BlobStore port in a folder; names are paths below it, without hidden folders."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    async def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a blob. Raises OSError, as for a full disk; then the blob is as it was."""
        await asyncio.to_thread(self._write, self._path(name), data)

    async def upload(self, name: str, path: Path) -> None:
        """Write a blob from a file, which is linked on the same file system. Raises OSError."""
        await asyncio.to_thread(self._upload, self._path(name), path)

    async def local(self, name: str, folder: Path) -> Path:
        """Return the blob's own file. Raises KeyError when there is not such a blob."""
        path = self._path(name)
        if not await asyncio.to_thread(path.is_file):
            raise KeyError(name)
        return path

    async def read(self, name: str) -> bytes:
        """Return the bytes of a blob. Raises KeyError when there is not such a blob."""
        path = self._path(name)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise KeyError(name) from None

    async def list(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, sorted."""
        return sorted(await self.sizes(prefix))

    async def sizes(self, prefix: str) -> Mapping[str, int]:
        """Return the names that `list` returns, each with its size in bytes."""
        return await asyncio.to_thread(self._sizes, prefix)

    async def delete(self, name: str) -> None:
        """Delete a blob, if it is there, and its folder, once empty."""
        await asyncio.to_thread(self._delete, self._path(name))

    def _path(self, name: str) -> Path:
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") for part in path.parts)
        if not path.parts or path.is_absolute() or hidden or str(path) != name:
            raise ValueError(f"not a blob name: {name!r}")
        return self._root / path

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        with self._replacing(path) as partial:
            partial.write_bytes(data)

    def _upload(self, path: Path, source: Path) -> None:
        with self._replacing(path) as partial:
            link_or_copy(source, partial)

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        """Give a path to fill, which then becomes `path`, durably."""
        if not self._swept:
            self._sweep()
            self._swept = True
        make_private(path.parent)
        with atomic_file(path) as partial:
            yield partial
        # The blob's folder may be new, and is durable only once the folders above it are.
        folder = path.parent
        while folder != self._root:
            folder = folder.parent
            sync_folder(folder)

    def _delete(self, path: Path) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        self._remove_if_empty(path.parent)

    def _remove_if_empty(self, folder: Path) -> None:
        if folder != self._root:
            with suppress(OSError):
                folder.rmdir()

    def _sizes(self, prefix: str) -> Mapping[str, int]:
        # Walk only the folder that `prefix` leads into.
        start = self._root / prefix.rpartition("/")[0]
        sizes = {}
        for path in start.rglob("*"):
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and not path.name.startswith("."):
                with suppress(FileNotFoundError):  # deleted while we walk
                    found = path.stat()
                    if stat.S_ISREG(found.st_mode):
                        sizes[name] = found.st_size
        return sizes

    def _sweep(self) -> None:
        for partial in list(self._root.rglob(f".*{PARTIAL}")):
            with suppress(OSError):
                if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                    partial.unlink()
                    self._remove_if_empty(partial.parent)
