"""The snapshots of a shard: the segments of a view, and the offsets up to which they are applied.

Below PREFIX (SPACE/SHARD/REPLICA/):

    parts/SEGMENT/...     the files of a segment's rows: vectors, columns, and its index if any
    NAME/alive            the rows of each segment that were live: bitmaps, one after the other
    NAME/manifest.json    the offsets, and the size and SHA-256 of each blob and of itself
    pointer               the NAME of the newest snapshot

Blobs are written first, then the manifest, then the pointer, so that whatever a crash leaves is
either whole or not published. A newer snapshot has a larger NAME. Rows that did not change are
written once, unless the store lost them: before a manifest is written, a listing has shown every
blob that it names.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

import structlog

from contracts import fault_points
from contracts.errors import SnapshotRefused
from contracts.ports.blob_store import BlobStore
from index_store.index import Index
from index_store.segment.file_store import SegmentFileStore, file_names_of
from index_store.snapshot import manifest as manifests
from index_store.snapshot.loader import SnapshotLoader
from index_store.snapshot.manifest import Manifest, ReplayState
from index_store.snapshot.retention import OwnSnapshots
from index_store.snapshot.segment_blobs import SegmentBlobs
from index_store.view import IndexView

log = structlog.get_logger(__name__)

# Seconds that a listing may take: a start should not wait longer for a store that never answers.
_LISTED_S = 20.0


class SnapshotStore:
    """A store that writes below its replica's prefix, and restores from any replica's snapshots.

    One instance at a time may write below `prefix`; the newest `kept` snapshots stay. `files` are
    the local files of segments.
    """

    def __init__(
        self, store: BlobStore, prefix: str, files: SegmentFileStore, *, kept: int
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._shard_prefix = prefix.rstrip("/").rpartition("/")[0] + "/"
        self._kept = kept
        self._files = files
        self._writing = asyncio.Lock()
        self.own = OwnSnapshots(store, prefix)
        """The snapshots below `prefix`."""
        self._blobs = SegmentBlobs(store, prefix, files, self.own)
        self._loader = SnapshotLoader(store, self._shard_prefix, prefix, files)
        self.refused: dict[str, str] = {}
        """Snapshots that the last `restore` refused, with the reasons."""

    @property
    def rewritten_blobs(self) -> int:
        """The number of blobs that the store had lost, and that were written again."""
        return self._blobs.rewritten

    async def write(self, index: Index) -> str:
        """Write the index as it is once no other write goes on, and return the snapshot's name.

        Applying and searching go on meanwhile: everything is read from one view. Raises OSError.
        """
        async with self._writing:
            # Take the view only now: the write that this one waited for deletes the local files of
            # segments that a merge has replaced since.
            state, view = ReplayState.of(index), index.view
            try:
                return await self._write(index, view, state)
            finally:
                # A failed write does this too: the files of earlier views may fill the disk.
                await self._delete_unused_files(index)

    async def _write(self, index: Index, view: IndexView, state: ReplayState) -> str:
        # 0. Delete what crashes left: it may be what fills the disk.
        finished, gone = await self.own.tidy(self._files.in_use)
        self._blobs.forget(gone)
        # Names grow even when the clock does not.
        name = f"{max([time.time_ns(), *(int(old) + 1 for old in finished)]):020d}"
        known = self._blobs.names()
        try:
            # 1. Write the blobs.
            manifest = manifests.make_manifest(index, view, state)
            manifest |= await self._blobs.write(name, view)
            fault_points.reach("snapshot.blobs")
            # 2. Write the manifest, which makes them a snapshot.
            raw = manifests.with_checksum(manifest)
            await self.own.write_and_read(f"{name}/manifest.json", raw)
            self.own.add(name, manifest, len(raw))
            fault_points.reach("snapshot.manifest")
            # 3. Write the pointer: from here on this snapshot is the newest.
            await self.own.write_and_read("pointer", name.encode())
            fault_points.reach("snapshot.pointer")
        except Exception:
            await self._abort_write(name, self._blobs.names() - known)
            raise
        # 4. Delete the snapshots that are no longer kept.
        for old in [*finished, name][: -self._kept]:
            await self.own.delete(old)
        self._blobs.forget(await self.own.delete_unneeded(self._files.in_use))
        return name

    async def _abort_write(self, name: str, new: set[str]) -> None:
        """Delete an unfinished snapshot and its `new` segments, which may have filled the disk."""
        self._blobs.forget(new)
        try:
            await self.own.delete(name)
            await self.own.delete_unneeded(self._files.in_use)
        except OSError as error:
            # The first error says more than this one; the next snapshot deletes what is left.
            log.warning(
                "an unfinished snapshot could not be deleted", snapshot=name, error=str(error)
            )

    async def tidy(self, index: Index) -> None:
        """Delete local files that the index no longer needs, as after a merge."""
        if self._writing.locked():
            return  # a write needs the files of its own view, and does the same at its end
        async with self._writing:
            await self._delete_unused_files(index)

    async def _delete_unused_files(self, index: Index) -> None:
        """Delete the local files of rows that are not in the index's view any more."""
        await self._files.delete_others(lambda: file_names_of(chain(*index.view.readers.values())))

    async def list(self) -> list[str]:
        """List the names (REPLICA/NAME) below the shard's prefix that have a manifest, best first.

        Those that a pointer names come first, then the newest. Raises OSError.
        """
        names, _ = await self._listed()
        return [*names]

    async def _listed(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return what `list` does, and the names in pointers that have no manifest."""
        blobs = await self._store.list(self._shard_prefix)
        found = [b.removesuffix("/manifest.json") for b in blobs if b.endswith("/manifest.json")]
        pointed = set()
        for blob in blobs:
            if blob.endswith("/pointer"):
                with suppress(KeyError):  # deleted since
                    name = (await self._store.read(blob)).decode("ascii", "replace")
                    pointed.add(blob.removesuffix("pointer") + name)
        found.sort(key=lambda name: (name in pointed, name.rpartition("/")[2]), reverse=True)
        without = len(self._shard_prefix)
        lost = sorted(pointed - set(found))
        return [name[without:] for name in found], [name[without:] for name in lost]

    async def manifest(self, name: str) -> Manifest:
        """Read the manifest of a snapshot that `list` named. Raises SnapshotRefused, OSError."""
        return manifests.read_manifest(await self._loader.read(f"{name}/manifest.json"))

    async def restore(self, empty: Index, *, skip_unread: bool = False) -> Index | None:
        """Return an index like `empty` from the best valid snapshot of its log, or None.

        `empty` itself is not changed; `refused` holds the reasons why snapshots were passed over.
        Raises OSError when the store fails, which says nothing about a snapshot; with
        `skip_unread` a snapshot that cannot be read is passed over as well.
        """
        self.refused = {}
        for name in await self._names_to_try():
            try:
                index = await self._load_for_use(name, empty)
            except SnapshotRefused as refused:
                self._refuse(name, refused)
            except OSError as error:
                if not skip_unread:
                    raise
                self._refuse(name, error)
            except Exception as error:
                # The log has everything too, so an unforeseen error must not keep a node from
                # starting.
                log.error("snapshot unreadable", snapshot=name, exc_info=error)
                self._refuse(name, error)
            else:
                log.info("snapshot restored", snapshot=name)
                return index
        return None

    async def _names_to_try(self) -> Sequence[str]:
        """List the names to restore from; those without a manifest come first, to be refused."""
        try:
            async with asyncio.timeout(_LISTED_S):
                names, lost = await self._listed()
        except TimeoutError:
            raise OSError(f"the store did not list its snapshots in {_LISTED_S:g} s") from None
        return [*lost, *names]

    async def _load_for_use(self, name: str, empty: Index) -> Index:
        """Load a snapshot; if it is this replica's, its blobs will not be written again."""
        loaded = await self._loader.load(name, empty, keep=True)
        own = name.rpartition("/")[2]
        if self._own(own) == name:
            self._blobs.add(loaded.manifest)
            self.own.add(own, loaded.manifest, loaded.manifest_bytes)
        return loaded.index

    def _refuse(self, name: str, reason: Exception) -> None:
        text = str(reason) if isinstance(reason, SnapshotRefused | OSError) else repr(reason)
        self.refused[name] = text
        log.warning("snapshot refused", snapshot=name, reason=text)

    async def verify(self, name: str, empty: Index) -> None:
        """Raise SnapshotRefused unless `name` (of `list`) restores to its digest, row by row.

        Raises OSError when the store fails.
        """
        loaded = await self._loader.load(name, empty)
        if not await asyncio.to_thread(loaded.index.digests_match):
            raise SnapshotRefused("the rows do not have the digest that they were stored with")

    async def point_to(self, name: str) -> None:
        """Make this replica's snapshot NAME the one that the next start restores.

        Raises SnapshotRefused unless it is whole, and OSError.
        """
        raw = await self._loader.read(f"{self._own(name)}/manifest.json")
        await self.own.require_whole(name, manifests.read_manifest(raw), len(raw))
        await self.own.write_and_read("pointer", name.encode())

    def _own(self, name: str) -> str:
        """Return REPLICA/NAME of this replica's snapshot NAME."""
        return self._prefix.removeprefix(self._shard_prefix) + name
