"""Helpers that the tests of the index store share: a space, records of it, a brute-force search."""

import asyncio
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contracts.events.embedding_record import encode_embedding
from contracts.events.record import Fetched, Record, Source, TopicPartition
from contracts.filters.nodes import BOOLEAN, LIST, NUMBER, STRING, json_type_of, list_type_of
from contracts.partitioner import partitioner
from contracts.ports.blob_store import BlobStore
from contracts.ports.hit import Hit, VectorQuery
from contracts.score import Vectors, unit
from contracts.space import Space
from contracts.topics import TARGETS, Names, Target
from index_store.index import Index
from index_store.merge.build_inputs import write_build_spec
from index_store.merge.build_process import build
from index_store.merge.built_segment import open_built_segment
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.pending_merge import PendingMerge
from index_store.segment.sealed import SealedSegment
from index_store.snapshot.store import SnapshotStore

SPACE = Space("unit-v1", "m", "1", "p", 16)
NAMES = Names("t.", SPACE.name)
IMAGES = TopicPartition(NAMES.embeddings("images"), 0)
TOPIC_IDS = {NAMES.embeddings(target): f"id-of-{target}" for target in TARGETS}
MURMUR2 = partitioner("murmur2")
# Below pytest's own temporary folder: see tests/conftest.py.
SPILLS = Path(tempfile.gettempdir()) / "tidelens-spills"


def new_index(
    growing_segment_rows: int = 64, topic_ids: dict[str, str] = TOPIC_IDS, partitions: int = 1
) -> Index:
    counts = dict.fromkeys(TARGETS, partitions)
    return Index(SPACE, NAMES, counts, topic_ids, growing_segment_rows=growing_segment_rows)


def record(
    offset: int,
    item_id: str,
    value: bytes | None,
    *,
    target: Target = "images",
    partition: int = 0,
    reason: str | None = None,
    source: bytes | None = None,
    appended_ms: int = 5,
) -> Record:
    headers = [
        ("source", source or Source("content", partition, offset).encode()),
        ("appended", str(appended_ms).encode()),
    ]
    if reason is not None:
        headers.append(("reason", reason.encode()))
    topic = NAMES.embeddings(target)
    return Record(topic, partition, offset, 9, item_id.encode(), value, headers)


def batch(*records: Record) -> Fetched:
    """Collect records of one or more partitions, with the positions right after them."""
    fetched = Fetched()
    for one in records:
        partition = TopicPartition(one.topic, one.partition)
        fetched.records.setdefault(partition, []).append(one)
        fetched.positions[partition] = one.offset + 1
    return fetched


def new_spill() -> SegmentFileStore:
    """Create a store of segment files in a new folder."""
    return SegmentFileStore(SPILLS / uuid.uuid4().hex)


def snapshots_in(store: BlobStore, prefix: str = "unit-v1/0/0/", *, kept: int = 1) -> SnapshotStore:
    return SnapshotStore(store, prefix, new_spill(), kept=kept)


async def built(
    index: Index,
    target: Target,
    merge: PendingMerge,
    spill: SegmentFileStore,
    index_type: str,
    like: SealedSegment | None = None,
) -> SealedSegment | None:
    """Build the sealed segment of a merge in this process, as the building process does."""
    rows = sum(part.live for part in merge.readers)
    if not rows:
        return None
    name, asked = uuid.uuid4().hex, vectors(3, dim=index.space.dim)
    async with spill.building(name, merge.readers) as out:
        spec = await write_build_spec(
            index, target, merge, spill, out, index_type=index_type, threads=1, recent=asked
        )
        if like is not None and like.files is not None:
            files = like.files
            spec = replace(
                spec, like=str(files.ann), index_type=like.index_type, points=files.points
            )
        await asyncio.to_thread(build, spec)
        return await asyncio.to_thread(open_built_segment, name, out, index.space.dim)


def vectors(count: int, seed: int = 5, dim: int = SPACE.dim) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def put(
    offset: int, item_id: str, vector: Vectors, target: Target = "images", **body: Any
) -> Record:
    return record(offset, item_id, encode_embedding(SPACE, vector, **body), target=target)


def filled(rows: Vectors, growing_segment_rows: int = 64) -> Index:
    """Return an index of images i0000, i0001, ... with these vectors."""
    index = new_index(growing_segment_rows)
    index.apply(batch(*(put(n, f"i{n:04}", row) for n, row in enumerate(rows))))
    return index


def brute_force(
    rows: dict[str, tuple[Vectors, str | None]], query: VectorQuery
) -> list[tuple[str, float]]:
    """Ids with scores by the plainest reading of the contract; `rows`: id -> vector, item."""
    narrow = query.vector.astype(np.float64)
    scored = sorted(
        (-float(sum((vector.astype(np.float64) * narrow).tolist())), item_id)
        for item_id, (vector, _) in rows.items()
    )
    if query.min_score is not None:
        scored = [(negated, item_id) for negated, item_id in scored if -negated >= query.min_score]
    kept, seen = [], set()
    for negated, item_id in scored:
        item = rows[item_id][1]
        if query.collapse and item is not None:
            if item in seen:
                continue
            seen.add(item)
        kept.append((item_id, -negated))
    return kept[query.offset : query.offset + query.k]


def types_by_field(live: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Collect the JSON types of the values in live items' metadata, those within lists too."""
    kinds: dict[str, set[str]] = {}
    for metadata in live:
        for name, value in metadata.items():
            found = {json_type_of(value)}
            if LIST in found:
                scalars = {json_type_of(member) for member in value} & {STRING, NUMBER, BOOLEAN}
                found = {list_type_of(member) for member in scalars if member} or {LIST}
            kinds.setdefault(name, set()).update(kind for kind in found if kind)
    return kinds


def pairs(hits: list[Hit]) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]
