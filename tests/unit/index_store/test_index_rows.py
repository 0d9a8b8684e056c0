"""Growing segments: Faiss and numpy share their memory, and endless upserts keep it bounded."""

import gc

import numpy as np

from contracts.score import unit
from index_store.digest import stack_hashes
from index_store.segment.growing import GrowingSegment
from index_store.segment.manager import SegmentManager
from index_store.segment.rows import Rows

DIM = 8


def some_rows(names: list[str], seed: int = 1) -> Rows:
    vectors = unit(np.random.default_rng(seed).standard_normal((len(names), DIM)))
    numbers = np.arange(len(names))
    return Rows(
        list(names),
        [None] * len(names),
        [f"text of {name}" for name in names],
        [None] * len(names),
        [("topic", 0)] * len(names),
        numbers,
        numbers,
        numbers.astype(np.int32) % 2,
        stack_hashes([name.encode().ljust(16) for name in names]),
        vectors,
    )


def test_a_chunk_is_searched_in_the_memory_that_its_rows_are_written_to() -> None:
    chunk, rows = GrowingSegment(DIM, 32), some_rows([f"r{n}" for n in range(20)])
    chunk.append(rows, 0, 20)
    wide = rows.vectors.astype(np.float32)
    scores, numbers = chunk.reader().nominate(wide, 5, chunk.reader().live_rows)
    assert numbers[:, 0].tolist() == list(range(20))
    exact = rows.vectors.astype(np.float64) @ rows.vectors.astype(np.float64).T
    assert np.allclose(scores, np.sort(exact, axis=1)[:, ::-1][:, :5], atol=1e-5)
    assert np.array_equal(chunk.rows.vectors[:20], rows.vectors)


def test_vectors_outlive_their_chunk() -> None:
    chunk, rows = GrowingSegment(DIM, 32), some_rows(["a", "b"])
    chunk.append(rows, 0, 2)
    held = chunk.rows.vectors
    del chunk
    gc.collect()
    assert np.array_equal(held[:2], rows.vectors)


def test_a_view_sees_neither_later_rows_nor_later_deletions() -> None:
    chunk, rows = GrowingSegment(DIM, 32), some_rows([f"r{n}" for n in range(20)])
    chunk.append(rows, 0, 10)
    view = chunk.reader()
    assert chunk.reader() is view
    chunk.append(rows, 10, 20)
    chunk.delete(np.array([0, 3]))
    wide = rows.vectors[:1].astype(np.float32)
    assert sorted(view.nominate(wide, 99, view.live_rows)[1][0].tolist()) == list(range(10))
    assert sorted(view.rows_above(wide[0], -2, view.live_rows).tolist()) == list(range(10))
    assert view.numbers().tolist() == list(range(10))
    now = chunk.reader()
    assert sorted(now.nominate(wide, 99, now.live_rows)[1][0].tolist()) == [1, 2, *range(4, 20)]
    assert (view.live, now.live) == (10, 18)


def test_removing_tells_what_went() -> None:
    table = SegmentManager(DIM, 4)
    rows = some_rows(list("abcdefghij"))
    table.put(rows)
    removed = table.remove(["j", "a", "nobody", "e", "a"])
    assert removed.ids == ["j", "a", "e"]
    assert removed.partitions.tolist() == [1, 0, 0]
    assert np.array_equal(removed.hashes, rows.hashes[[9, 0, 4]])
    assert len(table) == 7
    assert table.find("a") is None
    found = table.find("f")
    assert found is not None
    assert found[0].texts[found[1]] == "text of f"


def test_endless_upserts_keep_memory_bounded() -> None:
    table = SegmentManager(DIM, 32)
    for _ in range(300):
        rows = some_rows([f"r{n}" for n in range(100)])
        table.remove(rows.ids)
        table.put(rows)
        table.compact_growing(len(rows))
    assert len(table) == 100
    # There is memory for twice the live rows, one partly filled segment, and one batch of rows that
    # waits to be compacted.
    assert len(table.growing_segments) <= 2 * 100 / 32 + 1 + 100 / 32
    for name in table.find("r7"), table.find("r99"):
        assert name is not None


def test_a_chunk_of_only_dead_rows_is_let_go() -> None:
    table = SegmentManager(DIM, 4)
    table.put(some_rows(list("abcdefgh")))
    table.remove("abcd")
    table.compact_growing(0)
    assert [chunk.live for chunk in table.growing_segments.values()] == [4]
    assert len(table.readers()) == 1


def test_merging_moves_a_bounded_number_of_rows_at_once() -> None:
    table = SegmentManager(DIM, 8)
    names = [f"r{n}" for n in range(80)]
    table.put(some_rows(names))
    table.remove(name for n, name in enumerate(names) if n % 8 < 5)
    before = len(table.growing_segments)
    table.compact_growing(6)
    # Each segment has three live rows, so the third segment makes them more than six.
    assert len(table.growing_segments) == before - 3 + 2
    assert {
        name for view in table.readers() for name in np.array(view.rows.ids)[view.numbers()]
    } == {name for n, name in enumerate(names) if n % 8 >= 5}
