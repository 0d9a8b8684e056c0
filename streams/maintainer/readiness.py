"""The decision whether an index node may answer searches (invariant 8)."""

from contracts.events.record import Positions
from index_store.index import Index

# Below this a topic keeps nothing that a node could stand for, and no node would ever be ready.
_STALE_MIN_S = 60.0


class Readiness:
    """The conditions under which a node is ready, decided from the index's positions and times.

    A node is ready once it has passed `stable_ends`, everything that was stable when it began to
    read, and as long as it was caught up within the last `stale_s`.
    """

    def __init__(self, stable_ends: Positions, stale_s: float) -> None:
        self._stable_ends = stable_ends
        self._stale_s = stale_s

    def reason_not_ready(self, index: Index, now: float) -> str | None:
        """Return why the node is not ready at `now`, or None if it is ready."""
        behind = sum(index.positions[tp] < end for tp, end in self._stable_ends.items())
        if behind:
            return f"replaying: {behind} partitions are not caught up yet"
        oldest = min(index.caught_up_at.values(), default=None)
        if oldest is not None and now - oldest > self._stale_s:
            return (
                f"caught up last {now - oldest:.0f} s ago, limit {self._stale_s:.0f} s "
                "(min.compaction.lag.ms, TIDELENS_STALE_AFTER_S)"
            )
        return None


def stale_limit_s(stale_after_s: float, compaction_lag_s: float) -> float:
    """Return for how long a node that is not caught up may answer.

    A node must not serve a state that compaction may have made impossible to follow, so the topics'
    compaction lag bounds the setting.
    """
    return min(stale_after_s, max(_STALE_MIN_S, compaction_lag_s))
