"""All alerts of a node, and their matches with each batch that the index applies. No I/O."""

from collections.abc import Callable, Iterable
from itertools import chain

from api.live.batch_match import FILTER_EVALUATIONS_MAX, MatchBatch, QueryMatrix
from api.live.limits import AlertLimits
from api.live.matches.alert import Alert, AlertState, PendingCount
from api.queries.prepare import ItemRef
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch, Matcher
from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf


class AlertSet:
    """All alerts of a node. `replay` is called with one whose past must be read from the log.

    All methods are plain functions, so that no other task sees a state in between.
    """

    def __init__(
        self,
        matcher: Matcher,
        replay: Callable[[Alert], None],
        limits: AlertLimits | None = None,
    ) -> None:
        self._matcher = matcher
        self._replay = replay
        self._limits = limits or AlertLimits()
        self._all: set[Alert] = set()
        # The alerts whose vector comes from an item, by that item.
        self._by_query_item: dict[ItemRef, set[Alert]] = {}
        # The vectors of the live alerts.
        self._matrices: dict[Target, QueryMatrix[Alert]] = {
            target: QueryMatrix() for target in TARGETS
        }
        self._pending = PendingCount()
        # The state after the batches that were applied last.
        self._state: AsOf | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, alert: Alert) -> bool:
        return alert in self._all

    @property
    def is_full(self) -> bool:
        """Return whether nothing more should be read until some hits have been sent."""
        return self._pending.count >= self._limits.pending_of_all_max

    def add(self, alert: Alert) -> None:
        """Register an alert, whose past is read from the log first."""
        alert.shared_count = self._pending
        self._all.add(alert)
        for item in alert.query.items:
            self._by_query_item.setdefault(item, set()).add(alert)
        self._replay(alert)

    def remove(self, alert: Alert) -> None:
        """Forget an alert and the hits that wait to be sent to it."""
        alert.move_to(AlertState.REMOVED)
        self._all.discard(alert)
        self._matrices[alert.target].remove(alert)
        alert.clear()
        for item in alert.query.items:
            users = self._by_query_item.get(item, set())
            users.discard(alert)
            if not users:
                self._by_query_item.pop(item, None)

    def go_live(self, alert: Alert, vector: Vectors, now: AsOf) -> None:
        """Match an alert with all batches from now on; it has been read up to the state `now`."""
        alert.move_to(AlertState.LIVE)
        alert.add([], now)
        self._matrices[alert.target].put(alert, vector, alert.floor)

    def apply_batches(self, batches: Iterable[AppliedBatch], now: AsOf | None) -> None:
        """Match batches; `now` is the state after them, or None if it is not known."""
        found: dict[Alert, list[Hit]] = {}
        for applied in batches:
            if self._by_query_item:
                self._mark_stale_vectors(applied)
            if now is not None:
                self._match(applied, found)
        if now is None:
            self._stop_all()
        else:
            for alert, hits in found.items():
                # A later batch may have changed the item that gives the alert's vector.
                if alert.is_live and alert.has_room(len(hits)) and not self.is_full:
                    alert.add(hits, now)
                elif alert.is_live:
                    self._stop(alert)
        self._state = now

    def delivered_up_to(self, alert: Alert, now: AsOf) -> AsOf:
        """Return the state up to which all matches have been sent; `now` is the index's state."""
        if alert.is_live and not alert.has_news:
            alert.add([], now)
        return alert.delivered

    def invalidate_all(self) -> None:
        """Read for all live alerts, since the state is not a successor of the last one."""
        self._state = None
        self._stop_all()

    def _match(self, applied: AppliedBatch, found: dict[Alert, list[Hit]]) -> None:
        """Add the matches of a batch to `found`; alerts with too many are read for instead."""
        batch = MatchBatch(applied, self._matcher)
        matches = batch.matches(
            self._matrices[applied.target].view(),
            self._limits.inline_matches_max,
            FILTER_EVALUATIONS_MAX,
        )
        for alert in matches.left_out:
            self._stop(alert)
        for alert, number, score in matches:
            hit = batch.scored(number, score, with_vector=alert.query.with_vector)
            found.setdefault(alert, []).append(hit)

    def _mark_stale_vectors(self, applied: AppliedBatch) -> None:
        """Note the alerts whose vector comes from an item of the batch."""
        for item_id in chain(applied.upserted, applied.removed):
            for alert in self._by_query_item.get(ItemRef(applied.target, item_id), ()):
                alert.has_stale_vector = True
                if alert.is_live:
                    self._stop(alert)

    def _stop_all(self) -> None:
        for alert in self._all:
            if alert.is_live:
                self._stop(alert)

    def _stop(self, alert: Alert) -> None:
        """Read for a live alert from the state before these batches, up to which it has all."""
        self._matrices[alert.target].remove(alert)
        if self._state is not None and self._state.covers(alert.position):
            alert.add([], self._state)
        if alert.pending_count:
            alert.move_to(AlertState.PAUSED)
        else:
            self._replay(alert)
