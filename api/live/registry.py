"""The lists and alerts that clients subscribe to, which all connections of a node share.

A list is exact, because it is what an exact search returned at one state, with every batch applied
since (api.live.top.standing_set), and the cursor that is sent with it names the state after the
last of these. Nothing is missed, because a subscription is registered *before* its first search, or
before its past is read from the log (api.live.matches.replay). Nothing is sent twice, because the
messages are the difference to what was sent last.
"""

from collections.abc import Callable, Sequence

from api.http.answer_memory import AnswerBudget
from api.http.bodies import BodyReader
from api.live.limits import LiveLimits
from api.live.matches.alert import Alert
from api.live.matches.replay import AlertReplay
from api.live.top.refill import Refiller
from api.live.top.standing_query import StandingQuery, Subscriber
from api.node import Node
from api.queries.prepare import PreparedQuery
from api.queries.wait_for import StateWaiter
from contracts.errors import NotReady, RejectedRequest
from contracts.ports.search import AppliedBatch
from contracts.wire.as_of import AsOf


class SubscriptionRegistry:
    """The standing queries and alerts of a node, with their subscribers and limits."""

    def __init__(
        self,
        node: Node,
        waiting: StateWaiter,
        budget: AnswerBudget,
        bodies: BodyReader,
        limits: LiveLimits | None = None,
    ) -> None:
        self.node = node
        self.waiting = waiting
        self.budget = budget
        self.bodies = bodies
        self.limits = limits or LiveLimits()
        self.refills = Refiller(node.searcher, node.matcher, node.side, self.limits.lists)
        self.queries, self.apply_queue = self.refills.queries, self.refills.apply_queue
        self.replay = AlertReplay(node, self.limits.alerts, self.limits.replay)
        self.alerts = self.replay.alerts
        # The standing queries by a key that is equal for equal queries; and each subscriber's key.
        self._queries_by_key: dict[str, StandingQuery] = {}
        self._keys: dict[Subscriber, str] = {}
        self._generation = node.searcher.generation
        # The reason why all connections are being closed, and the space that answers instead of
        # this one; each is None if there is none.
        self.close_reason: str | None = None
        self.successor_space: str | None = None
        node.feed.listen(self._apply_batches)

    def require_capacity(self) -> None:
        """Raise RejectedRequest if the node is at its limit of subscriptions or waiting lists."""
        settings = self.node.settings
        limits = {
            "standing_max": (settings.standing_max, self._count(), "subscriptions"),
            "standing_searches_max": (
                settings.standing_searches_max,
                self.queries.waiting() + self.replay.waiting(),
                "lists that wait to be searched",
            ),
        }
        for name, (limit, value, what) in limits.items():
            if value >= limit:
                raise RejectedRequest(
                    "too_many",
                    f"{name}: limit {limit} {what} on this node; try later",
                    status=429,
                    field="sub",
                    limit=limit,
                )

    def subscribe_list(
        self, key: str, query: PreparedQuery, wake: Callable[[], None]
    ) -> Subscriber:
        """Return a subscriber to the list of a query; queries with an equal `key` share one.

        `wake` is called when there is something to send.
        """
        standing_query = self._queries_by_key.get(key)
        if standing_query is None or standing_query.has_failed:
            standing_query = self._queries_by_key[key] = StandingQuery(query, self.limits.lists)
            subscriber = standing_query.subscribe(wake)
            self.queries.add(standing_query)
        else:
            subscriber = standing_query.subscribe(wake)
        self._keys[subscriber] = key
        self._update_gauge()
        return subscriber

    def subscribe_alert(
        self, query: PreparedQuery, position: AsOf, wake: Callable[[], None]
    ) -> Alert:
        """Return an alert for the matches of a query after `position`.

        `wake` is called when there is something to send.
        """
        alert = Alert(query, position, wake, self.limits.alerts)
        self.alerts.add(alert)
        self._update_gauge()
        return alert

    def unsubscribe(self, source: Subscriber | Alert) -> None:
        """Remove a subscriber or an alert, and a standing query that has no subscriber left."""
        if isinstance(source, Alert):
            self.replay.remove(source)
        else:
            key, query = self._keys.pop(source), source.standing_query
            query.subscribers.remove(source)
            if not query.subscribers:
                self.queries.remove(query)
                if self._queries_by_key.get(key) is query:
                    del self._queries_by_key[key]
        self._update_gauge()

    def state(self) -> AsOf | None:
        """Return the index's state, or None while it cannot answer."""
        try:
            return self.node.searcher.as_of()
        except NotReady:
            return None

    def check_generation(self) -> None:
        """Search all lists and read for all alerts again if the index was replaced.

        The state of another index does not follow from the last one by the batches applied.
        """
        generation = self.node.searcher.generation
        if generation != self._generation:
            self.apply_queue.invalidate_all()
            self.alerts.invalidate_all()
            self._generation = generation

    def _apply_batches(self, batches: Sequence[AppliedBatch]) -> None:
        self.check_generation()
        self.apply_queue.add_batches(batches)
        if len(self.alerts):
            self.alerts.apply_batches(batches, self.state())

    def _count(self) -> int:
        return len(self._keys) + len(self.alerts)

    def _update_gauge(self) -> None:
        self.node.metrics.subscriptions.set(self._count())
