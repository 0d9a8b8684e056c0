"""The blobs of a snapshot's segments: each is written once, unless the store loses it."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from contracts.ports.blob_store import BlobStore
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.files import SegmentFiles
from index_store.snapshot import manifest as manifests
from index_store.snapshot.manifest import Blob, Manifest
from index_store.snapshot.needed_blobs import blobs_of
from index_store.snapshot.retention import OwnSnapshots
from index_store.view import IndexView

log = structlog.get_logger(__name__)


class SegmentBlobs:
    """The blobs that this process wrote below `prefix`, or read back whole.

    Blobs of an earlier process that were not read back are written again, since they may be bad.
    Methods raise OSError.
    """

    def __init__(
        self, store: BlobStore, prefix: str, files: SegmentFileStore, own: OwnSnapshots
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._files = files
        self._own = own
        # By the segment's name.
        self._written: dict[str, Sequence[Blob]] = {}
        self.rewritten = 0
        """The number of blobs that the store had lost, and that were written again."""

    def names(self) -> set[str]:
        """Return the names of the segments whose blobs are written."""
        return set(self._written)

    def add(self, manifest: Manifest) -> None:
        """Count the segments of a snapshot as written, after they were read back whole."""
        self._written |= {entry["name"]: entry["blobs"] for entry in manifest["parts"]}

    def forget(self, names: Iterable[str]) -> None:
        """Forget these segments, which are not in the store any more."""
        for name in names:
            self._written.pop(name, None)

    async def write(self, name: str, view: IndexView) -> Manifest:
        """Write what snapshot `name` of `view` needs; return the manifest's `parts` and `alive`.

        The bitmaps of live rows go into one blob, in the order of `parts`. A listing shows that
        the store has every blob; those that it lost are written again.
        """
        entries: list[dict[str, Any]] = []
        bitmaps: list[bytes] = []
        written: list[SegmentFiles] = []
        for target, readers in view.readers.items():
            for reader in readers:
                files = await self._files.write_out(reader)
                written.append(files)
                bitmaps.append(reader.live_rows.bits[: (files.rows + 7) // 8].tobytes())
                entries.append(
                    {
                        "target": target,
                        "name": files.name,
                        "rows": files.rows,
                        "live": reader.live,
                        "kind": files.index_type,
                        "points": [asdict(point) for point in files.points],
                        "blobs": await self._write_segment(files),
                    }
                )
        data = b"".join(bitmaps)
        await self._store.write(f"{self._prefix}{name}/alive", data)
        alive = {"name": "alive", "bytes": len(data), "sha256": manifests.sha256(data)}
        manifest: Manifest = {"parts": entries, "alive": alive}
        await self._write_lost(name, written, manifest)
        return manifest

    async def _write_lost(
        self, name: str, written: Sequence[SegmentFiles], manifest: Manifest
    ) -> None:
        """Write again what the store does not have. Raises OSError where it lacks it even then."""
        lost = await self._lost(name, manifest)
        if not lost:
            return
        log.warning("the store lacks blobs; they are written again", count=len(lost), first=lost[0])
        # Use the files from before: a growing segment has more rows by now, so other files.
        for files, entry in zip(written, manifest["parts"], strict=True):
            if any(blob["name"] in lost for blob in entry["blobs"]):
                entry["blobs"] = await self._write_segment(files, lost)
        still = await self._lost(name, manifest)
        if still:
            raise OSError(f"{still[0]}: written, but not in the store; {len(still)} are missing")
        self.rewritten += len(lost)

    async def _lost(self, name: str, manifest: Manifest) -> Sequence[str]:
        needs = dict(blobs_of(name, manifest, 0))
        del needs[f"{name}/manifest.json"]  # not written yet
        return await self._own.missing(needs)

    async def _write_segment(
        self, files: SegmentFiles, lost: Collection[str] = ()
    ) -> Sequence[Blob]:
        """Return a segment's blobs; write all, or only the `lost` ones if it was written before."""
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
