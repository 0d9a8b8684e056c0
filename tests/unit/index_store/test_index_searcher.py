"""The ports of the index: searches when ready, the feed of applied batches, the numpy matcher."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.errors import NotReady
from contracts.ports.hit import VectorQuery
from contracts.ports.search import AppliedBatch
from index_store.search import scan
from index_store.search.matcher_numpy import NumpyMatcher
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.view import IndexView
from tests.kits.index_kit import batch, filled, record, vectors

QUERY = VectorQuery("images", vectors(1, seed=77)[0])


@pytest.mark.anyio
async def test_the_searcher_answers_only_when_ready() -> None:
    searcher = LocalSearcher()
    assert (searcher.count("images"), searcher.highest_source("images", 0)) == (0, -1)
    with pytest.raises(NotReady, match="starting"):
        await searcher.search([QUERY])
    searcher.serve(filled(vectors(3)))
    for ask in (searcher.search([QUERY]), searcher.item("images", "i0000")):
        with pytest.raises(NotReady, match="replaying"):
            await ask
    searcher.set_ready()
    first, second = await searcher.search([QUERY, QUERY])
    assert len(first.hits) == 3
    assert first == second
    assert first.as_of.offsets["images"] == [3]
    assert first.as_of.space == "unit-v1"
    searcher.set_not_ready("stale")
    with pytest.raises(NotReady, match="stale"):
        searcher.as_of()


@pytest.mark.anyio
async def test_the_searcher_tells_of_items_and_progress() -> None:
    searcher, index = LocalSearcher(), filled(vectors(3))
    index.apply(batch(record(3, "i0001", None, reason="bad: picture")))
    searcher.serve(index)
    searcher.set_ready()
    hit = await searcher.item("images", "i0002")
    assert hit is not None
    assert hit.vector is not None
    assert await searcher.item("images", "i0001") is None
    assert searcher.count("images") == 2
    assert searcher.highest_source("images", 0) == 3
    assert searcher.rejection_reason("images", 0, 3) == "bad: picture"
    assert searcher.digests() == index.digests()


def test_listeners_hear_of_batches_until_they_stop() -> None:
    feed = AppliedFeed()
    heard: list[object] = []

    def listener(applied: object) -> None:
        heard.append(applied)

    stop, _ = feed.listen(listener), feed.listen(listener)
    applied = [AppliedBatch("images", [], vectors(0), ["a"], [].__getitem__)]
    feed.publish(applied)
    stop()
    stop()  # a second call does not stop the other listener
    feed.publish([])
    assert heard == [applied, applied, []]


def test_the_matcher_nominates_whatever_may_reach_its_floor() -> None:
    dice = np.random.default_rng(5)
    queries, rows = vectors(5000, seed=1), vectors(3, seed=2)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    floors = exact.max(axis=1) + dice.choice([-0.1, 0.0, 0.1], 5000)
    wide = queries.astype(np.float32)

    def pairs(over: float) -> set[tuple[int, int]]:
        return set(zip(*np.nonzero(exact >= floors[:, None] + over), strict=True))

    nominated = set(zip(*NumpyMatcher().nominate(wide, floors, rows), strict=True))
    assert pairs(0.0) <= nominated <= pairs(-0.05)
    for none in ((wide[:0], floors[:0], rows), (wide, floors, rows[:0])):
        assert [side.tolist() for side in NumpyMatcher().nominate(*none)] == [[], []]


@pytest.mark.anyio
async def test_what_takes_an_exact_scan_after_all_holds_up_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More rows tie than are nominated, so the query moves to the queue of the exact searches."""
    monkeypatch.setattr(scan, "_SCANNED_AT_ONCE", 0)
    copies, others = np.repeat(vectors(1), 100, axis=0), vectors(50, seed=9)
    searcher, index = LocalSearcher(), filled(np.concatenate([others, copies]))
    searcher.serve(index)
    searcher.set_ready()
    tied, plain = VectorQuery("images", copies[0]), VectorQuery("images", others[7], 1)
    none, some = index.view.answers_or_none(
        [tied, plain], recall=0.95, reads=lambda rows: None, patient=False
    )
    assert none is None
    assert some is not None
    patient: list[bool] = []
    found = IndexView.answers_or_none

    def spied(view: IndexView, *asked: Any, **options: Any) -> Any:
        patient.append(options["patient"])
        return found(view, *asked, **options)

    monkeypatch.setattr(IndexView, "answers_or_none", spied)
    one, two = await searcher.search([tied, plain])
    assert [hit.id for hit in one.hits] == [f"i{n:04}" for n in range(50, 60)]
    assert [hit.id for hit in two.hits] == ["i0007"]
    await searcher.search([plain])
    assert patient == [False, True, False]


@pytest.mark.anyio
async def test_an_audit_asks_a_late_query_again_and_exactly() -> None:
    searcher, index = LocalSearcher(target_recall=0.5), filled(vectors(200))
    assert await searcher.audit("images") is None
    searcher.serve(index)
    searcher.set_ready()
    assert await searcher.audit("images") is None
    assert searcher.recent_vectors("images").shape[0] == 0
    query = VectorQuery("images", vectors(1, seed=3)[0])
    await searcher.search([query, replace(query, exact=True)])
    assert searcher.recent_vectors("images").tolist() == [query.vector.tolist()]
    # Nothing is sealed, so a search scans all rows and finds what an exact one does.
    assert await searcher.audit("images") == 1.0
    assert await searcher.audit("captions") is None
