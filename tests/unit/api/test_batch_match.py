"""Filters in a batch are evaluated on paired rows, once a row, and within a limit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from api.live.batch_match import MatchBatch, QueryMatrix
from api.live.top.standing_query import StandingQuery
from api.queries.prepare import PreparedQuery
from contracts.events.record import RecordPosition
from contracts.filters.nodes import Exists
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch
from contracts.score import unit
from tests.kits.api_kit import SlackMatcher

X, Y = unit([1.0, 0.0]), unit([0.0, 1.0])


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the list of the fields that filters looked up, one entry for each evaluation."""
    found: list[object] = []
    matches = Exists.matches

    def counted(self: Exists, metadata: Mapping[str, Any]) -> bool:
        found.append(self.field)
        return matches(self, metadata)

    monkeypatch.setattr(Exists, "matches", counted)
    return found


def batch(count: int) -> MatchBatch:
    def hit(n: int) -> Hit:
        return Hit("captions", f"{n}", 0, 0.0, RecordPosition("t", 0, n), metadata={"a": 1, "b": 2})

    vectors = np.stack([X, *[Y] * (count - 1)])
    ids = [f"{n}" for n in range(count)]
    return MatchBatch(AppliedBatch("captions", ids, vectors, [], hit), SlackMatcher())


def asking(
    fields: Sequence[str], floor: float
) -> tuple[QueryMatrix[StandingQuery], list[StandingQuery]]:
    rows, owners = QueryMatrix[StandingQuery](), []
    for field in fields:
        owner = StandingQuery(PreparedQuery("captions", [], filter=Exists(field)))
        rows.put(owner, X, floor)
        owners.append(owner)
    return rows, owners


def test_a_filter_looks_only_at_what_is_near_enough(looks: list[object]) -> None:
    rows, [owner] = asking(["a"], floor=0.5)
    assert list(batch(1000).matches(rows.view())) == [(owner, 0, 1.0)]
    assert looks == ["a"]


def test_equal_filters_share_their_looks(looks: list[object]) -> None:
    rows, _ = asking(["a", "a", "a"], floor=-1.0)
    matches = batch(5).matches(rows.view(), evaluations_max=5)
    assert (len(list(matches)), len(looks), matches.left_out) == (15, 5, [])


def test_those_for_whom_there_is_no_time_are_left_out(looks: list[object]) -> None:
    rows, owners = asking(["a", "b", "c"], floor=-1.0)
    matches = batch(5).matches(rows.view(), evaluations_max=10)
    assert {owner for owner, _, _ in matches} == set(owners[:2])
    assert (matches.left_out, len(looks)) == (owners[2:], 10)


def test_one_alone_is_never_left_out(looks: list[object]) -> None:
    rows, _ = asking(["a"], floor=-1.0)
    matches = batch(5).matches(rows.view(), evaluations_max=1)
    assert (len(list(matches)), matches.left_out) == (5, [])
