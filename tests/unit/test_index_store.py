"""Views, blobs, snapshots and the matcher, case by case."""

from pathlib import Path

import numpy as np
import orjson
import pytest

from contracts.embedding import encode_value
from contracts.errors import NotReady
from contracts.hits import VectorQuery
from contracts.memory import MemoryBlobs
from contracts.partitioning import partitioner
from contracts.records import Fetched, Record, Source, TopicPartition
from contracts.score import unit
from contracts.space import Space
from contracts.topics import TARGETS, Names
from index_store.blobs import DiskBlobs
from index_store.index import Index
from index_store.matcher import NumpyMatcher
from index_store.rows import Chunk
from index_store.searcher import AppliedFeed, LocalSearcher
from index_store.snapshots import Snapshots

SPACE = Space("unit-v1", "m", "1", "p", 16)
NAMES = Names("t.", SPACE.name)
TOPIC = NAMES.embeddings("images")
TOPIC_IDS = {NAMES.embeddings(target): target for target in TARGETS}
DICE = np.random.default_rng(5)


def new_index(chunk_rows: int = 64, topic_ids: dict[str, str] = TOPIC_IDS) -> Index:
    return Index(SPACE, NAMES, dict.fromkeys(TARGETS, 1), topic_ids, chunk_rows=chunk_rows)


def record(offset: int, item_id: str, value: bytes | None, reason: bytes | None = None) -> Record:
    headers = [("source", Source("c", 0, offset).encode()), ("appended", b"5")]
    if reason:
        headers.append(("reason", reason))
    return Record(TOPIC, 0, offset, 9, item_id.encode(), value, headers)


def batch(*records: Record) -> Fetched:
    end = records[-1].offset + 1
    return Fetched({TopicPartition(TOPIC, 0): list(records)}, {TopicPartition(TOPIC, 0): end})


def filled(count: int, chunk_rows: int = 64) -> Index:
    index = new_index(chunk_rows)
    vectors = unit(DICE.standard_normal((count, 16)))
    index.apply(
        batch(*(record(n, f"i{n:04}", encode_value(SPACE, v)) for n, v in enumerate(vectors)))
    )
    return index


def test_hundreds_of_equal_vectors_come_in_order_of_id() -> None:
    index = new_index()
    same = encode_value(SPACE, unit(np.ones(16)))
    ids = [f"i{n:04}" for n in DICE.permutation(300)]
    index.apply(batch(*(record(n, item_id, same) for n, item_id in enumerate(ids))))
    query = VectorQuery("images", unit(np.ones(16)), k=20, offset=5)
    hits = index.view.search([query])[0]
    assert [hit.id for hit in hits] == sorted(ids)[5:25]


def test_sealed_and_growing_chunks_answer_alike_after_deletes() -> None:
    many, one = filled(500, chunk_rows=64), new_index(chunk_rows=1024)
    vectors = {
        r.id: c.vectors[n] for c in many.tables["images"].chunks for n, r in enumerate(c.rows)
    }
    one.apply(
        batch(*(record(n, i, encode_value(SPACE, v)) for n, (i, v) in enumerate(vectors.items())))
    )
    gone = [f"i{n:04}" for n in DICE.permutation(500)[:350]]
    for index in (many, one):
        index.apply(batch(*(record(500 + n, item, None) for n, item in enumerate(gone))))
    query = VectorQuery("images", unit(DICE.standard_normal(16)), k=200)
    first, second = many.view.search([query])[0], one.view.search([query])[0]
    assert [(h.id, h.score) for h in first] == [(h.id, h.score) for h in second]
    assert len(first) == 150


def test_endless_upserts_keep_memory_bounded() -> None:
    index = new_index(chunk_rows=32)
    for round_ in range(200):
        vectors = unit(DICE.standard_normal((16, 16)))
        start = round_ * 16
        index.apply(
            batch(
                *(record(start + n, f"i{n}", encode_value(SPACE, v)) for n, v in enumerate(vectors))
            )
        )
    assert index.count("images") == 16
    assert len(index.tables["images"].chunks) <= 4


def test_a_tombstone_keeps_its_reason_and_source() -> None:
    index = filled(3)
    changes = index.apply(batch(record(3, "i0001", None, b"image_broken: torn")))
    assert changes[0].removed == ["i0001"]
    assert index.reason_of("images", 0, 3) == "image_broken: torn"
    assert index.highest_source("images", 0) == 3
    assert index.get("images", "i0001") is None
    hit = index.get("images", "i0000")
    assert hit is not None and hit.source == ("t.images", 0, 0)


def test_a_full_chunk_is_sealed_and_drops_its_mirror() -> None:
    chunk = Chunk(16, 4)
    index = filled(4, chunk_rows=4)
    sealed = index.tables["images"].chunks[0]
    assert chunk.wide is not None and chunk.sealed is None
    assert sealed.wide is None and sealed.sealed.ntotal == 4


@pytest.mark.anyio
async def test_the_searcher_answers_only_when_ready() -> None:
    searcher = LocalSearcher()
    query = VectorQuery("images", unit(np.ones(16)))
    with pytest.raises(NotReady, match="starting"):
        await searcher.search([query])
    searcher.serve(filled(3))
    with pytest.raises(NotReady, match="replaying"):
        await searcher.search([query])
    searcher.ready()
    [answer] = await searcher.search([query])
    assert len(answer.hits) == 3
    assert answer.as_of.offsets["images"] == [3]
    searcher.not_ready("stale")
    with pytest.raises(NotReady, match="stale"):
        searcher.as_of()


def test_listeners_hear_of_batches_until_they_stop() -> None:
    feed, heard = AppliedFeed(), []
    stop = feed.listen(heard.append)
    feed.publish([])
    stop()
    feed.publish([])
    assert heard == [[]]


def test_the_matcher_nominates_whatever_may_reach_its_floor() -> None:
    queries, rows = unit(DICE.standard_normal((5000, 16))), unit(DICE.standard_normal((3, 16)))
    exact = (queries.astype(np.float64) @ rows.astype(np.float64).T).max(axis=1)
    floors = exact + DICE.choice([-0.1, 0.0, 0.1], 5000)
    nominated = set(NumpyMatcher().nominate(queries, floors, rows).tolist())
    assert set(np.flatnonzero(exact >= floors).tolist()) <= nominated
    assert not nominated & set(np.flatnonzero(exact < floors - 0.05).tolist())
    assert len(NumpyMatcher().nominate(queries[:0], floors[:0], rows)) == 0


@pytest.mark.anyio
async def test_blobs_on_disk(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path / "store")
    assert await blobs.list("a/") == []
    await blobs.write("a/b", b"1")
    await blobs.write("a/b", b"2")
    await blobs.write("c", b"3")
    assert await blobs.read("a/b") == b"2"
    assert await blobs.list("a/") == ["a/b"]
    await blobs.delete("a/b")
    await blobs.delete("a/b")
    with pytest.raises(KeyError):
        await blobs.read("a/b")
    for name in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(ValueError, match="not a blob name"):
            await blobs.read(name)


def tear(store: MemoryBlobs, name: str, blob: str) -> None:
    store.blobs[f"unit-v1/0/0/{name}/{blob}"] = store.blobs[f"unit-v1/0/0/{name}/{blob}"][:-3]


def flip(store: MemoryBlobs, name: str, blob: str) -> None:
    data = bytearray(store.blobs[f"unit-v1/0/0/{name}/{blob}"])
    data[len(data) // 2] ^= 1
    store.blobs[f"unit-v1/0/0/{name}/{blob}"] = bytes(data)


def lose(store: MemoryBlobs, name: str, blob: str) -> None:
    del store.blobs[f"unit-v1/0/0/{name}/{blob}"]


def age(store: MemoryBlobs, name: str, blob: str) -> None:
    manifest = orjson.loads(store.blobs[f"unit-v1/0/0/{name}/manifest.json"])
    manifest["format"] = 99
    store.blobs[f"unit-v1/0/0/{name}/manifest.json"] = orjson.dumps(manifest)


@pytest.mark.anyio
@pytest.mark.parametrize("harm", [tear, flip, lose, age])
@pytest.mark.parametrize("blob", ["images.vectors", "images.rows", "manifest.json"])
async def test_a_harmed_snapshot_is_refused_and_the_previous_used(harm, blob: str) -> None:
    store, index = MemoryBlobs(), filled(100)
    snapshots = Snapshots(store, "unit-v1/0/0/", kept=2)
    await snapshots.write(index)
    before = index.digests()
    index.apply(batch(record(100, "i0000", None)))
    newest = await snapshots.write(index)
    harm(store, newest, blob)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == before
    assert restored.verify()


@pytest.mark.anyio
async def test_snapshots_of_another_log_or_space_are_refused() -> None:
    store = MemoryBlobs()
    await Snapshots(store, "unit-v1/0/0/", kept=2).write(filled(10))
    snapshots = Snapshots(store, "unit-v1/0/1/", kept=2)  # another replica may use it
    assert await snapshots.restore(new_index()) is not None
    recreated = {**TOPIC_IDS, TOPIC: "another"}
    assert await snapshots.restore(new_index(topic_ids=recreated)) is None
    other = Space("unit-v1", "m", "2", "p", 16)
    assert (
        await snapshots.restore(Index(other, NAMES, dict.fromkeys(TARGETS, 1), TOPIC_IDS)) is None
    )


@pytest.mark.anyio
async def test_old_snapshots_go_and_replicas_are_left_alone() -> None:
    store, index = MemoryBlobs(), filled(10)
    other = Snapshots(store, "unit-v1/0/1/", kept=1)
    await other.write(index)
    snapshots = Snapshots(store, "unit-v1/0/0/", kept=2)
    names = [await snapshots.write(index) for _ in range(4)]
    listed = await snapshots.list()
    assert [name for name in listed if name.startswith("0/")] == [f"0/{n}" for n in names[:1:-1]]
    assert len([name for name in listed if name.startswith("1/")]) == 1


def test_partitions_are_those_of_the_partitioner() -> None:
    index = Index(SPACE, NAMES, dict.fromkeys(TARGETS, 2), TOPIC_IDS)
    wrong = 1 - partitioner("murmur2")(b"a", 2)
    bad = Record(
        TOPIC, wrong, 0, 0, b"a", encode_value(SPACE, unit(np.ones(16))), [("source", b"c:0:0")]
    )
    index.apply(Fetched({TopicPartition(TOPIC, wrong): [bad]}, {TopicPartition(TOPIC, wrong): 1}))
    assert (index.misplaced, index.count("images")) == (1, 0)
