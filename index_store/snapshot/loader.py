"""Load a snapshot, comparing each blob with the manifest and the rows with their digest."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import SnapshotRefused
from contracts.events.format_version import from_members
from contracts.ports.blob_store import BlobStore
from contracts.topics import Target
from index_store.ann.faiss_index import OperatingPoint
from index_store.index import Index
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.files import SegmentFiles, link_or_copy
from index_store.segment.sealed import SealedSegment
from index_store.snapshot import manifest as manifests
from index_store.snapshot.manifest import Blob, Manifest


@dataclass(frozen=True, slots=True)
class LoadedSnapshot:
    """An index from a snapshot, with the manifest and its size in bytes."""

    index: Index
    manifest: Manifest
    manifest_bytes: int


class SnapshotLoader:
    """A loader of the snapshots below `shard_prefix`; `own_prefix` is that of this replica.

    `files` is where segments are mapped from. Methods raise SnapshotRefused for a snapshot that is
    not whole or of another log, and OSError when the store fails.
    """

    def __init__(
        self, store: BlobStore, shard_prefix: str, own_prefix: str, files: SegmentFileStore
    ) -> None:
        self._store = store
        self._shard_prefix = shard_prefix
        self._own_prefix = own_prefix
        self._files = files

    async def read(self, name: str) -> bytes:
        """Return a blob below the shard's prefix."""
        try:
            return await self._store.read(self._shard_prefix + name)
        except KeyError:
            raise SnapshotRefused(f"{name}: missing") from None

    async def load(self, name: str, empty: Index, *, keep: bool = False) -> LoadedSnapshot:
        """Load snapshot `name` (REPLICA/NAME) into a copy of `empty`.

        Pass `keep` if the index will be used, not only checked: its files must then stay, even if
        another replica deletes its own.
        """
        replica, _, own = name.rpartition("/")
        if not own.isdecimal():
            raise SnapshotRefused(f"name: want the digits of a snapshot's, got {own[:40]!r}")
        index = empty.empty_copy()
        raw = await self.read(f"{name}/manifest.json")
        manifest = manifests.read_manifest(raw)
        manifests.require_same_log(manifest, index)
        alive = await self.read(f"{name}/alive")
        await asyncio.to_thread(manifests.require_blob, manifest["alive"], alive)
        start = 0
        for entry in manifest["parts"]:
            end = start + (entry["rows"] + 7) // 8
            segment = await self._segment(f"{replica}/", entry, index.space.dim, keep=keep)
            bits = np.frombuffer(alive[start:end], np.uint8)
            segment.set_alive(
                np.unpackbits(bits, count=entry["rows"], bitorder="little").astype(bool)
            )
            target: Target = entry["target"]
            await asyncio.to_thread(index.add_restored, target, segment)
            start = end
        index.finish_restore(
            manifests.positions(manifest),
            manifests.highest(manifest),
            manifests.caught_up_at(manifest),
            manifest["reasons"],
        )
        if index.digests() != manifest["digests"]:
            raise SnapshotRefused("the rows do not have the digest that the manifest names")
        return LoadedSnapshot(index, manifest, len(raw))

    async def _segment(
        self, replica: str, entry: dict[str, Any], dim: int, *, keep: bool
    ) -> SealedSegment:
        """Map a segment from its entry in the manifest's `parts`."""
        paths = [await self._local(replica, blob, keep=keep) for blob in entry["blobs"]]
        vectors, columns, *ann = paths
        points = [from_members(OperatingPoint, point) for point in entry["points"]]
        files = SegmentFiles(
            entry["name"],
            entry["rows"],
            vectors,
            columns,
            ann[0] if ann else None,
            entry["kind"],
            points,
        )
        return await asyncio.to_thread(SealedSegment.mapped, files, dim)

    async def _local(self, replica: str, blob: Blob, *, keep: bool) -> Path:
        """Return a local file with the bytes of a segment's blob, compared with the manifest."""
        prefix = self._shard_prefix + replica
        folder = await self._files.folder_for(blob["name"].split("/")[1])
        try:
            path = await self._store.local(prefix + blob["name"], folder)
        except KeyError:
            raise SnapshotRefused(f"{blob['name']}: missing") from None
        if keep and prefix != self._own_prefix and path.parent != folder:
            # The other replica may delete this file at any time.
            path = await asyncio.to_thread(link_or_copy, path, folder / path.name)
        await asyncio.to_thread(manifests.require_file, blob, path)
        return path
