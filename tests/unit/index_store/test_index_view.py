"""The exact search: ties, near ties, collapse, min_score, and readers while a thread writes."""

import threading

import numpy as np
import pytest

from contracts.ports.hit import VectorQuery
from contracts.score import NOMINATION_SLACK, Vectors, exact_scores, unit
from index_store.index import Index
from tests.kits.index_kit import (
    SPACE,
    batch,
    brute_force,
    filled,
    new_index,
    pairs,
    put,
    record,
    vectors,
)

QUERY = vectors(1, seed=77)[0]


def search(index: Index, **members: object) -> list[tuple[str, float]]:
    query = VectorQuery("images", QUERY, **members)  # type: ignore[arg-type]
    return pairs(index.view.search([query])[0])


def near_ties(count: int) -> Vectors:
    """Return `count` vectors near QUERY, whose scores differ by less than NOMINATION_SLACK."""
    dice = np.random.default_rng(2)
    return unit(QUERY + 0.001 * dice.standard_normal((count, SPACE.dim)))


@pytest.mark.parametrize("growing_segment_rows", [16, 1024])
def test_hundreds_of_equal_vectors_come_in_order_of_id(growing_segment_rows: int) -> None:
    index = new_index(growing_segment_rows)
    ids = [f"i{n:04}" for n in np.random.default_rng(1).permutation(600)]
    index.apply(batch(*(put(n, item_id, QUERY) for n, item_id in enumerate(ids))))
    found = search(index, k=20, offset=5)
    assert [item_id for item_id, _ in found] == sorted(ids)[5:25]
    assert {score for _, score in found} == {float(exact_scores(QUERY[None], QUERY)[0])}


@pytest.mark.parametrize("growing_segment_rows", [16, 1024])
@pytest.mark.parametrize("k", [1, 7, 300])
def test_near_ties_are_told_apart_exactly(growing_segment_rows: int, k: int) -> None:
    rows = near_ties(500)
    spread = np.ptp(exact_scores(rows, QUERY))
    assert spread < NOMINATION_SLACK
    model = {f"i{n:04}": (row, None) for n, row in enumerate(rows)}
    query = VectorQuery("images", QUERY, k)
    assert search(filled(rows, growing_segment_rows), k=k) == brute_force(model, query)


def test_chunks_of_any_size_answer_alike_after_deletes() -> None:
    rows = vectors(500)
    gone = [f"i{n:04}" for n in np.random.default_rng(3).permutation(500)[:350]]
    answers = []
    for growing_segment_rows in (7, 64, 1024):
        index = filled(rows, growing_segment_rows)
        index.apply(batch(*(record(500 + n, item_id, None) for n, item_id in enumerate(gone))))
        answers.append(search(index, k=200))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 150


def test_collapse_still_gives_k_of_them() -> None:
    index = new_index(32)
    rows = vectors(900)
    # The best 300 rows belong to one item, so many more rows than k must be scored.
    order = np.argsort(-exact_scores(rows, QUERY))
    item_of = {
        int(n): "crowd" if place < 300 else f"g{place // 3}" for place, n in enumerate(order)
    }
    index.apply(batch(*(put(n, f"i{n:04}", row, item=item_of[n]) for n, row in enumerate(rows))))
    model = {f"i{n:04}": (row, item_of[n]) for n, row in enumerate(rows)}
    for k, offset in ((1, 0), (10, 0), (10, 5), (500, 0)):
        query = VectorQuery("images", QUERY, k, offset, collapse=True)
        assert pairs(index.view.search([query])[0]) == brute_force(model, query)


def test_a_floor_is_met_exactly() -> None:
    rows = vectors(300)
    index = filled(rows)
    scores = np.sort(exact_scores(rows, QUERY))[::-1]
    for place in (0, 9, 40):
        floor = float(scores[place])
        assert len(search(index, k=100, min_score=floor)) == place + 1
        assert len(search(index, k=100, min_score=np.nextafter(floor, 2))) == place
    assert search(index, min_score=2.0) == []


def test_a_batch_answers_like_its_queries_alone() -> None:
    index = filled(vectors(300))
    index.apply(batch(record(300, "i0003", None)))
    queries = [
        VectorQuery("images", row, k=1 + 3 * n, offset=n % 4, collapse=n % 2 == 0)
        for n, row in enumerate(vectors(20, seed=9))
    ]
    queries.insert(4, VectorQuery("captions", QUERY))
    view = index.view
    assert view.search(queries) == [view.search([query])[0] for query in queries]
    assert view.search(queries)[4] == []
    assert view.search([]) == []


def test_hits_tell_everything_of_their_item() -> None:
    index = new_index()
    body = {"item": "p1", "text": "a cat", "metadata": {"b": 1, "a": [2]}}
    index.apply(batch(put(7, "i0001", QUERY, **body)))
    plain = VectorQuery("images", QUERY)
    [hit], [full] = index.view.search([plain, VectorQuery("images", QUERY, k=1, with_vector=True)])
    assert (hit.id, hit.rank, hit.item, hit.text) == ("i0001", 1, "p1", "a cat")
    assert hit.metadata == {"a": [2], "b": 1}
    assert hit.source == ("t.images", 0, 7)
    assert hit.vector is None
    assert full.vector is not None
    assert np.array_equal(full.vector, QUERY)


def test_readers_see_whole_states_while_a_writer_replaces_items() -> None:
    """Each batch replaces all items. A reader never sees rows of two batches, or misses an item."""
    index, ids = new_index(32), [f"i{n}" for n in range(40)]
    failures: list[str] = []
    stop = threading.Event()

    def apply(generation: int) -> None:
        rows = vectors(40, seed=generation)
        index.apply(
            batch(
                *(
                    put(generation * 40 + n, item_id, rows[n], metadata={"generation": generation})
                    for n, item_id in enumerate(ids)
                )
            )
        )

    def read() -> None:
        while not stop.is_set():
            hits = index.view.search([VectorQuery("images", QUERY, k=100)])[0]
            seen = {hit.metadata["generation"] for hit in hits if hit.metadata}
            if len(hits) != 40 or len(seen) != 1:
                failures.append(f"{len(hits)} hits of generations {seen}")
                return

    apply(0)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for generation in range(1, 150):
        apply(generation)
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
