"""Snapshots: a view's live rows with the offsets they stand for, published last byte first.

Below PREFIX (SPACE/SHARD/REPLICA/):

    NAME/TARGET.vectors   live rows, float16, little-endian, row after row
    NAME/TARGET.rows      one JSON array per line: id, item, text, metadata, source, times
    NAME/manifest.json    format, space, topic ids, offsets, digests, size and SHA-256 of each blob
    pointer               NAME of the newest

Blobs are written first, then the manifest, then the pointer, so that whatever a crash leaves is
either whole or not pointed at. NAME sorts by time.
"""

import asyncio
import hashlib
import time
from typing import Any

import numpy as np
import orjson
import structlog

from contracts import faults
from contracts.errors import SnapshotRefused
from contracts.ports import BlobStore
from contracts.records import Source, TopicPartition
from contracts.topics import TARGETS, Target
from index_store import digest
from index_store.index import Index
from index_store.rows import Row
from index_store.view import IndexView

log = structlog.get_logger(__name__)

FORMAT = 1


class Snapshots:
    """Writes under its own replica's prefix, restores any replica's newest valid one."""

    def __init__(self, store: BlobStore, prefix: str, *, kept: int) -> None:
        self._store = store
        self._prefix = prefix
        self._shard_prefix = prefix.rstrip("/").rpartition("/")[0] + "/"
        self._kept = kept

    async def write(self, index: Index) -> str:
        """Write the state as it is now; returns the snapshot's name."""
        # Everything of the manifest is taken here, before the first await, from one state.
        view, head = index.view, _head(index)
        blobs = await asyncio.to_thread(_blobs, view)
        name = f"{time.time_ns():020d}"
        # 1. The blobs.
        for blob, data in blobs.items():
            await self._store.write(f"{self._prefix}{name}/{blob}", data)
        faults.reach("snapshot.blobs")
        # 2. The manifest, which vouches for them.
        head["blobs"] = {
            blob: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for blob, data in blobs.items()
        }
        await self._store.write(f"{self._prefix}{name}/manifest.json", orjson.dumps(head))
        faults.reach("snapshot.manifest")
        # 3. The pointer: from here on this is the newest.
        await self._store.write(f"{self._prefix}pointer", name.encode())
        faults.reach("snapshot.pointer")
        # 4. What is no longer kept.
        await self._delete_old()
        return name

    async def list(self) -> list[str]:
        """Names below the shard's prefix (REPLICA/NAME) that have a manifest, newest first."""
        blobs = await self._store.list(self._shard_prefix)
        found = [
            blob.removeprefix(self._shard_prefix).removesuffix("/manifest.json")
            for blob in blobs
            if blob.endswith("/manifest.json")
        ]
        return sorted(found, key=lambda name: name.rpartition("/")[2], reverse=True)

    async def restore(self, empty: Index) -> Index | None:
        """`empty` filled from the newest valid snapshot of its log, or None."""
        for name in await self.list():
            try:
                await self._load(name, empty)
                log.info("snapshot restored", snapshot=name)
                return empty
            except SnapshotRefused as refused:
                log.warning("snapshot refused", snapshot=name, reason=str(refused))
                empty = _emptied(empty)
        return None

    async def verify(self, name: str, empty: Index) -> None:
        """Raise SnapshotRefused unless `name` restores to the digest it was written with."""
        await self._load(name, empty)

    async def _load(self, name: str, empty: Index) -> None:
        manifest = await self._manifest(name)
        _require_same(manifest, empty)
        for target in TARGETS:
            vectors = await self._blob(name, manifest, f"{target}.vectors")
            rows = await self._blob(name, manifest, f"{target}.rows")
            await asyncio.to_thread(_fill, empty, target, vectors, rows)
        empty.finish_restore(
            _read_partitions(manifest["positions"]),
            _read_partitions(manifest["sources"]),
            _read_partitions(manifest["caught_up_at"]),
        )
        if empty.digests() != manifest["digests"]:
            raise SnapshotRefused("the rows do not have the digest that the manifest names")

    async def _manifest(self, name: str) -> dict[str, Any]:
        try:
            raw = await self._store.read(f"{self._shard_prefix}{name}/manifest.json")
            manifest = orjson.loads(raw)
            if manifest["format"] > FORMAT:
                raise SnapshotRefused(f"format: know up to {FORMAT}, got {manifest['format']}")
        except (KeyError, TypeError, orjson.JSONDecodeError) as error:
            raise SnapshotRefused(f"manifest: unreadable ({error})") from None
        assert isinstance(manifest, dict)
        return manifest

    async def _blob(self, name: str, manifest: dict[str, Any], blob: str) -> bytes:
        expected = manifest["blobs"].get(blob)
        try:
            data = await self._store.read(f"{self._shard_prefix}{name}/{blob}")
        except KeyError:
            raise SnapshotRefused(f"{blob}: missing") from None
        if expected is None or len(data) != expected["bytes"]:
            raise SnapshotRefused(f"{blob}: want {expected}, got {len(data)} bytes")
        found = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if found != expected["sha256"]:
            raise SnapshotRefused(f"{blob}: SHA-256 differs, the bytes are not those written")
        return data

    async def _delete_old(self) -> None:
        blobs = await self._store.list(self._prefix)
        names = sorted({b.removeprefix(self._prefix).partition("/")[0] for b in blobs if "/" in b})
        names = [name for name in names if name.isdecimal()]
        for name in names[: -self._kept]:
            # The manifest first: without it the rest is no snapshot any more.
            mine = [blob for blob in blobs if blob.startswith(f"{self._prefix}{name}/")]
            for blob in sorted(mine, key=lambda blob: not blob.endswith("manifest.json")):
                await self._store.delete(blob)


def _head(index: Index) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "created": time.time(),
        "space": {"name": index.space.name, "fingerprint": index.space.fingerprint.hex()},
        "topic_ids": index.topic_ids,
        "partitions": index.partitions,
        "positions": _partitions(index.positions),
        "sources": _partitions(index.sources),
        "caught_up_at": _partitions(index.caught_up_at),
        "digests": index.digests(),
    }


def _blobs(view: IndexView) -> dict[str, bytes]:
    """Live rows of every chunk of one view."""
    blobs = {}
    for target, chunks in view.chunks.items():
        vectors, lines = [], []
        for chunk in chunks:
            live = chunk.live_rows()
            vectors.append(chunk.chunk.vectors[live].astype("<f2", copy=False).tobytes())
            lines += [_line(chunk.chunk.rows[number]) for number in live]
        blobs[f"{target}.vectors"] = b"".join(vectors)
        blobs[f"{target}.rows"] = b"".join(lines)
    return blobs


def _line(row: Row) -> bytes:
    members = [
        row.id,
        row.item,
        row.text,
        row.metadata,
        row.source.topic_id,
        row.source.partition,
        row.source.offset,
        row.appended_ms,
        row.partition,
    ]
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def _fill(index: Index, target: Target, raw_vectors: bytes, raw_rows: bytes) -> None:
    vectors = np.frombuffer(raw_vectors, "<f2").reshape(-1, index.space.dim)
    rows = []
    for line, vector in zip(raw_rows.splitlines(), vectors, strict=True):
        item_id, item, text, metadata, topic_id, part, offset, appended, partition = orjson.loads(
            line
        )
        source = Source(topic_id, part, offset)
        hashed = digest.item_hash(target, item_id, source, vector.tobytes(), item, text, metadata)
        rows.append(Row(item_id, item, text, metadata, source, appended, partition, hashed))
    index.restore(target, rows, vectors)


def _require_same(manifest: dict[str, Any], index: Index) -> None:
    """A snapshot stands for one space and one log; of another it says nothing."""
    expected = {
        "space": {"name": index.space.name, "fingerprint": index.space.fingerprint.hex()},
        "topic_ids": index.topic_ids,
        "partitions": index.partitions,
    }
    for member, value in expected.items():
        if manifest.get(member) != value:
            raise SnapshotRefused(f"{member}: today {value}, the snapshot has {manifest[member]}")


def _emptied(index: Index) -> Index:
    """A fresh index of the same log, after a half-done restore."""
    return Index(
        index.space,
        index.names,
        index.partitions,
        index.topic_ids,
        partition_of=index.partition_of,
        chunk_rows=index.chunk_rows,
    )


def _partitions(values: dict[TopicPartition, Any]) -> list[list[Any]]:
    return [[topic, number, value] for (topic, number), value in values.items()]


def _read_partitions(values: list[list[Any]]) -> dict[TopicPartition, Any]:
    return {TopicPartition(topic, number): value for topic, number, value in values}
