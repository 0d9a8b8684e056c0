"""Pages of one ranking: many rows are equal, and each of them is on exactly one page."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.filters.json_form import parse
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors
from index_store.ann.faiss_index import OperatingPoint
from index_store.index import Index
from index_store.search import scan
from tests.kits.index_kit import (
    IMAGES,
    batch,
    brute_force,
    built,
    new_index,
    new_spill,
    pairs,
    put,
    record,
    vectors,
)

DIRECTIONS = vectors(6, seed=3)
OTHERS = vectors(400, seed=4)
KINDS = ["Flat", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ8x4fs"]
FILTERS = [None, {"eq": {"half": 1}}, {"not": {"eq": {"third": 0}}}, {"eq": {"third": 2}}]

Model = dict[str, tuple[Vectors, str | None, dict[str, Any]]]


def filled(seed: int, kind: str, growing: int, copies: int) -> tuple[Index, Model]:
    """Return an index that holds some directions many times, and the model of its items.

    The ids are in any order, among other rows, and some are deleted. The first rows are in a sealed
    segment; the last `growing` rows are not, and have codes if the index type has any.
    """
    dice = np.random.default_rng(seed)
    rows = [*np.repeat(DIRECTIONS, copies, axis=0), *OTHERS[: 40 + seed % 300]]
    order = dice.permutation(len(rows)).tolist()
    model: Model = {}
    for n in order:
        item = dice.choice([None, "a", "b", f"i{n % 7}"])
        metadata = {"half": n % 2, "third": n % 3}
        model[f"{dice.integers(1 << 30):x}/{n}"] = rows[n], item, metadata
    index = new_index(64)
    index.enable_growing_codes()

    def add(ids: list[str]) -> None:
        at = index.positions[IMAGES]
        found = [model[one] for one in ids]
        index.apply(
            batch(
                *(
                    put(at + n, one, vector, item=item, metadata=metadata)
                    for n, (one, (vector, item, metadata)) in enumerate(
                        zip(ids, found, strict=True)
                    )
                )
            )
        )

    ids = list(model)
    add(ids[growing:])
    asyncio.run(_seal(index, kind))
    add(ids[:growing])
    gone = [one for one in ids if dice.random() < 0.1]
    at = index.positions[IMAGES]
    index.apply(batch(*(record(at + n, one, None) for n, one in enumerate(gone))))
    for one in gone:
        del model[one]
    return index, model


async def _seal(index: Index, kind: str) -> None:
    merge = index.begin_merge("images")
    segment = await built(index, "images", merge, new_spill(), kind)
    if segment is not None and segment.ann is not None:
        # All lists are read, so that nothing is missing but what a cut leaves out.
        segment.ann.points = [OperatingPoint(segment.ann.effort_max, 4, 1.0, 0.1)]
    index.commit_merge("images", merge, segment)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**16),
    st.sampled_from(KINDS),
    st.sampled_from([0, 30, 150]),
    st.sampled_from([3, 25, 60]),
    st.integers(1, 40),
    st.sampled_from(FILTERS),
    st.booleans(),
    st.sampled_from([None, 0.2]),
)
def test_pages_put_together_are_the_whole_ranking(
    seed: int,
    kind: str,
    growing: int,
    copies: int,
    k: int,
    condition: dict[str, Any] | None,
    collapse: bool,
    min_score: float | None,
) -> None:
    index, model = filled(seed, kind, growing, copies)
    admitted = None if condition is None else parse(condition)
    query = VectorQuery(
        "images",
        DIRECTIONS[seed % len(DIRECTIONS)],
        k,
        min_score=min_score,
        collapse=collapse,
        filter=admitted,
    )
    seen = {
        one: (vector, item)
        for one, (vector, item, metadata) in model.items()
        if admitted is None or admitted.matches(metadata)
    }
    whole = brute_force(seen, replace(query, k=10_000))
    pages = []
    for offset in range(0, len(whole) + k, k):
        [page] = index.view.search([replace(query, offset=offset)], recall=0.95)
        pages += pairs(page)
    assert pages == whole


@pytest.mark.parametrize(
    ("kind", "ties_max"),
    [("Flat", 16), ("IVF4,SQ8", scan.TIES_MAX), ("HNSW16", scan.TIES_MAX)]
    + [("IVF4,PQ8x4fs", ties_max) for ties_max in (16, scan.TIES_MAX)],
)
@pytest.mark.parametrize("condition", FILTERS[:2])
def test_equal_rows_are_told_apart_by_their_ids(
    kind: str, ties_max: int, condition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index can distinguish them at any effort, since the nearest list is always read."""
    monkeypatch.setattr(scan, "TIES_MAX", ties_max)
    monkeypatch.setattr(scan, "_TIES_AT_FIRST", 8)
    index, model = filled(7, kind, 40, 50)
    for segment in index.segments_of("images").sealed_segments:
        if segment.ann is not None:
            segment.ann.points = [OperatingPoint(1, 1, 0.95, 0.1)]
    admitted = None if condition is None else parse(condition)
    equal = sorted(
        one
        for one, (vector, _, metadata) in model.items()
        if vector.tobytes() == DIRECTIONS[0].tobytes()
        and (admitted is None or admitted.matches(metadata))
    )
    for k in (1, 7):
        query = VectorQuery("images", DIRECTIONS[0], k, filter=admitted)
        pages: list[str] = []
        for offset in range(0, len(equal), k):
            [page] = index.view.search([replace(query, offset=offset)], recall=0.95)
            pages += [hit.id for hit in page]
        assert pages[: len(equal)] == equal
