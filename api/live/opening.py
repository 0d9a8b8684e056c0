"""The steps between a client's `subscribe` and the registration of its subscription."""

from dataclasses import dataclass

from api.http.answer_memory import hits_bytes
from api.http.deadline import time_limit
from api.http.time_slices import TimeSlice
from api.live.message_json import message_too_large
from api.live.registry import SubscriptionRegistry
from api.live.subscription import Subscription
from api.queries.prepare import PreparedQuery, prepare_query
from api.queries.wait_for import require_shape
from contracts.wire.as_of import AsOf


@dataclass(frozen=True, slots=True)
class OpenedSubscription:
    """A subscription's query, and the index's state when it was opened."""

    query: PreparedQuery
    now: AsOf

    def key(self, subscription: Subscription) -> str:
        """Return a key that is equal for subscriptions that may share a list."""
        return f"{subscription.query_digest}-{self.query.vectors_digest()}"


async def open_subscription(
    registry: SubscriptionRegistry, subscription: Subscription
) -> OpenedSubscription:
    """Prepare the query, and wait until the index has reached its `wait_for` and its cursor.

    Raises TidelensError with the reason why the subscription is refused.
    """
    query, node = subscription.take_query(), registry.node
    limit_s = node.settings.wait_s_max
    async with time_limit(limit_s, [query.timeout_s], "subscribe: not opened"):
        if query.wait_for is not None:
            await registry.waiting.wait_for(query.wait_for)
        prepared = await prepare_query(node, query, TimeSlice())
        if subscription.mode == "top":
            _require_list_size(registry, prepared)
        await _wait_for_cursor(registry, subscription)
        if prepared.filter is not None:
            subscription.warnings = await node.searcher.warnings(prepared.target, prepared.filter)
        now = node.searcher.as_of()  # raises NotReady
        registry.require_capacity()
    return OpenedSubscription(prepared, now)


def _require_list_size(registry: SubscriptionRegistry, query: PreparedQuery) -> None:
    """Raise RejectedRequest if the list would be too large for one message."""
    limit = registry.node.settings.message_bytes_max
    size = hits_bytes(query.k, query.include, registry.node.space.dim)
    if size > limit:
        raise message_too_large(limit, size)


async def _wait_for_cursor(registry: SubscriptionRegistry, subscription: Subscription) -> None:
    """Wait until the index is at or past the client's cursor: it never goes back in time."""
    cursor = subscription.cursor
    if cursor is None:
        return
    now = registry.node.searcher.as_of()
    if (cursor.as_of.space, cursor.as_of.epoch) == (now.space, now.epoch):
        require_shape(cursor.as_of, now, "cursor")
        await registry.waiting.wait_until_covers(cursor.as_of)
