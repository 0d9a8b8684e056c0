"""Applied batches change the lists of standing queries, or make a search of them due."""

from collections.abc import Mapping

import numpy as np
import orjson
import pytest

from api.live.limits import ListLimits
from api.live.top.ranked_item import ranked_item
from api.live.top.standing_query import QueryState, StandingQuery, Subscriber
from api.live.top.standing_set import StandingQuerySet
from api.queries.prepare import ItemRef, PreparedQuery, _Summand
from contracts.events.record import RecordPosition
from contracts.filters.json_form import parse
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch
from contracts.score import Vectors, unit
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from contracts.wrong_step import WrongStep
from tests.kits.api_kit import SlackMatcher

X, Y = unit([1.0, 0.0]), unit([0.0, 1.0])
NEITHER = np.empty((0, 2), np.float16)


def made(item_id: str, score: float = 0.0, **rest: object) -> Hit:
    return Hit("images", item_id, 0, score, RecordPosition("t", 0, 0), **rest)  # type: ignore[arg-type]


def batch(
    target: Target = "images",
    put: dict[str, Vectors] | None = None,
    gone: tuple[str, ...] = (),
    metadata: Mapping[str, object] | None = None,
) -> AppliedBatch:
    put = put or {}
    vectors = np.stack(list(put.values())) if put else NEITHER
    hits = [made(one, metadata=metadata, vector=vector) for one, vector in put.items()]
    return AppliedBatch(target, list(put), vectors, gone, hits.__getitem__, appended_ms=7)


class Hall:
    """A set with standing queries for X, settled with a list each."""

    def __init__(self, recent_rows_max: int = 1000) -> None:
        limits = ListLimits(recent_rows_max=recent_rows_max)
        self.woken = 0
        self.searches = 0
        self.set = StandingQuerySet(SlackMatcher(), self.search, limits)

    def wake(self) -> None:
        self.woken += 1

    def search(self) -> None:
        self.searches += 1

    def stand(
        self, hits: dict[str, float], *, vector: Vectors = X, k: int = 2, **question: object
    ) -> StandingQuery:
        asked = PreparedQuery("images", [_Summand(1.0, vector)], k=k, **question)  # type: ignore[arg-type]
        return self.settled(StandingQuery(asked), hits, vector)

    def settled(
        self, standing: StandingQuery, hits: dict[str, float], vector: Vectors = X
    ) -> StandingQuery:
        standing.subscribe(self.wake)
        self.set.add(standing)
        self.set.take_due(1)
        self.settle(standing, hits, vector)
        assert standing.is_current
        told(standing).has_changed = False
        return standing

    def settle(self, standing: StandingQuery, hits: dict[str, float], vector: Vectors = X) -> None:
        self.found(standing, vector, [made(*hit) for hit in hits.items()])

    def found(
        self, standing: StandingQuery, vector: Vectors, hits: list[Hit], *as_of: AsOf
    ) -> None:
        found = self.set.refill_result(standing, vector, list(map(ranked_item, hits)), *as_of)
        if found is not None:
            self.set.complete_refill(found)

    def changes(self, standing: StandingQuery, *batches: AppliedBatch) -> bool:
        told(standing).has_changed = False
        self.set.apply_batches(batches)
        return told(standing).has_changed


def told(standing: StandingQuery) -> Subscriber:
    """Return the query's one subscriber."""
    [watching] = standing.subscribers
    return watching


@pytest.fixture
def hall() -> Hall:
    return Hall()


def listed(standing: StandingQuery) -> list[tuple[str, float]]:
    assert standing.is_current
    return [(item.id, round(score, 3)) for score, item in standing.top()]


def test_an_item_of_the_list_put_anew_or_taken_out(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9, "b": 0.8, "c": 0.7})
    assert hall.changes(standing, batch(put={"a": Y}))
    assert listed(standing) == [("b", 0.8), ("c", 0.7)]
    assert hall.changes(standing, batch(gone=("b",)))
    assert listed(standing) == [("c", 0.7), ("a", 0.0)]
    assert not hall.changes(standing, batch(gone=("d",)))
    assert not hall.changes(standing, batch("captions", put={"a": X}, gone=("c",)))
    assert hall.searches == 1


def test_equal_scores_are_ordered_by_id(hall: Hall) -> None:
    standing = hall.stand({"b": 1.0, "d": 1.0})
    assert hall.changes(standing, batch(put={"c": X}))
    assert not hall.changes(standing, batch(put={"e": X}))
    assert listed(standing) == [("b", 1.0), ("c", 1.0)]


def test_min_score_and_filter_keep_out(hall: Hall) -> None:
    near = unit([0.7, 0.714])
    picky = hall.stand({"a": 1.0}, min_score=0.5, filter=parse({"eq": {"lang": "en"}}))
    assert not hall.changes(picky, batch(put={"c": Y}, metadata={"lang": "en"}))
    assert not hall.changes(picky, batch(put={"c": near}, metadata={"lang": "de"}))
    assert hall.changes(picky, batch(put={"c": near}, metadata={"lang": "en"}))
    assert [one for one, _ in listed(picky)] == ["a", "c"]
    # It no longer matches: its metadata changed, and nothing else.
    assert hall.changes(picky, batch(put={"c": near}))
    assert listed(picky) == [("a", 1.0)]


def test_one_that_lost_too_many_is_searched(hall: Hall) -> None:
    standing = hall.stand({f"i{n:02}": 1 - n / 20 for n in range(12)})
    gone = tuple(f"i{n:02}" for n in range(11))
    hall.set.apply_batches([batch(gone=gone[:10])])
    assert (standing.is_current, hall.set.waiting()) == (True, 0)
    hall.set.apply_batches([batch(gone=gone[10:])])
    assert (standing.is_current, hall.set.waiting(), hall.searches) == (False, 1, 2)
    assert hall.set.take_due(5) == [standing]
    hall.settle(standing, {"i11": 0.4})
    assert listed(standing) == [("i11", 0.4)]
    assert told(standing).changed_since_ms == 7


def test_what_comes_while_it_is_searched_is_folded_in(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9})
    hall.set.invalidate_all()
    hall.set.apply_batches([batch(gone=("z",))])  # before it begins: the search sees it
    hall.set.take_due(1)
    hall.set.apply_batches([batch(put={"a": Y, "n": X}), batch(gone=("b", "n"))])
    hall.set.apply_batches([batch("captions", put={"m": X})])
    hall.settle(standing, {"n": 1.0, "a": 0.9, "b": 0.8, "z": 0.7})
    assert listed(standing) == [("z", 0.7), ("a", 0.0)]
    assert len(hall.set._recent_batches) == 0


def test_a_search_that_took_too_long_is_made_again() -> None:
    hall = Hall(recent_rows_max=6)
    standing = hall.stand({"a": 0.9})
    hall.set.invalidate_all()
    hall.set.take_due(1)
    hall.set.apply_batches([batch(put={name: Y}) for name in "bcd"])
    assert len(hall.set._recent_batches) == 3
    hall.set.apply_batches([batch(put={"e": Y})])
    hall.settle(standing, {"a": 0.9})
    assert (standing.is_current, hall.set.waiting(), len(hall.set._recent_batches)) == (False, 1, 0)


def test_an_item_that_the_query_asks_by(hall: Hall) -> None:
    parts = [_Summand(1.0, item=ItemRef("captions", "q"))]
    standing = hall.settled(StandingQuery(PreparedQuery("images", parts, k=1)), {"a": 1.0})
    hall.set.apply_batches([batch("images", gone=("q",))])
    assert standing.is_current
    hall.set.apply_batches([batch("captions", put={"q": Y})])
    assert hall.set.take_due(1) == [standing]
    # Again while it is searched: what it finds is of the old vector.
    hall.set.apply_batches([batch("captions", put={"q": X})])
    hall.settle(standing, {"a": 1.0}, Y)
    assert (standing.is_current, hall.set.waiting()) == (False, 1)
    hall.set.take_due(1)
    hall.settle(standing, {"b": 1.0})
    assert listed(standing) == [("b", 1.0)]


def test_with_collapse_whatever_concerns_the_list_is_searched(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9, "b": 0.8}, collapse=True)
    assert standing.list.wanted == 2
    hall.set.apply_batches([batch(put={"c": unit([0.7, 0.714])}, gone=("d",))])
    assert standing.is_current
    for concerned in (batch(put={"c": X}), batch(gone=("b",))):
        hall.set.apply_batches([concerned])
        assert hall.set.take_due(1) == [standing]
        hall.settle(standing, {"a": 0.9, "b": 0.8})
        assert standing.is_current
    hall.set.invalidate_all()
    hall.set.take_due(1)
    hall.set.apply_batches([batch(put={"c": X})])
    hall.settle(standing, {"a": 0.9, "b": 0.8})
    assert not standing.is_current


def test_a_busy_one_with_collapse_is_told_what_it_was(hall: Hall) -> None:
    """It may never be searched without a batch between; what was found is true of its state."""
    standing = hall.stand({"a": 0.9}, collapse=True)
    hall.set.invalidate_all()
    for state in ("one", "two"):
        assert hall.set.take_due(1) == [standing]
        hall.set.apply_batches([batch(put={"b": X})])
        as_of = AsOf("s", state, {})
        hall.found(standing, X, [made("a", 0.9)], as_of)
        assert (standing.is_current, told(standing).has_changed, hall.set.waiting()) == (
            False,
            True,
            1,
        )
        overtaken = told(standing).fallback
        assert overtaken is not None
        assert ([(score, item.id) for score, item in overtaken[0]], overtaken[1]) == (
            [(0.9, "a")],
            as_of,
        )
    hall.set.take_due(1)
    hall.settle(standing, {"b": 1.0, "a": 0.9})
    assert (standing.is_current, told(standing).fallback) == (True, None)


def test_a_filter_looks_at_a_row_once(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    condition, looked = parse({"eq": {"lang": "en"}}), 0
    matches = type(condition).matches

    def counted(self: object, metadata: Mapping[str, object]) -> bool:
        nonlocal looked
        looked += 1
        return matches(self, metadata)  # type: ignore[arg-type]

    monkeypatch.setattr(type(condition), "matches", counted)
    standing = [hall.stand({}, filter=condition) for _ in range(5)]
    hall.set.apply_batches([batch(put={"a": X, "b": X, "c": Y}, metadata={"lang": "de"})])
    assert looked == 3
    hall.set.apply_batches([batch(put={"d": X}, metadata={"lang": "en"})])
    assert [listed(one) for one in standing] == [[("d", 1.0)]] * 5


def test_what_is_kept_for_a_search_is_bounded_and_let_go() -> None:
    hall = Hall(recent_rows_max=10)
    standing = hall.stand({"a": 0.9})
    hall.set.invalidate_all()
    hall.set.take_due(1)
    hall.set.apply_batches([batch() for _ in range(100)])
    assert len(hall.set._recent_batches) == 10
    hall.set.fail(standing, ValueError("no"))
    assert (len(hall.set._recent_batches), str(told(standing).error)) == (0, "no")


def test_one_that_failed_and_was_found_after_all_has_not_failed(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9})
    hall.set.invalidate_all()
    hall.set.take_due(1)
    hall.set.requeue(standing)
    standing.fail(ValueError("not yet"))
    hall.set.take_due(1)
    hall.settle(standing, {"a": 0.9})
    assert (told(standing).error, told(standing).has_changed) == (None, True)


def test_it_is_woken_once_and_remembers_the_first_cause(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9, "b": 0.8})
    woken = hall.woken
    hall.set.apply_batches([batch(gone=("a",)), batch(gone=("b",))])
    assert hall.woken == woken + 1
    assert told(standing).changed_since_ms == 7


def test_vectors_come_along_only_where_they_are_asked_for(hall: Hall) -> None:
    plain, whole = hall.stand({}), hall.stand({}, include=["vector"])
    hall.set.apply_batches([batch(put={"a": X})])
    [(score, item)], [(_, same)] = plain.top(), whole.top()
    assert item is same
    assert b"vector" not in orjson.dumps(item.wire(1, score))
    assert b'"vector":[1.0,0.0]' in orjson.dumps(item.wire(1, score, ["vector"]))


def test_removing_leaves_the_others_in_place(hall: Hall) -> None:
    vectors = {n: unit([np.cos(n / 20), np.sin(n / 20)]) for n in range(30)}
    full = {f"a{n:02}": 0.9998 for n in range(12)}
    standing = {n: hall.stand(full, vector=v) for n, v in vectors.items()}
    for n in range(0, 30, 2):
        hall.set.remove(standing.pop(n))
    assert len(hall.set) == 15
    hall.set.apply_batches([batch(put={"a-new": vectors[7]})])
    assert {n for n, one in standing.items() if told(one).has_changed} == {7}
    for one in standing.values():
        hall.set.remove(one)
    assert (len(hall.set), len(hall.set._shared_items["images"])) == (0, 0)


def test_a_search_that_ends_after_its_subscription_leaves_nothing_behind(hall: Hall) -> None:
    standing = hall.stand({"a": 1.0})
    hall.set.invalidate_all()
    hall.set.take_due(1)
    hall.set.apply_batches([batch(put={"b": X})])
    hall.set.remove(standing)
    assert len(hall.set._recent_batches) == 0
    hall.settle(standing, {"a": 1.0})
    hall.set.requeue(standing)
    assert (len(hall.set._shared_items["images"]), hall.set.waiting()) == (0, 0)
    hall.set.apply_batches([batch(gone=("a",))])


def test_everything_is_searched_when_the_state_is_another(hall: Hall) -> None:
    all_of_them = [hall.stand({"a": 1.0}) for _ in range(3)]
    hall.set.invalidate_all()
    assert set(hall.set.take_due(9)) == set(all_of_them)
    assert not any(standing.is_current for standing in all_of_them)
    assert hall.set.take_due(9) == []


def test_a_step_that_the_state_does_not_allow() -> None:
    query = StandingQuery(PreparedQuery("images", [_Summand(1.0, X)], k=2))
    with pytest.raises(WrongStep, match=r"^standing query: want DUE, got NEW$"):
        query.move_to(QueryState.SEARCHING)
    query.move_to(QueryState.DUE)
    query.move_to(QueryState.SEARCHING)
    query.move_to(QueryState.FAILED)
    for state in set(QueryState) - {QueryState.NEW, QueryState.REMOVED}:
        with pytest.raises(WrongStep, match=r"^standing query: want .*, got FAILED$"):
            query.move_to(state)
    assert query.has_failed


def test_a_wrong_step_leaves_the_set_as_it_was(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9})
    with pytest.raises(WrongStep, match="want DUE or SEARCHING, got CURRENT"):
        hall.set.fail(standing, ValueError("no"))
    assert listed(standing) == [("a", 0.9)]
    assert hall.changes(standing, batch(put={"b": X}))


def test_one_that_failed_is_not_searched_again(hall: Hall) -> None:
    standing = hall.stand({"a": 0.9})
    hall.set.invalidate_all()
    hall.set.take_due(1)
    hall.set.fail(standing, ValueError("no"))
    hall.set.invalidate_all()
    assert (hall.set.take_due(9), str(told(standing).error)) == ([], "no")
    hall.set.remove(standing)
    assert len(hall.set) == 0
