"""Growing rows have codes of a sealed segment's quantizer as soon as the index is searched."""

import gc
import weakref
from typing import Any

import faiss
import numpy as np
import pytest

from contracts.ports.hit import VectorQuery
from contracts.score import Vectors
from index_store.ann import flat
from index_store.ann.faiss_index import AnnIndex, OperatingPoint
from index_store.ann.growing_codes import GrowingCodes, RowQuantizer
from index_store.index import Index
from index_store.merge.policy import due_growing_merge
from tests.kits.index_kit import (
    SPACE,
    batch,
    built,
    new_index,
    new_spill,
    pairs,
    put,
    record,
    vectors,
)

pytestmark = pytest.mark.anyio

DIM = SPACE.dim
KIND = f"IVF4,PQ{DIM // 2}x4fs"


def trained(index_type: str = KIND, rows: int = 400) -> AnnIndex:
    some = vectors(rows, seed=1)
    index = faiss.index_factory(DIM, index_type, faiss.METRIC_INNER_PRODUCT)
    index.train(some.astype(np.float32))
    index.add(some.astype(np.float32))
    return AnnIndex(index_type, index, [OperatingPoint(2, 2, 0.95, 0.1)], flat.flat_index(some))


def coder() -> RowQuantizer:
    found = RowQuantizer.from_ann(trained())
    assert found is not None
    return found


@pytest.mark.parametrize("index_type", ["IVF4,SQ8", "HNSW8", "OPQ4,IVF4,PQ4x4fs", "IVF4,PQ4x4"])
def test_other_kinds_have_no_codes_that_stand_by_themselves(index_type: str) -> None:
    assert RowQuantizer.from_ann(trained(index_type)) is None


def test_a_coder_does_not_keep_the_segment_that_it_comes_from() -> None:
    ann = trained()
    held, made = weakref.ref(ann), RowQuantizer.from_ann(ann)
    assert made is not None
    del ann
    gc.collect()
    assert held() is None
    assert made.depth(0.95) == 4
    assert made.codes(vectors(3)).shape == (3, DIM // 4)


def test_codes_that_came_piece_by_piece_are_those_that_faiss_makes_of_all_at_once() -> None:
    rows, made = vectors(200, seed=2), coder()
    index = made.blank()
    index.add(rows.astype(np.float32))
    pieces = GrowingCodes(made, flat.flat_index(rows))
    for start, end in [(0, 1), (1, 31), (31, 33), (33, 150), (150, 200)]:
        pieces.append(rows[start:end])
        assert len(pieces) == end
    packed = faiss.rev_swig_ptr(index.codes.get(), index.codes.size())
    ours = faiss.rev_swig_ptr(pieces._index.codes.get(), pieces._index.codes.size())
    assert np.array_equal(ours[: len(packed)], packed)


def test_codes_are_taken_along_as_they_are() -> None:
    rows, made = vectors(100, seed=2), coder()
    one, other = (
        GrowingCodes(made, flat.flat_index(rows)),
        GrowingCodes(made, flat.flat_index(rows[50:])),
    )
    one.append(rows)
    other.append(rows[50:], one.take(np.arange(50, 100)))
    wide = rows[60:61].astype(np.float32)
    assert other.search(wide, 1, 1.0, 0.95)[1].tolist() == [[10]]


def test_a_search_for_more_than_there_are_leaves_places_over() -> None:
    rows = vectors(64, seed=2)
    codes = GrowingCodes(coder(), flat.flat_index(rows))
    codes.append(rows[:3])
    _, numbers = codes.search(rows[:1].astype(np.float32), 27, 0.9, 0.95)
    assert sorted(numbers[0][numbers[0] >= 0].tolist()) == [0, 1, 2]


async def coded(growing: int, index_type: str = KIND) -> Index:
    """Return an index of 400 sealed rows and `growing` growing rows, which have codes."""
    index = new_index(512)
    index.apply(batch(*(put(n, f"i{n:04}", row) for n, row in enumerate(vectors(400, seed=1)))))
    merge = index.begin_merge("images")
    index.commit_merge(
        "images", merge, await built(index, "images", merge, new_spill(), index_type)
    )
    index.enable_growing_codes()
    rows = vectors(growing, seed=2)
    index.apply(batch(*(put(400 + n, f"g{n:04}", row) for n, row in enumerate(rows))))
    return index


async def test_a_view_refuses_rows_that_came_after_it() -> None:
    index = await coded(600)
    view, query = index.view, VectorQuery("images", vectors(1, seed=9)[0])
    before = view.search([query], recall=0.99)
    later = [put(2000 + n, f"later{n:02}", query.vector) for n in range(40)]
    index.apply(batch(*later))
    assert view.search([query], recall=0.99) == before
    [now] = index.view.search([query], recall=0.99)
    assert {hit.id[:5] for hit in now} == {"later"}


async def test_growing_rows_are_found_through_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    index = await coded(800)
    index.apply(batch(*(record(1300 + n, f"g{n:04}", None) for n in range(0, 800, 9))))
    asked = 0
    search = GrowingCodes.search

    def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return search(*arguments)

    monkeypatch.setattr(GrowingCodes, "search", counted)
    right = 0
    for vector in vectors(60, seed=8):
        query = VectorQuery("images", vector)
        [exact], [near] = index.view.search([query]), index.view.search([query], recall=0.95)
        right += len({*pairs(exact)} & {*pairs(near)})
        # The pairs compared above contain the scores, which are exact.
        assert len(near) == 10
    assert asked == 60
    assert right >= 0.93 * 600


async def test_rows_get_codes_when_somebody_searches_and_a_segment_is_trained() -> None:
    index = new_index(64)
    index.enable_growing_codes()
    table = index.segments_of("images")
    index.apply(batch(*(put(n, f"i{n:04}", row) for n, row in enumerate(vectors(150, seed=1)))))
    assert table.coded_rows == 0
    merge = index.begin_merge("images")
    # Rows that arrive while the first ANN index is built have no codes, and their growing segment
    # gets no more rows.
    index.apply(batch(*(put(200 + n, f"j{n}", row) for n, row in enumerate(vectors(5)))))
    index.commit_merge("images", merge, await built(index, "images", merge, new_spill(), KIND))
    index.apply(batch(*(put(300 + n, f"k{n}", row) for n, row in enumerate(vectors(130, seed=3)))))
    assert (table.growing_rows, table.coded_rows) == (135, 130)
    assert [len(chunk.rows) for chunk in table.growing_segments.values()] == [5, 128, 2]
    replayed = (await coded(0)).empty_copy()
    replayed.apply(batch(*(put(n, f"i{n:04}", row) for n, row in enumerate(vectors(9)))))
    assert replayed.segments_of("images").coded_rows == 0


async def test_coded_rows_wait_longer_for_an_index_of_their_own() -> None:
    table = (await coded(399)).segments_of("images")
    assert due_growing_merge(table, scanned_rows=100) is None
    assert due_growing_merge(table, scanned_rows=99) is not None


async def test_a_chunk_mostly_dead_moves_with_its_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    index = await coded(1024)
    table = index.segments_of("images")
    index.apply(batch(put(1500, "last", vectors(1)[0])))
    made, codes = [], RowQuantizer.codes

    def counted(self: RowQuantizer, some: Vectors) -> Any:
        made.append(len(some))
        return codes(self, some)

    monkeypatch.setattr(RowQuantizer, "codes", counted)
    gone = [record(1501 + n, f"g{n:04}", None) for n in range(600)]
    index.apply(batch(*gone))
    assert [len(chunk.rows) for chunk in table.growing_segments.values()] == [425]
    assert not made
    [found] = index.view.search([VectorQuery("images", vectors(1024, seed=2)[700], 1)], recall=0.95)
    assert found[0].id == "g0700"
    assert index.digests_match()


async def test_a_chunk_with_codes_of_another_training_waits_for_the_next_rebuild() -> None:
    index = await coded(1024)
    table = index.segments_of("images")
    merge = index.begin_merge("images")
    index.apply(batch(*(put(2000 + n, f"h{n:04}", row) for n, row in enumerate(vectors(1024)))))
    index.commit_merge("images", merge, await built(index, "images", merge, new_spill(), KIND))
    index.apply(batch(*(record(4000 + n, f"h{n:04}", None) for n in range(1000))))
    index.apply(batch(put(5100, "last", vectors(1)[0])))
    assert [chunk.live for chunk in table.growing_segments.values()] == [24, 1]
    index.apply(batch(*(record(5200 + n, f"h{n:04}", None) for n in range(1000, 1024))))
    index.apply(batch(put(6300, "more", vectors(1)[0])))
    assert [chunk.live for chunk in table.growing_segments.values()] == [2]
