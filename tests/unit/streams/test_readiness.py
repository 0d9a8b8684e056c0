"""The readiness of an index node: it has passed the start's stable ends, and is not stale."""

from types import SimpleNamespace
from typing import cast

import pytest

from contracts.events.record import TopicPartition
from index_store.index import Index
from streams.maintainer.readiness import Readiness, stale_limit_s

FIRST, SECOND = TopicPartition("t.e", 0), TopicPartition("t.e", 1)


def index_at(first: int, second: int, *, caught_up_at: float = 1_000.0) -> Index:
    """Return what `Readiness` reads of an index: its positions and times."""
    state = SimpleNamespace(
        positions={FIRST: first, SECOND: second},
        caught_up_at={FIRST: caught_up_at, SECOND: 2_000.0},
    )
    return cast(Index, state)


@pytest.mark.parametrize(("first", "second", "behind"), [(0, 0, 2), (5, 2, 1), (9, 3, 0)])
def test_a_node_replays_until_it_has_passed_every_stable_end(
    first: int, second: int, behind: int
) -> None:
    readiness = Readiness({FIRST: 5, SECOND: 3}, stale_s=600)
    reason = readiness.reason_not_ready(index_at(first, second), 1_000.0)
    wanted = f"replaying: {behind} partitions are not caught up yet"
    assert reason == (wanted if behind else None)


def test_a_node_whose_oldest_partition_is_stale_is_not_ready() -> None:
    readiness = Readiness({FIRST: 5, SECOND: 3}, stale_s=600)
    index = index_at(5, 3)
    assert readiness.reason_not_ready(index, 1_600.0) is None
    assert readiness.reason_not_ready(index, 1_601.0) == (
        "caught up last 601 s ago, limit 600 s (min.compaction.lag.ms, TIDELENS_STALE_AFTER_S)"
    )


@pytest.mark.parametrize(
    ("setting_s", "compaction_lag_s", "limit_s"), [(600, 3600, 600), (600, 120, 120), (600, 0, 60)]
)
def test_the_compaction_lag_bounds_the_setting_but_not_below_a_minute(
    setting_s: float, compaction_lag_s: float, limit_s: float
) -> None:
    assert stale_limit_s(setting_s, compaction_lag_s) == limit_s
