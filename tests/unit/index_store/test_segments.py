"""Sealed segments: a real child process builds them, merges commit them, and searches use them."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.errors import ConfigurationError, RebuildFailed, SnapshotRefused
from contracts.filters.json_form import parse
from contracts.filters.nodes import Filter
from contracts.ports.hit import Hit, VectorQuery
from contracts.score import Vectors, unit
from contracts.testing.blob_store import MemoryBlobStore
from index_store.ann import choice, flat
from index_store.ann.faiss_index import AnnIndex, OperatingPoint
from index_store.index import Index
from index_store.merge import build_process as build_module
from index_store.merge import run as rebuild_module
from index_store.merge.build_process import BuildSpec
from index_store.merge.policy import MergePlan, due_merge
from index_store.merge.run import MergeRunner
from index_store.segment import columns
from index_store.segment.file_store import SegmentFileStore
from index_store.view import IndexView
from tests.kits.index_kit import (
    IMAGES,
    SPACE,
    batch,
    brute_force,
    built,
    new_index,
    new_spill,
    pairs,
    put,
    record,
    snapshots_in,
    vectors,
)

pytestmark = pytest.mark.anyio

ROWS = 3000


CENTRES = 30


def clustered(count: int, seed: int) -> Vectors:
    """Return `count` unit vectors (count, dim) around a few centres, as embeddings are."""
    centres = np.random.default_rng(9).standard_normal((CENTRES, SPACE.dim))
    noise = np.random.default_rng(seed + 1000).normal(0, 0.4, (count, SPACE.dim))
    return unit(centres[clusters(count, seed)] + noise)


def clusters(count: int, seed: int) -> NDArray[np.int64]:
    """Return the number of the centre (count,) that each row of `clustered` is around."""
    return np.random.default_rng(seed).integers(CENTRES, size=count)


def body(n: int) -> Mapping[str, Any]:
    return {"half": n % 2, "hundredth": n % 100, "one": n}


def grown(count: int = ROWS) -> Index:
    index = new_index(256)
    rows = clustered(count, 1)
    index.apply(batch(*(put(n, f"i{n:04}", row, metadata=body(n)) for n, row in enumerate(rows))))
    return index


@pytest.fixture(scope="module")
def model() -> dict[str, tuple[Vectors, str | None]]:
    return {f"i{n:04}": (row, None) for n, row in enumerate(clustered(ROWS, 1))}


KINDS = [
    "Flat",
    "IVF16,Flat",
    "IVF16,SQ8",
    "IVF16,PQ8",
    "IVF,PQ8x4fs",
    "OPQ8,IVF16,PQ8",
    "HNSW16",
    "HNSW16_SQ8",
]


@pytest.mark.parametrize("index_type", KINDS)
async def test_a_rebuilt_index_answers_as_before(
    index_type: str, model: dict[str, tuple[Vectors, str | None]]
) -> None:
    index = grown()
    digests, before = index.digests(), index.view
    done = await MergeRunner(new_spill(), index_type=index_type).run(index, "images")
    assert done.rows == ROWS
    table = index.segments_of("images")
    assert (len(table.sealed_segments), len(table.growing_segments)) == (1, 0)
    assert index.digests() == digests
    assert index.digests_match()
    queries = [VectorQuery("images", row) for row in clustered(50, 2)]
    expected = [brute_force(model, query) for query in queries]
    # An exact search is exact, in the old view too, and the ANN index finds nearly all.
    assert [pairs(hits) for hits in index.view.search(queries)] == expected
    assert [pairs(hits) for hits in before.search(queries)] == expected
    found = index.view.search(queries, recall=0.95)
    right = sum(len({*pairs(f)} & {*e}) for f, e in zip(found, expected, strict=True))
    assert right >= 0.9 * 50 * 10
    hit = index.get("images", "i0007")
    assert hit is not None
    assert hit.metadata == body(7)
    assert hit.source.offset == 7


async def test_what_dies_before_and_after_a_new_segment_catches_up_is_dead_in_it() -> None:
    index = grown(300)
    merge = index.begin_merge("images")
    segment = await built(index, "images", merge, new_spill(), "IVF4,SQ8")
    assert segment is not None
    for start in (0, 50):
        at = index.positions[IMAGES]
        gone = [record(at + n, f"i{start + n:04}", None) for n in range(50)]
        index.apply(batch(*gone, put(at + 50, f"i{start + 200:04}", clustered(1, start)[0])))
        if not start:
            index.apply_missed_deletes("images", merge, segment)
            assert segment.live == 249
    index.commit_merge("images", merge, segment)
    assert segment.live == 198
    assert index.count("images") == 200
    assert index.digests_match()
    query = VectorQuery("images", clustered(1, 5)[0], k=300)
    [hits] = await asyncio.to_thread(index.view.search, [query])
    assert {hit.id for hit in hits} == {f"i{n:04}" for n in range(100, 300)}


async def test_what_a_filter_admits_is_known_only_of_the_rows_it_was_asked_of() -> None:
    """A repeated filter is cheap, and its answer contains what changed in between."""
    index = grown()
    await MergeRunner(new_spill(), index_type="IVF16,SQ8").run(index, "images")
    condition = parse({"eq": {"hundredth": 7}})
    query = VectorQuery("images", clustered(1, 5)[0], k=100, filter=condition)
    assert index.view.cost_ms(query, 0.95) == float("inf")

    async def searched(view: IndexView) -> list[Hit]:
        # A search runs in a thread, as the searcher does it for a new filter.
        [hits] = await asyncio.to_thread(view.search, [query], recall=0.95)
        return hits

    before = await searched(index.view)
    assert index.view.cost_ms(query, 0.95) < 1
    old = index.view
    at = index.positions[IMAGES]
    gone, changed = before[0].id, before[1]
    vector = clustered(ROWS, 1)[int(changed.id[1:])]
    index.apply(
        batch(
            record(at, gone, None),
            put(at + 1, changed.id, vector, metadata=body(int(changed.id[1:])) | {"hundredth": 8}),
            put(at + 2, "i9907", vector, metadata=body(9907)),
        )
    )
    after = await searched(index.view)
    ids = {hit.id for hit in before} - {gone, changed.id} | {"i9907"}
    assert {hit.id for hit in after} == ids
    assert pairs(await searched(old)) == pairs(before)


@pytest.mark.parametrize(
    ("condition", "share"),
    [
        ({"eq": {"half": 1}}, 2),
        ({"eq": {"hundredth": 7}}, 100),
        ({"range": {"one": {"gte": 100, "lt": 103}}}, 1000),
        ({"eq": {"one": -1}}, None),
    ],
)
async def test_a_filtered_search_finds_k_where_there_are_k(
    condition: dict[str, Any],
    share: int | None,
    model: dict[str, tuple[Vectors, str | None]],
) -> None:
    index = grown()
    await MergeRunner(new_spill(), index_type="IVF16,SQ8").run(index, "images")
    # Some sealed rows are deleted, and there are growing rows beside the segment.
    gone = [record(ROWS + n, f"i{n:04}", None) for n in range(0, 300, 3)]
    index.apply(batch(*gone))
    new = clustered(200, 3)
    at = index.positions[IMAGES]
    index.apply(batch(*(put(at + n, f"n{n}", row, metadata=body(n)) for n, row in enumerate(new))))
    admitted = parse(condition)
    live = {
        item_id: found
        for item_id, found in model.items()
        if item_id not in {g.key.decode() for g in gone if g.key}
    }
    live |= {f"n{n}": (row, None) for n, row in enumerate(new)}
    live = {i: found for i, found in live.items() if admitted.matches(body(int(i[1:])))}
    if share is not None:
        assert live
    for row in clustered(20, 2):
        query = VectorQuery("images", row, filter=admitted)
        expected = brute_force(live, query)
        # A search runs in a thread, as on a node, since it adds new rows to the metadata index.
        [hits] = await asyncio.to_thread(index.view.search, [query])
        assert pairs(hits) == expected
        [near] = await asyncio.to_thread(index.view.search, [query], recall=0.95)
        assert len(near) == len(expected) == min(10, len(live))
        assert {*pairs(near)} <= {*brute_force(live, VectorQuery("images", row, k=10_000))}


def filters_near(cluster: int) -> Mapping[str, Filter | None]:
    """Return filters for a query near the centre `cluster`, some of them related to the centre.

    The keys are names for the failure message; None stands for no filter.
    """
    half, other = ([c for c in range(CENTRES) if c % 2 == (cluster + n) % 2] for n in range(2))
    third = {"eq": {"third": 1}}
    conditions: dict[str, dict[str, Any]] = {
        "half": {"eq": {"half": 1}},
        "half, its own": {"in": {"cluster": half}},
        "half, the other": {"in": {"cluster": other}},
        "all but its own": {"not": {"eq": {"cluster": cluster}}},
        "hundredth": {"eq": {"hundredth": 7}},
        "hundredth, its own": {"and": [{"eq": {"cluster": cluster}}, third]},
        "hundredth, another": {"and": [{"eq": {"cluster": (cluster + 1) % CENTRES}}, third]},
    }
    return {"none": None, **{name: parse(one) for name, one in conditions.items()}}


@pytest.mark.parametrize("index_type", ["IVF16,SQ8", "IVF,PQ8x4fs", "HNSW16"])
async def test_a_filtered_search_reaches_the_recall_wherever_its_rows_are(index_type: str) -> None:
    """The admitted rows are anywhere, only near the query, or everywhere but near the query."""
    index, count, target = new_index(1024), 2 * ROWS, 0.95
    where = clusters(count, 1).tolist()
    index.apply(
        batch(
            *(
                put(n, f"i{n:04}", row, metadata={**body(n), "cluster": where[n], "third": n % 3})
                for n, row in enumerate(clustered(count, 1))
            )
        )
    )
    await MergeRunner(new_spill(), index_type=index_type).run(index, "images")
    # Every tenth row is deleted, and all rows around one centre.
    dead = [n for n in range(count) if n % 10 == 0 or where[n] == 5]
    index.apply(batch(*(record(count + n, f"i{gone:04}", None) for n, gone in enumerate(dead))))
    [part] = index.view.readers["images"]
    assert part.ann is not None
    recalls: dict[str, list[float]] = {}
    through_the_index = set()
    for row, cluster in zip(clustered(60, 2), clusters(60, 2).tolist(), strict=True):
        for name, condition in filters_near(cluster).items():
            query = VectorQuery("images", row, filter=condition)
            [exact] = await asyncio.to_thread(index.view.search, [query])
            [near] = await asyncio.to_thread(index.view.search, [query], recall=target)
            assert len(near) == len(exact)
            right = len({*pairs(exact)} & {*pairs(near)})
            recalls.setdefault(name, []).append(right / len(exact) if exact else 1.0)
            selection = part.select(condition)
            if part.ann.is_cheaper_than_scan(selection.count, 27, selection.share, target):
                through_the_index.add(name)
    assert through_the_index >= {"none", "all but its own"}
    assert index_type == "HNSW16" or through_the_index >= {
        "half",
        "half, its own",
        "half, the other",
    }
    reached = {name: float(np.mean(some)) for name, some in recalls.items()}
    assert min(reached.values()) >= target - 0.02, reached


async def test_a_min_score_does_not_hide_rows_that_a_filter_left_far_away() -> None:
    """The filter admits few rows near the query, all below min_score; the others are far away."""
    axes, around = np.eye(SPACE.dim), np.random.default_rng(4)
    near = axes[0] + 0.2 * np.repeat([[1], [-1]], 400, axis=0) * axes[15]
    low = 0.4 * axes[0] + 0.9 * axes[1] + 0.1 * axes[15] * np.array([[1], [0], [-1]])
    far = 0.5 * axes[0] + 0.86 * axes[2 + np.arange(2600) % 13]
    rows = np.concatenate([near, low, far])
    rows = unit(rows + around.normal(0, 0.01, rows.shape))
    index = new_index(1024)
    index.apply(
        batch(
            *(
                put(n, f"i{n:04}", row, metadata={"admitted": n >= len(near)})
                for n, row in enumerate(rows)
            )
        )
    )
    await MergeRunner(new_spill(), index_type="IVF32,SQ8").run(index, "images")
    [segment] = index.segments_of("images").sealed_segments
    assert segment.ann is not None
    segment.ann.points = [OperatingPoint(1, 1, 0.95, 0.1)]
    asked = VectorQuery("images", unit(axes[:1])[0], filter=parse({"eq": {"admitted": True}}))
    for query in (asked, replace(asked, min_score=0.45)):
        [exact] = await asyncio.to_thread(index.view.search, [query])
        [found] = await asyncio.to_thread(index.view.search, [query], recall=0.95)
        assert pairs(found) == pairs(exact)
        assert len(found) == 10


async def test_what_changes_during_a_rebuild_is_not_lost() -> None:
    index = grown(600)
    rebuilding = asyncio.create_task(
        MergeRunner(new_spill(), index_type="IVF4,SQ8").run(index, "images")
    )
    fresh, changed = vectors(300, seed=4), 0
    while not rebuilding.done():
        at = index.positions[IMAGES]
        index.apply(
            batch(
                put(at, f"i{changed % 600:04}", fresh[changed % 300]),
                record(at + 1, f"i{(changed * 7 + 1) % 600:04}", None),
                put(at + 2, f"new{changed}", fresh[(changed + 1) % 300]),
            )
        )
        changed += 1
        await asyncio.sleep(0.002)
    await rebuilding
    assert changed > 20
    assert index.digests_match()
    again = new_index(64)
    # Apply the same log to an index without a merge.
    again.apply(
        batch(*(put(n, f"i{n:04}", r, metadata=body(n)) for n, r in enumerate(clustered(600, 1))))
    )
    for n in range(changed):
        at = again.positions[IMAGES]
        again.apply(
            batch(
                put(at, f"i{n % 600:04}", fresh[n % 300]),
                record(at + 1, f"i{(n * 7 + 1) % 600:04}", None),
                put(at + 2, f"new{n}", fresh[(n + 1) % 300]),
            )
        )
    assert index.digests() == again.digests()
    assert index.count("images") == again.count("images")


async def test_a_sealed_segment_comes_back_from_a_snapshot_with_its_index_and_tuning() -> None:
    index, rebuilder = grown(), MergeRunner(new_spill(), index_type="IVF16,SQ8", scanned_rows=200)
    await rebuilder.run(index, "images")
    at = index.positions[IMAGES]
    rows = clustered(250, 7)
    index.apply(batch(*(put(at + n, f"s{n}", row) for n, row in enumerate(rows))))
    index.apply(batch(*(record(at + 250 + n, f"i{n:04}", None) for n in range(100))))
    plan = rebuilder.due_merge(index, "images")
    assert plan is not None
    await rebuilder.run(index, "images", plan)
    snapshots = snapshots_in(MemoryBlobStore())
    await snapshots.write(index)
    restored = await snapshots.restore(new_index())
    assert snapshots.refused == {}
    assert restored is not None
    assert restored.digests_match()
    before, after = (
        index.segments_of("images").sealed_segments,
        restored.segments_of("images").sealed_segments,
    )
    assert (
        [one.index_type for one in after] == [one.index_type for one in before] == ["IVF16,SQ8"] * 2
    )
    for one, other in zip(before, after, strict=True):
        assert one.ann is not None
        assert other.ann is not None
        assert one.ann.points == other.ann.points
    queries = [VectorQuery("images", row) for row in clustered(20, 2)]
    assert restored.view.search(queries, recall=0.95) == index.view.search(queries, recall=0.95)
    # The snapshot store has all files of the restored segments: none is written again.
    assert {segment.files.name for segment in after if segment.files is not None} <= {
        *snapshots._blobs.names()
    }


async def test_a_failed_rebuild_leaves_everything_as_it_was(tmp_path: Path) -> None:
    index = grown(500)
    digests, parts = index.digests(), index.view.readers["images"]
    with pytest.raises(RebuildFailed, match="images: the building process ended with 1: "):
        await MergeRunner(SegmentFileStore(tmp_path), index_type="IVF4,Nonsense").run(
            index, "images"
        )
    # Only the files of the rows that it read are left, for the next merge.
    assert {path.name for path in tmp_path.iterdir()} == {f"{p.uid}-{len(p.rows)}" for p in parts}
    assert index.digests() == digests
    assert index.digests_match()
    index.apply(batch(record(index.positions[IMAGES], "i0001", None)))
    assert index.count("images") == 499
    # The next merge succeeds.
    assert (await MergeRunner(new_spill(), index_type="Flat").run(index, "images")).rows == 499


async def test_a_cancelled_rebuild_ends_its_process_and_leaves_no_files(tmp_path: Path) -> None:
    index = grown(500)
    rebuilding = asyncio.create_task(
        MergeRunner(SegmentFileStore(tmp_path), index_type="IVF4,SQ8").run(index, "images")
    )
    while not list(tmp_path.rglob("spec.json")):
        await asyncio.sleep(0.01)
    rebuilding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rebuilding
    assert not list(tmp_path.rglob("spec.json"))
    assert len(index.segments_of("images").sealed_segments) == 0
    assert (await MergeRunner(new_spill(), index_type="Flat").run(index, "images")).rows == 500


async def test_everything_deleted_leaves_no_segment() -> None:
    index = grown(50)
    index.apply(batch(*(record(50 + n, f"i{n:04}", None) for n in range(50))))
    assert (await MergeRunner(new_spill()).run(index, "images")).rows == 0
    assert index.view.readers["images"] == ()


def test_a_rebuild_is_due_when_many_rows_are_scanned() -> None:
    assert due_merge(grown(100).segments_of("images"), scanned_rows=100) is None
    plan = due_merge(grown(101).segments_of("images"), scanned_rows=100)
    assert plan is not None
    assert plan.reason == "101 rows without an index"


async def test_growing_rows_get_an_index_trained_like_the_largest() -> None:
    index, rebuilder = grown(), MergeRunner(new_spill(), index_type="IVF16,SQ8", scanned_rows=200)
    table = index.segments_of("images")
    await rebuilder.run(index, "images")
    sizes = []
    for step in range(4):
        rows, at = clustered(220, 10 + step), index.positions[IMAGES]
        index.apply(batch(*(put(at + n, f"s{step}-{n}", row) for n, row in enumerate(rows))))
        plan = rebuilder.due_merge(index, "images")
        assert plan is not None
        assert plan.reason == "220 growing rows"
        await rebuilder.run(index, "images", plan)
        assert table.growing_rows == 0
        assert {segment.index_type for segment in table.sealed_segments} == {"IVF16,SQ8"}
        sizes.append(sorted(segment.capacity for segment in table.sealed_segments))
    # Small segments are merged as they come, and the large one stays as it is.
    assert sizes == [[220, 3000], [440, 3000], [660, 3000], [220, 660, 3000]]
    assert index.digests_match()
    for row in clustered(20, 2):
        query = VectorQuery("images", row)
        [exact], [near] = index.view.search([query]), index.view.search([query], recall=0.99)
        assert len({*pairs(exact)} & {*pairs(near)}) >= 9
    # A full merge is due when the rows have grown by half.
    rows, at = clustered(1000, 20), index.positions[IMAGES]
    index.apply(batch(*(put(at + n, f"t{n}", row) for n, row in enumerate(rows))))
    plan = rebuilder.due_merge(index, "images")
    assert plan is not None
    assert (plan.segments, plan.like) == (None, None)
    await rebuilder.run(index, "images", plan)
    assert [segment.capacity for segment in table.sealed_segments] == [4880]


def test_training_is_taken_over_only_where_it_finds_as_much(tmp_path: Path) -> None:
    other, rows = clustered(ROWS, 1), vectors(400)
    trained = faiss.index_factory(SPACE.dim, "IVF16,SQ8", faiss.METRIC_INNER_PRODUCT)
    trained.train(other.astype(np.float32))
    path = tmp_path / "trained"
    faiss.write_index(trained, str(path))
    spec = BuildSpec("images", SPACE.dim, "IVF16,SQ8", 1, [], [], str(tmp_path), like=str(path))
    asked = [vectors(50, seed=8)]
    # A search reads all lists, so it misses nothing, whichever rows the index was trained on.
    enough = replace(spec, points=[OperatingPoint(16, 2, 0.99, 0.5)])
    taken = build_module._build_like(enough, flat.flat_index(rows), asked)
    assert taken is not None
    assert taken.points == [OperatingPoint(16, 2, 1.0, 0.5)]
    # A search reads one list of sixteen.
    too_little = replace(spec, points=[OperatingPoint(1, 1, 0.99, 0.1)])
    assert build_module._build_like(too_little, flat.flat_index(rows), asked) is None
    assert build_module._build_like(replace(spec, like=""), flat.flat_index(rows), asked) is None


@pytest.fixture
def may_go_on(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event that full merges wait for before they build, as if they took long."""
    run_child, event = rebuild_module._run_child, asyncio.Event()

    async def waiting(path: Path, spec: BuildSpec) -> None:
        if not spec.like:
            await event.wait()
        await run_child(path, spec)

    monkeypatch.setattr(rebuild_module, "_run_child", waiting)
    event.set()
    return event


async def test_what_grows_during_a_large_rebuild_is_indexed_meanwhile(
    may_go_on: asyncio.Event,
) -> None:
    index, rebuilder = grown(), MergeRunner(new_spill(), index_type="IVF16,SQ8", scanned_rows=200)
    table = index.segments_of("images")
    await rebuilder.run(index, "images")
    digests = index.digests()
    may_go_on.clear()
    large = asyncio.create_task(rebuilder.run(index, "images"))
    while not table.is_merging:
        await asyncio.sleep(0)
    at = index.positions[IMAGES]
    index.apply(batch(*(put(at + n, f"s{n}", row) for n, row in enumerate(clustered(220, 7)))))
    plan = rebuilder.due_growing_merge(index, "images")
    assert plan is not None
    assert rebuilder.due_merge(index, "images") == plan
    assert (plan.segments, plan.reason) == ([], "220 growing rows")
    await rebuilder.run(index, "images", plan)
    assert not large.done()
    may_go_on.set()
    # Delete items of the large segment, of the small one, and a growing one.
    changed = ["i0001", "i2999", "s0", "s219", "t0"]
    index.apply(batch(put(at + 220, "t0", vectors(1)[0])))
    index.apply(batch(*(record(at + 221 + n, gone, None) for n, gone in enumerate(changed))))
    await large
    assert sorted(segment.capacity for segment in table.sealed_segments) == [220, 3000]
    assert sorted(segment.live for segment in table.sealed_segments) == [218, 2998]
    assert index.digests_match()
    assert index.digests() != digests
    for gone in changed:
        assert index.get("images", gone) is None
    assert index.get("images", "s1") is not None


async def test_an_index_that_finds_less_than_when_it_was_built_is_not_swapped_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, rebuilder = grown(), MergeRunner(new_spill(), index_type="IVF16,SQ8")
    run_child = rebuild_module._run_child

    async def with_other_codes(path: Path, spec: BuildSpec) -> None:
        await run_child(path, spec)
        file = Path(spec.out) / "ann.faiss"
        wrong = faiss.read_index(str(file))
        wrong.reset()
        wrong.add(vectors(ROWS).astype(np.float32))
        faiss.write_index(wrong, str(file))

    monkeypatch.setattr(rebuild_module, "_run_child", with_other_codes)
    digests = index.digests()
    with pytest.raises(
        RebuildFailed, match=r"recall of the new index: want \d\.\d+ as built, got 0\.0"
    ):
        await rebuilder.run(index, "images")
    assert (index.digests(), index.segments_of("images").sealed_segments) == (digests, [])


async def test_a_large_rebuild_waits_for_a_small_one_so_that_it_takes_up_everything() -> None:
    index, rebuilder = grown(), MergeRunner(new_spill(), index_type="IVF16,SQ8", scanned_rows=200)
    table = index.segments_of("images")
    await rebuilder.run(index, "images")
    at = index.positions[IMAGES]
    index.apply(batch(*(put(at + n, f"s{n}", row) for n, row in enumerate(clustered(220, 7)))))
    plan = rebuilder.due_growing_merge(index, "images")
    assert plan is not None
    await asyncio.gather(rebuilder.run(index, "images", plan), rebuilder.run(index, "images"))
    assert [segment.capacity for segment in table.sealed_segments] == [3220]


@pytest.mark.parametrize("ended", [False, True], ids=["under way", "ended"])
async def test_a_plan_that_waited_takes_up_only_what_a_larger_rebuild_left(
    ended: bool, may_go_on: asyncio.Event
) -> None:
    """The plan names a small segment that a full merge has taken, or already replaced."""
    index, spill = grown(), new_spill()
    rebuilder, table = (
        MergeRunner(spill, index_type="IVF16,SQ8", scanned_rows=200),
        index.segments_of("images"),
    )
    await rebuilder.run(index, "images")

    def more(name: str, count: int, seed: int) -> None:
        rows, at = clustered(count, seed), index.positions[IMAGES]
        index.apply(batch(*(put(at + n, f"{name}{n}", row) for n, row in enumerate(rows))))

    def small() -> MergePlan:
        plan = rebuilder.due_growing_merge(index, "images")
        assert plan is not None
        return plan

    more("s", 220, 7)
    await rebuilder.run(index, "images", small())
    more("t", 220, 8)
    waited = small()
    assert waited.segments is not None
    assert [segment.capacity for segment in waited.segments] == [220]
    if not ended:
        may_go_on.clear()
    large = asyncio.create_task(rebuilder.run(index, "images"))
    while not table.is_merging:
        await asyncio.sleep(0)
    if ended:
        await large
        # Delete the files of replaced segments, as a snapshot does: among them are those of the
        # segment whose training the plan wants to reuse.
        await spill.delete_others(lambda: {segment.uid for segment in table.sealed_segments})
    more("u", 30, 9)
    # None of the rows that the plan was made for is left, so it takes those that came since.
    done = await rebuilder.run(index, "images", waited)
    assert large.done() == ended
    assert done.rows == 30
    may_go_on.set()
    await large
    assert sorted(segment.capacity for segment in table.sealed_segments) == [30, 3440]
    ids = [rows.ids[n] for rows, numbers in index.view.rows("images") for n in numbers.tolist()]
    assert len(ids) == len(set(ids)) == index.count("images") == 3470
    assert index.digests_match()


async def test_a_plan_whose_rows_were_all_taken_builds_nothing() -> None:
    """Two merges wait for a small one: first a full merge, then a plan for the same small rows."""
    index, rebuilder = grown(), MergeRunner(new_spill(), index_type="IVF16,SQ8", scanned_rows=200)
    await rebuilder.run(index, "images")
    at = index.positions[IMAGES]
    index.apply(batch(*(put(at + n, f"s{n}", row) for n, row in enumerate(clustered(220, 7)))))
    plan = rebuilder.due_growing_merge(index, "images")
    assert plan is not None
    small, _, waited = await asyncio.gather(
        rebuilder.run(index, "images", plan),
        rebuilder.run(index, "images"),
        rebuilder.run(index, "images", plan),
    )
    assert (small.rows, waited.rows) == (220, 0)
    assert [segment.capacity for segment in index.segments_of("images").sealed_segments] == [3220]
    assert index.count("images") == 3220
    assert index.digests_match()


async def test_a_segment_with_many_dead_rows_is_rebuilt() -> None:
    index, rebuilder = grown(500), MergeRunner(new_spill(), index_type="IVF4,SQ8", scanned_rows=10)
    await rebuilder.run(index, "images")
    assert rebuilder.due_merge(index, "images") is None
    at = index.positions[IMAGES]
    index.apply(batch(*(record(at + n, f"i{n:04}", None) for n in range(151))))
    plan = rebuilder.due_merge(index, "images")
    assert plan is not None
    assert plan.reason == "151 of 500 sealed rows are dead"
    await rebuilder.run(index, "images", plan)
    assert rebuilder.due_merge(index, "images") is None


@pytest.mark.parametrize("index_type", ["IVF32,SQ8", "IVF2,PQ4", "HNSW8_PQ4", "OPQ4,IVF2,PQ4x4fs"])
async def test_too_few_rows_for_the_kind_that_was_told_are_scanned(index_type: str) -> None:
    index, query = grown(30), VectorQuery("images", clustered(1, 2)[0])
    [before] = index.view.search([query])
    await MergeRunner(new_spill(), index_type=index_type).run(index, "images")
    [segment] = index.segments_of("images").sealed_segments
    assert segment.ann is None
    assert index.view.search([query], recall=0.95) == [before]


def test_the_file_of_vectors_is_one_that_faiss_reads(tmp_path: Path) -> None:
    rows = vectors(20)
    path = tmp_path / "v"
    path.write_bytes(flat.file_head(SPACE.dim, 20) + rows.tobytes())
    assert np.array_equal(flat.index_vectors(flat.mapped_index(path, SPACE.dim, 20)), rows)
    with pytest.raises(SnapshotRefused, match="want 21 rows of 16, got 20 of 16"):
        flat.mapped_index(path, SPACE.dim, 21)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SnapshotRefused, match="v: unreadable"):
        flat.mapped_index(path, SPACE.dim, 20)


def test_columns_come_back_as_they_were_packed(tmp_path: Path) -> None:
    index = grown(100)
    part = index.view.readers["images"][0]
    arrays = columns.pack_columns(part.rows, 100)
    columns.save_columns(arrays, tmp_path / "c")
    for found in (
        arrays,
        columns.load_columns(tmp_path / "c"),
        columns.gather_columns([(arrays, np.arange(100))]),
    ):
        rows = columns.unpack_columns(found, part.rows.vectors)
        for name in ("ids", "items", "texts", "metadata", "origins"):
            assert list(getattr(rows, name)) == list(getattr(part.rows, name)[:100])
            assert getattr(rows, name)[3:5] == getattr(part.rows, name)[3:5]
        assert np.array_equal(rows.hashes, part.rows.hashes[:100])
    some = columns.unpack_columns(
        columns.gather_columns([(arrays, np.array([7, 3]))]), part.rows.vectors
    )
    assert list(some.ids) == ["i0007", "i0003"]
    (tmp_path / "c").write_bytes(b"torn")
    with pytest.raises(SnapshotRefused, match="c: unreadable"):
        columns.load_columns(tmp_path / "c")
    with pytest.raises(OSError, match=r"d: .*Not a directory"):
        columns.save_columns(arrays, tmp_path / "c" / "d")


def test_kinds() -> None:
    assert choice.choose_index_type(5_000, 512) == "Flat"
    assert choice.choose_index_type(100_000, 512) == "IVF256,PQ256x4fs"
    assert choice.choose_index_type(1_000_000, 512) == "IVF1024,PQ256x4fs"
    assert choice.choose_index_type(100_000, 9) == "IVF256,SQ8"
    assert choice.choose_index_type(100_000, 12) == "IVF256,PQ6x4fs"
    # The codes and numbers of a row take 136, 72 or 40 bytes, and the centroids half a megabyte.
    assert choice.choose_index_type(100_000, 512, bytes_max=15 << 20) == "IVF256,PQ256x4fs"
    assert choice.choose_index_type(100_000, 512, bytes_max=8 << 20) == "IVF256,PQ128x4fs"
    assert choice.choose_index_type(100_000, 512, bytes_max=5 << 20) == "IVF256,PQ64x4fs"
    assert choice.choose_index_type(100_000, 512, bytes_max=1) == "IVF256,PQ64x4fs"
    assert choice.resolve_index_type("IVF,SQ8", 100_000, 512) == "IVF256,SQ8"
    assert choice.resolve_index_type("OPQ64,IVF,PQ64", 100_000, 512) == "OPQ64,IVF256,PQ64"
    assert choice.resolve_index_type("HNSW32", 100_000, 512) == "HNSW32"


@pytest.mark.parametrize("index_type", ["auto", "Flat", "IVF,SQ8", "OPQ8,IVF,PQ8", "HNSW32_SQ8"])
def test_kinds_that_can_be(index_type: str) -> None:
    choice.require_index_type(index_type, 16)


@pytest.mark.parametrize("index_type", ["Nonsense", "IVF,PQ7", "PQ8", "IVF,SQ8,RFlat", "LSH"])
def test_kinds_that_cannot_be_are_refused_at_the_start(index_type: str) -> None:
    with pytest.raises(ConfigurationError, match=f"TIDELENS_INDEX_KIND.*got '{index_type}': "):
        choice.require_index_type(index_type, 16)


def test_the_cheapest_point_that_reaches_the_recall_is_taken() -> None:
    points = [
        OperatingPoint(1, 1, 0.7, 0.1),
        OperatingPoint(4, 1, 0.94, 0.2),
        OperatingPoint(8, 2, 0.99, 0.4),
    ]
    rows = flat.flat_index(vectors(5))
    ann = AnnIndex("Flat", rows, points, rows)
    assert ann.point_for(0.5).effort == 1
    assert ann.point_for(0.95).effort == 8
    assert ann.point_for(0.999).effort == 8
