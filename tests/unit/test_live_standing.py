"""Which batches mark which standing queries."""

import numpy as np
import pytest

from api.queries import Asked, ItemRef, Question, _Part
from api.standing import Standing, StandingSet
from contracts.ports import Applied
from contracts.score import Vectors, unit
from contracts.topics import Target
from tests.api_kit import BruteIndex, SlackMatcher

X, Y = unit([1.0, 0.0]), unit([0.0, 1.0])
NEITHER = np.empty((0, 2), np.float16)


def batch(
    target: Target = "images", put: dict[str, Vectors] | None = None, gone: tuple[str, ...] = ()
) -> Applied:
    put = put or {}
    vectors = np.stack(list(put.values())) if put else NEITHER
    return Applied(target, list(put), vectors, gone, appended_ms=7)


class Hall:
    """A set with standing queries for X, settled with a list each."""

    def __init__(self) -> None:
        self.woken = 0
        self.set = StandingSet(SlackMatcher())

    def wake(self) -> None:
        self.woken += 1

    def stand(
        self, hits: dict[str, float], *, vector: Vectors = X, min_score: float | None = None
    ) -> Standing:
        question = Question("images", [_Part(1.0, vector)], k=2, min_score=min_score)
        standing = Standing(question, self.wake)
        self.set.add(standing)
        self.settle(standing, hits, vector)
        return standing

    def settle(self, standing: Standing, hits: dict[str, float], vector: Vectors = X) -> None:
        self.set.begin(standing)
        wire = [{"id": name, "score": score} for name, score in hits.items()]
        self.set.settle(standing, vector, wire)
        assert not standing.dirty

    def marks(self, standing: Standing, *batches: Applied) -> bool:
        standing.dirty = False
        self.set.applied(batches)
        return standing.dirty


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_an_item_of_the_list_put_anew_or_taken_out(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9, "b": 0.8})
    assert hall.marks(standing, batch(put={"a": Y}))
    assert hall.marks(standing, batch(gone=("b",)))
    assert not hall.marks(standing, batch(gone=("c",)))
    assert not hall.marks(standing, batch("captions", put={"a": Y}))


def test_an_item_at_or_above_the_floor(hall: Hall) -> None:
    standing = hall.stand({"a": 1.0, "b": 1.0})
    assert hall.marks(standing, batch(put={"c": X})), "equal scores are ordered by id"
    assert not hall.marks(standing, batch(put={"c": Y}))
    assert not hall.marks(standing, batch("captions", put={"c": X}))


def test_a_list_that_is_not_full_has_the_floor_of_its_query(hall: Hall) -> None:
    assert hall.marks(hall.stand({"a": 1.0}), batch(put={"c": Y}))
    picky = hall.stand({"a": 1.0}, min_score=0.5)
    assert not hall.marks(picky, batch(put={"c": Y}))
    assert hall.marks(picky, batch(put={"c": X}))
    full = hall.stand({"a": 0.9, "b": 0.8}, min_score=0.5)
    assert not hall.marks(full, batch(put={"c": unit([0.7, 0.714])}))


def test_while_it_is_searched_any_batch_marks(hall: Hall) -> None:
    standing = hall.stand({"a": 1.0, "b": 1.0})
    hall.set.begin(standing)
    assert hall.marks(standing, batch(gone=("far",)))


def test_an_item_that_the_query_asks_by(hall: Hall) -> None:
    parts = [_Part(1.0, item=ItemRef("captions", "q"))]
    standing = Standing(Question("images", parts, k=1), hall.wake)
    hall.set.add(standing)
    hall.settle(standing, {"a": 1.0})
    assert hall.marks(standing, batch("captions", gone=("q",)))
    assert not hall.marks(standing, batch("images", gone=("q",)))
    hall.settle(standing, {"b": 1.0})
    assert hall.marks(standing, batch("captions", put={"q": Y})), "also after another list"


def test_a_list_that_moved_on_lets_go_of_its_former_items(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9, "b": 0.8})
    hall.settle(standing, {"c": 0.9, "d": 0.8})
    assert not hall.marks(standing, batch(gone=("a", "b")))
    assert hall.marks(standing, batch(gone=("d",)))


def test_it_is_woken_once_and_remembers_the_first_cause(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9, "b": 0.8})
    woken = hall.woken
    hall.set.applied([batch(gone=("a",)), batch(gone=("b",))])
    assert hall.woken == woken + 1
    assert standing.since_ms == 7


def test_removing_leaves_the_others_in_place(hall: Hall) -> None:
    vectors = {n: unit([np.cos(n / 20), np.sin(n / 20)]) for n in range(30)}
    standing = {n: hall.stand({"a": 1.0, "b": 1.0}, vector=v) for n, v in vectors.items()}
    for n in range(0, 30, 2):
        hall.set.remove(standing.pop(n))
    assert len(hall.set) == 15
    for one in standing.values():
        one.dirty = False
        one._hits = [{"id": "a", "score": 0.9998}] * 2
        hall.set.settle(one, one.vector, one._hits)
    hall.set.applied([batch(put={"new": vectors[7]})])
    marked = {n for n, one in standing.items() if one.dirty}
    assert marked == {7}
    for one in standing.values():
        hall.set.remove(one)
    assert (len(hall.set), hall.set._by_item, hall.set._items_of) == (0, {}, {})


def test_a_search_that_ends_after_its_subscription_leaves_nothing_behind(hall: Hall) -> None:
    standing = hall.stand({"a": 1.0})
    hall.set.remove(standing)
    hall.set.begin(standing)
    hall.set.settle(standing, X, [{"id": "a", "score": 1.0}])
    assert not hall.set._unsettled
    assert not hall.set._by_item
    hall.set.applied([batch(gone=("a",))])


def test_everything_is_marked_when_the_state_is_another(hall: Hall) -> None:
    all_of_them = [hall.stand({"a": 1.0}) for _ in range(3)]
    hall.set.mark_all()
    assert all(standing.dirty for standing in all_of_them)


@pytest.mark.anyio
async def test_a_version_of_another_log_is_another_version() -> None:
    """A log made anew counts from 0 again: the same offset may be another record."""
    index = BruteIndex()
    asked = Asked(Question("images", [_Part(1.0, X)], k=2), X, {}, index.epoch)
    assert await asked.still_true(index)
    index.restart("epoch-2")
    assert not await asked.still_true(index)
