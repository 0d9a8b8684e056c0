"""A replica's own snapshots in the store: those that exist, lack blobs, or may be deleted."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import structlog

from contracts.errors import SnapshotRefused, UnknownFormat
from contracts.ports.blob_store import BlobStore
from index_store.snapshot import manifest as manifests
from index_store.snapshot.needed_blobs import BlobSizes, SnapshotBlobs, blobs_of, missing_blobs

log = structlog.get_logger(__name__)


class OwnSnapshots:
    """The snapshots below `prefix`; one instance at a time may write. Methods raise OSError."""

    def __init__(self, store: BlobStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._needed = SnapshotBlobs()
        self.incomplete: dict[str, list[str]] = {}
        """Snapshots that are not whole, with what they lack, as the last listing showed."""

    @property
    def newest(self) -> str | None:
        """The newest snapshot that this process wrote, restored or read."""
        return self._needed.newest

    def add(self, name: str, manifest: Mapping[str, Any], manifest_bytes: int) -> None:
        """Count `name` as one of this replica's snapshots from now on."""
        self._needed[name] = blobs_of(name, manifest, manifest_bytes)

    async def update_incomplete(self) -> None:
        """Set `incomplete`, by one listing."""
        await self.missing({})

    async def missing(self, needs: BlobSizes) -> list[str]:
        """Return the `needs` that the store lacks, and set `incomplete` by the same listing."""
        there = await self._store.sizes(self._prefix)
        found = {blob.removeprefix(self._prefix): size for blob, size in there.items()}
        self.incomplete = self._needed.incomplete(found)
        return missing_blobs(needs, found)

    async def require_whole(
        self, name: str, manifest: Mapping[str, Any], manifest_bytes: int
    ) -> None:
        """Raise SnapshotRefused where the store lacks a blob that the manifest of `name` names."""
        for blob in await self.missing(blobs_of(name, manifest, manifest_bytes)):
            raise SnapshotRefused(f"{blob}: missing")

    async def write_and_read(self, name: str, data: bytes) -> None:
        """Write a small blob, such as a manifest, and read it back.

        Raises OSError if the store does not return the same bytes.
        """
        blob = self._prefix + name
        await self._store.write(blob, data)
        try:
            found = await self._store.read(blob)
        except KeyError:
            raise OSError(f"{blob}: written, but not in the store") from None
        if found != data:
            raise OSError(f"{blob}: written, but {len(found)} other bytes came back")

    async def tidy(self, held: Iterable[str]) -> tuple[Sequence[str], Collection[str]]:
        """Delete this replica's snapshots that have no manifest.

        Returns the names of the others, ascending, and of the segments that were deleted because
        none of these snapshots needs them, as by `delete_unneeded`.
        """
        blobs = await self._store.list(self._prefix)
        names = {blob.removeprefix(self._prefix).partition("/")[0] for blob in blobs}
        finished = []
        for name in sorted(name for name in names if name.isdecimal()):
            if f"{self._prefix}{name}/manifest.json" in blobs:
                finished.append(name)
                if name not in self._needed:
                    self._needed[name] = await self._read(name)
            else:
                await self.delete(name)
        # Forget snapshots that another process has deleted.
        self._needed.retain(finished)
        return finished, await self.delete_unneeded(held)

    async def delete_unneeded(self, held: Iterable[str]) -> Collection[str]:
        """Delete the segments that no snapshot needs, except those `held`; return their names."""
        needed = self._needed.parts()
        if needed is None:
            return ()
        gone = set()
        needed |= set(held)
        for blob in await self._store.list(f"{self._prefix}parts/"):
            part = blob.removeprefix(self._prefix).split("/")[1]
            if part not in needed:
                gone.add(part)
                await self._store.delete(blob)
        return gone

    async def delete(self, name: str) -> None:
        """Delete a snapshot, but not the segments that others may need too."""
        self._needed.forget(name)
        self.incomplete.pop(name, None)
        blobs = await self._store.list(f"{self._prefix}{name}/")
        # Delete the manifest first: without it the rest is not a snapshot any more.
        for blob in sorted(blobs, key=lambda blob: not blob.endswith("/manifest.json")):
            await self._store.delete(blob)

    async def _read(self, name: str) -> BlobSizes | None:
        try:
            raw = await self._store.read(f"{self._prefix}{name}/manifest.json")
            return blobs_of(name, manifests.read_manifest(raw), len(raw))
        except (UnknownFormat, OSError) as error:
            log.warning("no part is deleted", snapshot=name, reason=str(error))
            return None
        except (SnapshotRefused, KeyError):
            return {}  # it cannot be restored, so it needs no blobs
