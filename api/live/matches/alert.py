"""One alert (a subscription of mode `matches`), and the hits that wait to be sent to it. No I/O.

An alert reports every item version that matches and was applied after its *position*, a state of
the index. The index's batches are matched with a live alert as they are applied. The past of any
other alert is read from the log (api.live.matches.replay), until its position is the index's state.
So nothing is kept for an alert but the hits that wait to be sent, and they are bounded: the log is
the buffer.

| State     | Step                                                              | Next      |
|-----------|-------------------------------------------------------------------|-----------|
| NEW       | `AlertSet.add`                                                    | QUEUED    |
| QUEUED    | a pass over the log takes it                                      | REPLAYING |
| REPLAYING | its position is the index's state                                 | LIVE      |
| REPLAYING | the pass ends before that                                         | QUEUED    |
| REPLAYING | the pass ends, and as many hits wait as the limit allows          | PAUSED    |
| REPLAYING | its query has no vector any longer, or the pass failed            | FAILED    |
| LIVE      | it cannot be matched with a batch, and no hit waits               | QUEUED    |
| LIVE      | it cannot be matched with a batch, and hits wait                  | PAUSED    |
| PAUSED    | the client has taken all hits                                     | QUEUED    |
| any but NEW | `AlertSet.remove`                                               | REMOVED   |

A live alert cannot be matched with a batch that changes its query's item, that has too many matches
for it, or after which the index's state is not known. A step that is not in the table raises
WrongStep.
"""

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api.live.limits import AlertLimits
from api.queries.prepare import PreparedQuery
from contracts.ports.hit import Hit
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from contracts.wrong_step import require_state


class AlertState(enum.Enum):
    """The state of an alert."""

    NEW = "new"
    QUEUED = "queued"
    REPLAYING = "replaying"
    LIVE = "live"
    PAUSED = "paused"
    FAILED = "failed"
    REMOVED = "removed"


# The states from which each state may be reached.
_BEFORE = {
    AlertState.QUEUED: (
        AlertState.NEW,
        AlertState.REPLAYING,
        AlertState.LIVE,
        AlertState.PAUSED,
    ),
    AlertState.REPLAYING: (AlertState.QUEUED,),
    AlertState.LIVE: (AlertState.REPLAYING,),
    AlertState.PAUSED: (AlertState.REPLAYING, AlertState.LIVE),
    AlertState.FAILED: (AlertState.REPLAYING,),
    AlertState.REMOVED: (
        AlertState.QUEUED,
        AlertState.REPLAYING,
        AlertState.LIVE,
        AlertState.PAUSED,
        AlertState.FAILED,
    ),
}


class PendingCount:
    """The number of hits that wait to be sent, of all alerts of a node."""

    def __init__(self) -> None:
        self.count = 0


@dataclass(slots=True)
class _PendingHits:
    """Hits up to a position, which is reached when all of them have been sent."""

    hits: list[Hit]
    position: AsOf


class Alert:
    """One alert: its query, how far it has come, and the hits that wait to be sent.

    `wake` is called when there is something to send.
    """

    def __init__(
        self,
        query: PreparedQuery,
        position: AsOf,
        wake: Callable[[], None],
        limits: AlertLimits | None = None,
    ) -> None:
        self.query = query
        self.state = AlertState.NEW
        # All matches up to here have been sent, or wait to be sent.
        self.position = position
        # All matches up to here have been sent.
        self.delivered = position
        # The item that gives the query's vector changed after the vector was looked up.
        self.has_stale_vector = False
        # The reason why it failed.
        self.error: Exception | None = None
        # The reason why matches between the last position and this one are missing.
        self.reset_reason: str | None = None
        # Shared by all alerts of a node once this one is among them.
        self.shared_count = PendingCount()
        self._limits = limits or AlertLimits()
        self._groups: deque[_PendingHits] = deque()
        self._pending = 0
        self._wake = wake

    def move_to(self, state: AlertState) -> None:
        """Take a step of the table above. Raises WrongStep."""
        require_state("alert", self.state, *_BEFORE[state])
        self.state = state

    @property
    def target(self) -> Target:
        """The target that is matched."""
        return self.query.target

    @property
    def floor(self) -> float:
        """The lowest score that matches."""
        min_score = self.query.min_score
        return float("-inf") if min_score is None else min_score

    @property
    def is_live(self) -> bool:
        """Return whether it is matched with the batches that the index applies."""
        return self.state is AlertState.LIVE

    @property
    def is_paused(self) -> bool:
        """Return whether its past is read further only once the client has taken its hits."""
        return self.state is AlertState.PAUSED

    @property
    def is_full(self) -> bool:
        """Return whether as many hits wait to be sent as the limit allows."""
        return self._pending >= self._limits.pending_max

    @property
    def has_news(self) -> bool:
        """Return whether hits wait to be sent."""
        return bool(self._groups)

    @property
    def pending_count(self) -> int:
        """The number of hits that wait to be sent."""
        return self._pending

    def has_room(self, count: int) -> bool:
        """Return whether `count` more hits may wait; the hits of one batch always may."""
        return not self._pending or self._pending + count <= self._limits.pending_max

    def add(self, hits: Sequence[Hit], position: AsOf) -> None:
        """Advance to `position`, and let `hits`, all matches up to there, wait to be sent."""
        self.position = position
        if hits:
            self._groups.append(_PendingHits(list(hits), position))
            self._count(len(hits))
            self._wake()
        elif self._groups:
            self._groups[-1].position = position
        else:
            self.delivered = position

    def take(self, count_max: int) -> list[Hit]:
        """Return the next hits to send; `delivered` is the position once they are sent."""
        taken: list[Hit] = []
        while self._groups and len(taken) < count_max:
            group = self._groups[0]
            room = count_max - len(taken)
            taken += group.hits[:room]
            del group.hits[:room]
            if not group.hits:
                self.delivered = group.position
                self._groups.popleft()
        self._count(-len(taken))
        return taken

    def reset_to(self, position: AsOf, reason: str) -> None:
        """Continue from `position`, since the matches before it cannot be read."""
        self.clear()
        self.position = self.delivered = position
        self.reset_reason = reason
        self._wake()

    def clear(self) -> None:
        """Drop the hits that wait to be sent."""
        self._groups.clear()
        self._count(-self._pending)

    def fail(self, error: Exception) -> None:
        """Move to FAILED, and wake the session, which reports the error to the client."""
        self.move_to(AlertState.FAILED)
        self.error = error
        self._wake()

    def _count(self, more: int) -> None:
        self._pending += more
        self.shared_count.count += more
