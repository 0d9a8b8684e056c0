"""Blobs on disk: whole or absent, and durable once written."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath


class DiskBlobs:
    """The BlobStore port in a folder; names are paths below it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, name: str, data: bytes | memoryview) -> None:
        await asyncio.to_thread(self._write, self._path(name), data)

    async def read(self, name: str) -> bytes:
        try:
            return await asyncio.to_thread(self._path(name).read_bytes)
        except FileNotFoundError:
            raise KeyError(name) from None

    async def list(self, prefix: str) -> list[str]:
        return [*await asyncio.to_thread(self._list, prefix)]

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise ValueError(f"not a blob name: {name!r}")
        return self._root.joinpath(*parts)

    @staticmethod
    def _write(path: Path, data: bytes | memoryview) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        # The rename itself is durable only once its folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _list(self, prefix: str) -> Sequence[str]:
        if not self._root.exists():
            return []
        names = (
            path.relative_to(self._root).as_posix()
            for path in self._root.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )
        return sorted(name for name in names if name.startswith(prefix))
