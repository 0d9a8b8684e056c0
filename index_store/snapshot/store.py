"""Snapshots: a view's parts with the offsets they stand for, published last byte first.

Below PREFIX (SPACE/SHARD/REPLICA/):

    parts/PART/...        the files of an immutable part: vectors, columns, and its index if any
    NAME/alive            which rows of each part were live: bitmaps, one after the other
    NAME/manifest.json    what they stand for; size and SHA-256 of each blob and of itself
    pointer               NAME of the newest

Blobs are written first, then the manifest, then the pointer, so that whatever a crash leaves is
either whole or not published. NAMEs grow. A part that did not change is written once, unless the
store lost it: before a manifest is written, a listing has shown every blob that it names.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, MutableSequence, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from contracts import fault_points
from contracts.errors import SnapshotRefused
from contracts.events.format_version import from_members
from contracts.ports.blob_store import BlobStore
from contracts.topics import Target
from index_store.ann.faiss_index import OperatingPoint
from index_store.index import Index
from index_store.segment.file_store import SegmentFileStore, file_names_of
from index_store.segment.files import SegmentFiles, link_or_copy
from index_store.segment.sealed import SealedSegment
from index_store.snapshot import manifest as manifests
from index_store.snapshot.manifest import Blob, Manifest, ReplayState
from index_store.snapshot.needed_blobs import blobs_of
from index_store.snapshot.retention import OwnSnapshots
from index_store.view import IndexView

log = structlog.get_logger(__name__)

# This bounds the listing: a start should not wait longer for a store that never answers.
_LISTED_S = 20.0


class SnapshotStore:
    """Writes under its own replica's prefix, restores any replica's newest valid one.

    One instance at a time may write below `prefix`; `kept` snapshots stay. `spill` keeps the local
    files of parts.
    """

    def __init__(
        self, store: BlobStore, prefix: str, spill: SegmentFileStore, *, kept: int
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._shard_prefix = prefix.rstrip("/").rpartition("/")[0] + "/"
        self._kept = kept
        self._spill = spill
        self._writing = asyncio.Lock()
        # What this process wrote or read back whole; what was written before may have gone bad.
        self._written: dict[str, Sequence[Blob]] = {}
        self.own = OwnSnapshots(store, prefix)
        """The snapshots below `prefix`."""
        self.rewritten_blobs = 0
        """The number of blobs that the store had lost, and that were written again."""
        self.refused: dict[str, str] = {}
        """Snapshots that the last `restore` refused, with the reasons."""

    async def write(self, index: Index) -> str:
        """Write the index as it is once no other write goes on, and return the snapshot's name.

        Applying and searching go on meanwhile: everything is read from one view. Raises OSError.
        """
        async with self._writing:
            # Take the view only now: the write that this one waited for deletes the local files of
            # parts that a swap has replaced since.
            moment, view = ReplayState.of(index), index.view
            try:
                return await self._write(index, view, moment)
            finally:
                # Also of a failed one: what it needed a while ago may be what fills the disk.
                await self._delete_unused_files(index)

    async def _write(self, index: Index, view: IndexView, moment: ReplayState) -> str:
        # 0. What crashes left: it may be what fills the disk.
        finished, gone = await self.own.tidy(self._spill.in_use)
        self._forget(gone)
        # Names grow even when the clock does not.
        name = f"{max([time.time_ns(), *(int(old) + 1 for old in finished)]):020d}"
        known = set(self._written)
        try:
            # 1. The blobs.
            manifest = manifests.make_manifest(index, view, moment)
            files: MutableSequence[SegmentFiles] = []
            manifest |= await self._write_blobs(name, view, files)
            await self._write_lost(name, files, manifest)
            fault_points.reach("snapshot.blobs")
            # 2. The manifest, which vouches for them.
            raw = manifests.with_checksum(manifest)
            await self.own.write_and_read(f"{name}/manifest.json", raw)
            self.own.add(name, manifest, len(raw))
            fault_points.reach("snapshot.manifest")
            # 3. The pointer: from here on this is the newest.
            await self.own.write_and_read("pointer", name.encode())
            fault_points.reach("snapshot.pointer")
        except Exception:
            await self._abort_write(name, set(self._written) - known)
            raise
        # 4. What is no longer kept.
        for old in [*finished, name][: -self._kept]:
            await self.own.delete(old)
        self._forget(await self.own.delete_unneeded(self._spill.in_use))
        return name

    async def tidy(self, index: Index) -> None:
        """Delete local files that the index no longer needs, as after a swap."""
        if self._writing.locked():
            return  # that needs the files of its own view, and does the same at its end
        async with self._writing:
            await self._delete_unused_files(index)

    async def _delete_unused_files(self, index: Index) -> None:
        """Delete the local files of rows that are not in the index's view any more."""
        await self._spill.delete_others(lambda: file_names_of(chain(*index.view.readers.values())))

    async def list(self) -> list[str]:
        """Names below the shard's prefix (REPLICA/NAME) that have a manifest, best first.

        Those that a pointer names come first, then the newest.
        """
        names, _ = await self._listed()
        return [*names]

    async def _listed(self) -> tuple[Sequence[str], Sequence[str]]:
        """The same, and what pointers name beside these: lost, or not even a name."""
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
        """Of a snapshot that `list` named. Raises SnapshotRefused, OSError."""
        return manifests.read_manifest(await self._read(f"{name}/manifest.json"))

    async def restore(self, empty: Index, *, skip_unread: bool = False) -> Index | None:
        """An index like `empty` from the best valid snapshot of its log, or None.

        `empty` itself is not changed; `refused` tells why the snapshots passed over were refused.
        Raises OSError when the store fails, which says nothing about a snapshot; with
        `skip_unread` one that cannot be read is passed over as well.
        """
        self.refused = {}
        try:
            async with asyncio.timeout(_LISTED_S):
                names, lost = await self._listed()
        except TimeoutError:
            raise OSError(f"the store did not list its snapshots in {_LISTED_S:g} s") from None
        for name in [*lost, *names]:
            try:
                index = await self._load(name, empty, keep=True)
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

    def _refuse(self, name: str, reason: Exception) -> None:
        told = str(reason) if isinstance(reason, SnapshotRefused | OSError) else repr(reason)
        self.refused[name] = told
        log.warning("snapshot refused", snapshot=name, reason=told)

    async def verify(self, name: str, empty: Index) -> None:
        """Raise SnapshotRefused unless `name` (of `list`) restores to its digest, row by row.

        Raises OSError when the store fails.
        """
        index = await self._load(name, empty)
        if not await asyncio.to_thread(index.digests_match):
            raise SnapshotRefused("the rows do not have the digest that they were stored with")

    async def point_to(self, name: str) -> None:
        """Let the next start restore this own snapshot (NAME, without the replica)."""
        raw = await self._read(f"{self._own(name)}/manifest.json")
        await self.own.require_whole(name, manifests.read_manifest(raw), len(raw))
        await self.own.write_and_read("pointer", name.encode())

    def _own(self, name: str) -> str:
        return self._prefix.removeprefix(self._shard_prefix) + name

    async def _write_blobs(
        self, name: str, view: IndexView, written: MutableSequence[SegmentFiles]
    ) -> Manifest:
        """Write what is not there yet; what the manifest says of parts and bitmaps."""
        entries, bitmaps = [], []
        for target, parts in view.readers.items():
            for part in parts:
                files = await self._spill.write_out(part)
                written.append(files)
                bits = part.live_rows.bits[: (files.rows + 7) // 8]
                entries.append(
                    {
                        "target": target,
                        "name": files.name,
                        "rows": files.rows,
                        "live": part.live,
                        "kind": files.index_type,
                        "points": [asdict(point) for point in files.points],
                        "blobs": await self._write_part(files),
                    }
                )
                bitmaps.append(bits.tobytes())
        data = b"".join(bitmaps)
        await self._store.write(f"{self._prefix}{name}/alive", data)
        alive = {"name": "alive", "bytes": len(data), "sha256": manifests.sha256(data)}
        return {"parts": entries, "alive": alive}

    async def _write_lost(
        self, name: str, written: Sequence[SegmentFiles], manifest: Manifest
    ) -> None:
        """Write again what the store does not have. Raises OSError where it lacks it even then."""
        lost = await self._lost(name, manifest)
        if not lost:
            return
        log.warning("the store lacks blobs; they are written again", count=len(lost), first=lost[0])
        # Do not use the files that a part would get now: one that grows has more rows by now.
        for files, entry in zip(written, manifest["parts"], strict=True):
            if any(blob["name"] in lost for blob in entry["blobs"]):
                entry["blobs"] = await self._write_part(files, lost)
        still = await self._lost(name, manifest)
        if still:
            raise OSError(f"{still[0]}: written, but not in the store; {len(still)} are missing")
        self.rewritten_blobs += len(lost)

    async def _lost(self, name: str, manifest: Manifest) -> Sequence[str]:
        needs = dict(blobs_of(name, manifest, 0))
        del needs[f"{name}/manifest.json"]  # not written yet
        return await self.own.missing(needs)

    async def _write_part(self, files: SegmentFiles, lost: Collection[str] = ()) -> Sequence[Blob]:
        """Return its blobs; of those written before, only the `lost` ones are written again."""
        before = self._written.get(files.name)
        if before is not None and not lost:
            return before
        names = [f"parts/{files.name}/{path.name}" for path in files.paths]
        if before is not None:
            names = [blob["name"] for blob in before]
        blobs = []
        for n, (name, path) in enumerate(zip(names, files.paths, strict=True)):
            if before is not None and name not in lost:
                blobs.append(before[n])
                continue
            await self._store.upload(self._prefix + name, path)
            blobs.append(await asyncio.to_thread(manifests.describe_blob, name, path))
        self._written[files.name] = blobs
        return blobs

    async def _load(self, name: str, empty: Index, *, keep: bool = False) -> Index:
        """`keep`: this index will be used, so that its parts need not be written again."""
        replica, _, own = name.rpartition("/")
        if not own.isdecimal():
            raise SnapshotRefused(f"name: want the digits of a snapshot's, got {own[:40]!r}")
        index = empty.empty_copy()
        raw = await self._read(f"{name}/manifest.json")
        manifest = manifests.read_manifest(raw)
        manifests.require_same_log(manifest, index)
        alive = await self._read(f"{name}/alive")
        await asyncio.to_thread(manifests.require_blob, manifest["alive"], alive)
        start = 0
        for part in manifest["parts"]:
            end = start + (part["rows"] + 7) // 8
            segment = await self._segment(f"{replica}/", part, index.space.dim, keep=keep)
            bits = np.frombuffer(alive[start:end], np.uint8)
            segment.set_alive(
                np.unpackbits(bits, count=part["rows"], bitorder="little").astype(bool)
            )
            target: Target = part["target"]
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
        if keep and self._own(own) == name:
            self._written |= {part["name"]: part["blobs"] for part in manifest["parts"]}
            self.own.add(own, manifest, len(raw))
        return index

    async def _segment(
        self, replica: str, part: dict[str, Any], dim: int, *, keep: bool
    ) -> SealedSegment:
        paths = [await self._local(replica, blob, keep=keep) for blob in part["blobs"]]
        vectors, columns, *ann = paths
        points = [from_members(OperatingPoint, point) for point in part["points"]]
        files = SegmentFiles(
            part["name"],
            part["rows"],
            vectors,
            columns,
            ann[0] if ann else None,
            part["kind"],
            points,
        )
        return await asyncio.to_thread(SealedSegment.mapped, files, dim)

    async def _local(self, replica: str, blob: Blob, *, keep: bool) -> Path:
        prefix = self._shard_prefix + replica
        folder = await self._spill.folder_for(blob["name"].split("/")[1])
        try:
            path = await self._store.local(prefix + blob["name"], folder)
        except KeyError:
            raise SnapshotRefused(f"{blob['name']}: missing") from None
        if keep and prefix != self._prefix and path.parent != folder:
            # Another replica deletes its own file whenever it likes.
            path = await asyncio.to_thread(link_or_copy, path, folder / path.name)
        await asyncio.to_thread(manifests.require_file, blob, path)
        return path

    async def _read(self, name: str) -> bytes:
        try:
            return await self._store.read(self._shard_prefix + name)
        except KeyError:
            raise SnapshotRefused(f"{name}: missing") from None

    async def _abort_write(self, name: str, new: set[str]) -> None:
        """Half a snapshot would only keep a full disk full."""
        self._forget(new)
        try:
            await self.own.delete(name)
            await self.own.delete_unneeded(self._spill.in_use)
        except OSError as error:
            # The first error says more than this one; the next snapshot deletes what is left.
            log.warning("half a snapshot is left", snapshot=name, error=str(error))

    def _forget(self, parts: Iterable[str]) -> None:
        """Forget these parts, which are not in the store any more."""
        for part in parts:
            self._written.pop(part, None)
