"""The reader of the pictures that published references name, to show them.

References in queries may come from anybody, so they never name the server's files. Published ones
may: files below the allowed roots are read here, and all others as references in queries are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumers.references.errors import reference_refused
from consumers.references.files import read_reference
from consumers.references.limits import ReferenceLimits
from contracts.ports.pictures import ReferenceReader


class DisplayReferences:
    """A ReferenceReader; `remote` reads every reference that does not name a file."""

    def __init__(self, remote: ReferenceReader, limits: ReferenceLimits) -> None:
        self._remote = remote
        self._limits = limits
        self._files = asyncio.Semaphore(limits.held_max)

    @asynccontextmanager
    async def read(self, ref: str, sha256: str | None) -> AsyncIterator[bytes]:
        """Read the picture. Raises RejectedRecord, as References does."""
        if not ref.lower().startswith("file:"):
            async with self._remote.read(ref, sha256) as data:
                yield data
            return
        if "file" not in self._limits.schemes:
            enabled = sorted(self._limits.schemes)
            why = f"scheme 'file', enabled {enabled} (TIDELENS_REFERENCE_SCHEMES)"
            raise reference_refused("not_enabled", why, limit=enabled, value="file")
        async with self._files:
            yield await asyncio.to_thread(
                read_reference,
                ref,
                sha256,
                allow_roots=self._limits.allow_roots,
                bytes_max=self._limits.bytes_max,
            )
