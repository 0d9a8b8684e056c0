"""The port of the store that holds snapshots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class BlobStore(Protocol):
    """A store of named, immutable blobs. Names are separated by slashes."""

    async def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a blob, whole or not at all; it is durable when this returns."""
        ...

    async def read(self, name: str) -> bytes:
        """Return the bytes of a blob. Raise KeyError if it does not exist."""
        ...

    async def upload(self, name: str, path: Path) -> None:
        """Write a blob with the bytes of a file, whole or not at all; it is durable on return.

        The file is never changed afterwards, but it may be deleted.
        """
        ...

    async def local(self, name: str, folder: Path) -> Path:
        """Return a file with the bytes of a blob, to be mapped; a copy, if any, is in `folder`.

        Raises KeyError if the blob does not exist.
        """
        ...

    async def list(self, prefix: str) -> list[str]:
        """Return the names of all blobs that begin with `prefix`."""
        ...

    async def sizes(self, prefix: str) -> Mapping[str, int]:
        """Return the names that `list` returns, each with its size in bytes."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a blob. It is not an error if the blob does not exist."""
        ...
