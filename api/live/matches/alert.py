"""Mode `matches`: alerts about what is newly applied. No I/O.

An alert is told of every item version that matches and was applied after its *position*, a state of
the index. One that *follows* is matched with each batch as it is applied. One that is new, was
away, or could not keep up has its past read from the log instead (api.live.matches.replay), until
it stands where the index does. So nothing has to be kept for it but what it was not told yet,
within a limit: the log is the buffer.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from api.live.batch_match import FILTER_EVALUATIONS_MAX, MatchBatch, QueryMatrix
from api.queries.prepare import ItemRef, PreparedQuery
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch, Matcher
from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf

# Hits that wait to be told to one, and to all; at more, they are read again when there is room.
_HELD_MAX = 4096
_HELD_BY_ALL = 500_000
# Matches of one batch that are looked at on the event loop: 15 ms.
_AT_ONCE = 4096


@dataclass(slots=True)
class _PendingHits:
    """Hits that belong together: once all are told, the position is reached."""

    hits: list[Hit]
    position: AsOf


class Alert:
    """One alert: what it asks, how far it has come, and what it is to be told.

    `wake` is called when there is something to tell.
    """

    def __init__(self, query: PreparedQuery, position: AsOf, wake: Callable[[], None]) -> None:
        self.query = query
        # Everything up to here has been told, or is held.
        self.position = position
        # Everything up to here has been told.
        self.told = position
        self.following = False
        # Whether it has to be read on, once there is room.
        self.paused = False
        # Whether what it asks for may have another vector than the one it was last given.
        self.stale = False
        self.error: Exception | None = None
        # Why what it held before says nothing about what comes now.
        self.lost: str | None = None
        # Shared by all alerts of a node, once it is among them.
        self.tally = PendingCount()
        self._groups: deque[_PendingHits] = deque()
        self._held = 0
        self._wake = wake

    @property
    def target(self) -> Target:
        return self.query.target

    @property
    def floor(self) -> float:
        least = self.query.min_score
        return float("-inf") if least is None else least

    @property
    def is_full(self) -> bool:
        return self._held >= _HELD_MAX

    @property
    def has_news(self) -> bool:
        return bool(self._groups)

    def has_room(self, more: int) -> bool:
        """One batch always fits."""
        return not self._held or self._held + more <= _HELD_MAX

    @property
    def held(self) -> int:
        """Hits that wait to be told."""
        return self._held

    def add(self, hits: Sequence[Hit], position: AsOf) -> None:
        """What matched between its position and this one."""
        self.position = position
        if hits:
            self._groups.append(_PendingHits(list(hits), position))
            self._count(len(hits))
            self._wake()
        elif self._groups:
            self._groups[-1].position = position
        else:
            self.told = position

    def take(self, most: int) -> list[Hit]:
        """The next to tell, at most so many; `told` is where it is once they are."""
        taken: list[Hit] = []
        while self._groups and len(taken) < most:
            group = self._groups[0]
            room = most - len(taken)
            taken += group.hits[:room]
            del group.hits[:room]
            if not group.hits:
                self.told = group.position
                self._groups.popleft()
        self._count(-len(taken))
        return taken

    def lose(self, reason: str, position: AsOf) -> None:
        """Go on from `position`: what was between is not to be had."""
        self.clear()
        self.position = self.told = position
        self.lost = reason
        self._wake()

    def clear(self) -> None:
        self._groups.clear()
        self._count(-self._held)

    def fail(self, error: Exception) -> None:
        self.error = error
        self._wake()

    def _count(self, more: int) -> None:
        self._held += more
        self.tally.count += more


class PendingCount:
    """Hits that wait to be told, of all alerts."""

    def __init__(self) -> None:
        self.count = 0


class AlertSet:
    """All alerts of one node. `read` is called with one whose past must be read from the log."""

    def __init__(self, matcher: Matcher, read: Callable[[Alert], None]) -> None:
        self._matcher = matcher
        self._read = read
        self._all: set[Alert] = set()
        self._asking: dict[ItemRef, set[Alert]] = {}
        self._rows: dict[Target, QueryMatrix[Alert]] = {target: QueryMatrix() for target in TARGETS}
        self._tally = PendingCount()
        # The state after the batches applied last.
        self._state: AsOf | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, alert: Alert) -> bool:
        return alert in self._all

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read until something was told."""
        return self._tally.count >= _HELD_BY_ALL

    def add(self, alert: Alert) -> None:
        """Register it, to be read up to now."""
        alert.tally = self._tally
        self._all.add(alert)
        for item in alert.query.items:
            self._asking.setdefault(item, set()).add(alert)
        self._read(alert)

    def remove(self, alert: Alert) -> None:
        self._all.discard(alert)
        self._stop(alert)
        alert.clear()
        for item in alert.query.items:
            asking = self._asking.get(item, set())
            asking.discard(alert)
            if not asking:
                self._asking.pop(item, None)

    def follow(self, alert: Alert, vector: Vectors, now: AsOf) -> None:
        """It has been read up to the state of now: from here on it is matched with batches."""
        alert.add([], now)
        alert.following = True
        self._rows[alert.target].put(alert, vector, alert.floor)

    def applied(self, batches: Iterable[AppliedBatch], now: AsOf | None) -> None:
        """Match batches; `now` is the state after them, None where it cannot be told."""
        found: dict[Alert, list[Hit]] = {}
        for applied in batches:
            if self._asking:
                self._turn_stale(applied)
            if now is None:
                continue
            batch = MatchBatch(applied, self._matcher)
            matches = batch.matches(
                self._rows[applied.target].now(), _AT_ONCE, FILTER_EVALUATIONS_MAX
            )
            for alert in matches.left_out:
                self._read_again(alert)
            for alert, number, score in matches:
                hit = batch.scored(number, score, with_vector=alert.query.with_vector)
                found.setdefault(alert, []).append(hit)
        if now is None:
            self._read_all_again()
        else:
            for alert, hits in found.items():
                # By a later batch, it may have turned stale meanwhile.
                if alert.following and alert.has_room(len(hits)) and not self.is_full:
                    alert.add(hits, now)
                elif alert.following:
                    self._read_again(alert)
        self._state = now

    def reached(self, alert: Alert, now: AsOf) -> AsOf:
        """The state up to which it has been told everything; `now` is the index's."""
        if alert.following and not alert.has_news:
            alert.add([], now)
        return alert.told

    def mark_all(self) -> None:
        """The state became another one altogether."""
        self._state = None
        self._read_all_again()

    def _turn_stale(self, applied: AppliedBatch) -> None:
        for item_id in chain(applied.upserted, applied.removed):
            for alert in self._asking.get(ItemRef(applied.target, item_id), ()):
                alert.stale = True
                if alert.following:
                    self._read_again(alert)

    def _read_all_again(self) -> None:
        for alert in self._all:
            if alert.following:
                self._read_again(alert)

    def _read_again(self, alert: Alert) -> None:
        """From the state before these batches, up to which it has, or will be, told everything."""
        self._stop(alert)
        if self._state is not None and self._state.covers(alert.position):
            alert.add([], self._state)
        if alert.has_room(_HELD_MAX):
            self._read(alert)
        else:
            alert.paused = True

    def _stop(self, alert: Alert) -> None:
        alert.following = False
        self._rows[alert.target].remove(alert)
