"""Snapshots: a view's live rows with the offsets they stand for, published last byte first.

Below PREFIX (SPACE/SHARD/REPLICA/):

    NAME/TARGET-PART.vectors  live rows, float16, little-endian, row after row
    NAME/TARGET-PART.rows     one JSON array per line, in the same order
    NAME/manifest.json        what the rows stand for; size and SHA-256 of each blob and of itself
    pointer                   NAME of the newest

Blobs are written first, then the manifest, then the pointer, so that whatever a crash leaves is
either whole or not published. NAMEs grow. One blob at a time is in memory.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import orjson
import structlog

from contracts import faults
from contracts.errors import SnapshotRefused
from contracts.ports import BlobStore
from contracts.records import TopicPartition
from contracts.topics import Target
from index_store.index import Index
from index_store.reading import Reading
from index_store.rows import Numbers, Origin, Rows
from index_store.view import IndexView

log = structlog.get_logger(__name__)

FORMAT = 1
# Rows of one blob: 64 MiB of vectors at 512 dimensions.
_PART_ROWS = 65_536

Manifest = dict[str, Any]


class Snapshots:
    """Writes under its own replica's prefix, restores any replica's newest valid one.

    One instance at a time may write below `prefix`; `kept` snapshots stay.
    """

    def __init__(self, store: BlobStore, prefix: str, *, kept: int) -> None:
        self._store = store
        self._prefix = prefix
        self._shard_prefix = prefix.rstrip("/").rpartition("/")[0] + "/"
        self._kept = kept
        self._writing = asyncio.Lock()
        self.refused: dict[str, str] = {}
        """Snapshots that the last `restore` refused, with the reasons."""

    async def write(self, index: Index) -> str:
        """Write the index as it is now, and return the snapshot's name. Raises OSError.

        Applying and searching go on meanwhile: everything is read from one view.
        """
        # Older times with a newer view are safe, the other way round they would promise too much.
        caught_up_at = dict(index.caught_up_at)
        view = index.view
        async with self._writing:
            # 0. What crashes left: it may be what fills the disk.
            finished = await self._delete_unfinished()
            # Names grow even when the clock does not.
            name = f"{max([time.time_ns(), *(int(old) + 1 for old in finished)]):020d}"
            try:
                # 1. The blobs.
                blobs = [blob async for blob in self._write_blobs(name, view)]
                faults.reach("snapshot.blobs")
                # 2. The manifest, which vouches for them.
                manifest = _manifest(index, view, caught_up_at) | {"blobs": blobs}
                await self._store.write(f"{self._prefix}{name}/manifest.json", _sealed(manifest))
                faults.reach("snapshot.manifest")
                # 3. The pointer: from here on this is the newest.
                await self._store.write(f"{self._prefix}pointer", name.encode())
                faults.reach("snapshot.pointer")
            except OSError:
                await self._delete(name)
                raise
            # 4. What is no longer kept.
            for old in [*finished, name][: -self._kept]:
                await self._delete(old)
        return name

    async def list(self) -> list[str]:
        """Names below the shard's prefix (REPLICA/NAME) that have a manifest, best first.

        Those that a pointer names come first, then the newest.
        """
        blobs = await self._store.list(self._shard_prefix)
        replicas = [blob.removesuffix("pointer") for blob in blobs if blob.endswith("/pointer")]
        pointed = {
            replica + (await self._store.read(f"{replica}pointer")).decode("ascii", "replace")
            for replica in replicas
        }
        found = [b.removesuffix("/manifest.json") for b in blobs if b.endswith("/manifest.json")]
        found.sort(key=lambda name: (name in pointed, name.rpartition("/")[2]), reverse=True)
        return [name.removeprefix(self._shard_prefix) for name in found]

    async def restore(self, empty: Index) -> Index | None:
        """An index like `empty` from the best valid snapshot of its log, or None.

        `empty` itself is not changed; `refused` tells why the snapshots passed over were refused.
        """
        self.refused = {}
        for name in await self.list():
            try:
                index = await self._load(name, empty)
            except SnapshotRefused as refused:
                self.refused[name] = str(refused)
                log.warning("snapshot refused", snapshot=name, reason=str(refused))
            else:
                log.info("snapshot restored", snapshot=name)
                return index
        return None

    async def verify(self, name: str, empty: Index) -> None:
        """Raise SnapshotRefused unless `name` (of `list`) restores to its digest."""
        await self._load(name, empty)

    async def _write_blobs(self, name: str, view: IndexView) -> AsyncIterator[Manifest]:
        """Write the rows part by part; yields what the manifest says of each blob."""
        for target, part, pieces in _parts(view):
            for kind, make in (("vectors", _vectors), ("rows", _lines)):
                data, digest = await asyncio.to_thread(_hashed, make, pieces)
                blob = f"{target}-{part:05d}.{kind}"
                await self._store.write(f"{self._prefix}{name}/{blob}", data)
                yield {"name": blob, "bytes": len(data), "sha256": digest}

    async def _load(self, name: str, empty: Index) -> Index:
        index = empty.emptied()
        manifest = _opened(await self._read(f"{name}/manifest.json"))
        _require_same(manifest, index)
        blobs = manifest["blobs"]
        for vectors, rows in zip(blobs[::2], blobs[1::2], strict=True):
            target: Target = vectors["name"].partition("-")[0]
            data = [await self._checked(name, blob) for blob in (vectors, rows)]
            await asyncio.to_thread(_fill, index, target, *data)
        index.finish_restore(
            {partition: value for partition, (value,) in _by_partition(manifest["positions"])},
            {tp: ((topic_id, n), o) for tp, (topic_id, n, o) in _by_partition(manifest["highest"])},
            {partition: value for partition, (value,) in _by_partition(manifest["caught_up_at"])},
        )
        if index.digests() != manifest["digests"]:
            raise SnapshotRefused("the rows do not have the digest that the manifest names")
        return index

    async def _checked(self, name: str, blob: dict[str, Any]) -> bytes:
        data = await self._read(f"{name}/{blob['name']}")
        if len(data) != blob["bytes"]:
            raise SnapshotRefused(f"{blob['name']}: want {blob['bytes']} bytes, got {len(data)}")
        if await asyncio.to_thread(_sha256, data) != blob["sha256"]:
            raise SnapshotRefused(f"{blob['name']}: the bytes are not those written (SHA-256)")
        return data

    async def _read(self, name: str) -> bytes:
        try:
            return await self._store.read(self._shard_prefix + name)
        except KeyError:
            raise SnapshotRefused(f"{name}: missing") from None
        except OSError as error:
            raise SnapshotRefused(f"{name}: {error}") from error

    async def _delete_unfinished(self) -> Sequence[str]:
        """Delete our own snapshots without a manifest; the names of the others, ascending."""
        blobs = await self._store.list(self._prefix)
        names = {blob.removeprefix(self._prefix).partition("/")[0] for blob in blobs}
        finished = []
        for name in sorted(name for name in names if name.isdecimal()):
            if f"{self._prefix}{name}/manifest.json" in blobs:
                finished.append(name)
            else:
                await self._delete(name)
        return finished

    async def _delete(self, name: str) -> None:
        blobs = await self._store.list(f"{self._prefix}{name}/")
        # The manifest first: without it the rest is no snapshot any more.
        for blob in sorted(blobs, key=lambda blob: not blob.endswith("/manifest.json")):
            await self._store.delete(blob)


def _manifest(index: Index, view: IndexView, caught_up_at: dict[TopicPartition, float]) -> Manifest:
    return {
        "created": time.time(),
        "space": asdict(index.space) | {"fingerprint": index.space.fingerprint.hex()},
        "topic_ids": index.topic_ids,
        "partitions": index.partitions,
        "positions": [[*partition, value] for partition, value in view.positions.items()],
        "highest": [[*tp, *origin, offset] for tp, (origin, offset) in view.highest.items()],
        "caught_up_at": [[*partition, at] for partition, at in caught_up_at.items()],
        "digests": view.digests_by_partition(),
    }


def _sealed(manifest: Manifest) -> bytes:
    """With its own SHA-256, since nothing else vouches for offsets and times."""
    digest = _sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS))
    return orjson.dumps({"format": FORMAT, "sha256": digest, "manifest": manifest})


def _opened(raw: bytes) -> Manifest:
    """Raises SnapshotRefused."""
    try:
        sealed = orjson.loads(raw)
        found, digest, manifest = sealed["format"], sealed["sha256"], sealed["manifest"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SnapshotRefused(f"manifest.json: unreadable ({error!r})") from None
    if found != FORMAT:
        raise SnapshotRefused(f"format: this version reads {FORMAT}, got {found}")
    if _sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)) != digest:
        raise SnapshotRefused("manifest.json: the bytes are not those written (SHA-256)")
    result: Manifest = manifest
    return result


def _require_same(manifest: Manifest, index: Index) -> None:
    """A snapshot stands for one space and one log; of another it says nothing."""
    fingerprint = index.space.fingerprint.hex()
    if manifest["space"]["fingerprint"] != fingerprint:
        raise SnapshotRefused(
            f"space: want {index.space.name} ({fingerprint}), "
            f"got {manifest['space']['name']} ({manifest['space']['fingerprint']})"
        )
    for member, wanted in (("topic_ids", index.topic_ids), ("partitions", index.partitions)):
        if manifest[member] != wanted:
            raise SnapshotRefused(f"{member}: today {wanted}, the snapshot has {manifest[member]}")


Pieces = Sequence[tuple[Rows, Numbers]]


def _parts(view: IndexView) -> Iterator[tuple[Target, int, Pieces]]:
    """The live rows of each target, at most _PART_ROWS (and a chunk) at a time."""
    for target in view.parts:
        pieces: list[tuple[Rows, Numbers]] = []
        part = 0
        for rows, numbers in view.rows(target):
            pieces.append((rows, numbers))
            if sum(len(numbers) for _, numbers in pieces) >= _PART_ROWS:
                yield target, part, pieces
                pieces, part = [], part + 1
        if pieces:
            yield target, part, pieces


def _vectors(pieces: Pieces) -> bytes:
    return b"".join(rows.vectors[numbers].tobytes() for rows, numbers in pieces)


def _lines(pieces: Pieces) -> bytes:
    return b"".join(_line(rows, n) for rows, numbers in pieces for n in numbers.tolist())


def _line(rows: Rows, n: int) -> bytes:
    metadata = rows.metadata[n]
    members = [
        rows.ids[n],
        int(rows.partitions[n]),
        *rows.origins[n],
        int(rows.offsets[n]),
        int(rows.appended_ms[n]),
        rows.items[n],
        rows.texts[n],
        None if metadata is None else orjson.Fragment(metadata),
    ]
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def _fill(index: Index, target: Target, raw_vectors: bytes, raw_rows: bytes) -> None:
    """Put one part's rows into `index`."""
    size = 2 * index.space.dim
    origins: dict[Origin, Origin] = {}
    readings = []
    for number, line in enumerate(raw_rows.splitlines()):
        item_id, partition, topic_id, content, offset, appended_ms, *rest = orjson.loads(line)
        origin = origins.setdefault((topic_id, content), (topic_id, content))
        vector = raw_vectors[number * size : (number + 1) * size]
        readings.append(Reading(item_id, partition, origin, offset, appended_ms, vector, *rest))
    index.restore_rows(target, readings)


def _by_partition(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[TopicPartition, list[Any]]]:
    for topic, number, *values in rows:
        yield TopicPartition(topic, number), values


def _hashed(make: Callable[[Pieces], bytes], pieces: Pieces) -> tuple[bytes, str]:
    data = make(pieces)
    return data, _sha256(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
