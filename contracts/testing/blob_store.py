"""A blob store in memory."""

import asyncio
from collections.abc import Mapping
from pathlib import Path


class MemoryBlobStore:
    """The BlobStore port on a dictionary."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def write(self, name: str, data: bytes | memoryview) -> None:
        self.blobs[name] = bytes(data)

    async def read(self, name: str) -> bytes:
        return self.blobs[name]

    async def upload(self, name: str, path: Path) -> None:
        await self.write(name, await asyncio.to_thread(path.read_bytes))

    async def local(self, name: str, folder: Path) -> Path:
        data = await self.read(name)
        path = folder / name.replace("/", "_")
        await asyncio.to_thread(path.write_bytes, data)
        return path

    async def list(self, prefix: str) -> list[str]:
        return sorted(await self.sizes(prefix))

    async def sizes(self, prefix: str) -> Mapping[str, int]:
        return {n: len(data) for n, data in self.blobs.items() if n.startswith(prefix)}

    async def delete(self, name: str) -> None:
        self.blobs.pop(name, None)
