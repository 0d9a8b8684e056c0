"""Sending the messages of one subscription: of a list, or of an alert.

A delivery looks at the list or the alert at the moment at which the client has taken the message
before. So a slow client costs the memory of one message, and gets the newest list.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from api.live.matches.alert import Alert
from api.live.message_json import LazyMatchJson
from api.live.outbox import Outbox
from api.live.registry import SubscriptionRegistry
from api.live.subscription import ServerMessage, Subscription
from api.live.top.standing_query import Subscriber
from api.queries.prepare import ItemGone
from contracts.errors import NotReady, RejectedRequest, TidelensError


class DeliveryHost(Protocol):
    """The session that a delivery belongs to."""

    def wake_subscription(self, subscription: Subscription) -> None:
        """Send what there is for this subscription, in its turn."""
        ...

    def wake_later(self, subscription: Subscription) -> None:
        """Wake the subscription after a pause, together with others that wait."""
        ...

    async def refuse(self, subscription: Subscription, error: TidelensError) -> None:
        """End the subscription, and send the client the reason."""
        ...


class Delivery:
    """The part of a session that sends the messages of one subscription."""

    def __init__(
        self,
        subscription: Subscription,
        registry: SubscriptionRegistry,
        outbox: Outbox,
        host: DeliveryHost,
    ) -> None:
        self._subscription = subscription
        self._registry = registry
        self._outbox = outbox
        self._host = host

    async def _send_all(self, messages: Sequence[ServerMessage]) -> None:
        """Send messages until the subscription ends: then another one may have its name."""

        def is_wanted() -> bool:
            return self._subscription.is_live

        for message in messages:
            if is_wanted():
                try:
                    await self._outbox.send(message, wanted=is_wanted)
                except RejectedRequest as error:
                    await self._host.refuse(self._subscription, error)

    async def _handle_error(self, source: Subscriber | Alert) -> None:
        """End the subscription with the error of its list or alert.

        While the node is not ready, a live one keeps its list and waits. An error that is not a
        TidelensError is a defect, and is raised again.
        """
        error, source.error = source.error, None
        is_live = self._subscription.is_live
        match error:
            case ItemGone() if is_live:
                code = "query_item_gone"
                gone = RejectedRequest(code, error.message, field=error.field, value=error.value)
                await self._host.refuse(self._subscription, gone)
            case NotReady() if is_live:
                pass
            case TidelensError():
                await self._host.refuse(self._subscription, error)
            case Exception():
                raise error


class ListDelivery(Delivery):
    """The delivery of a list and its changes (mode `top`)."""

    def __init__(
        self,
        subscription: Subscription,
        registry: SubscriptionRegistry,
        outbox: Outbox,
        host: DeliveryHost,
        *,
        subscriber: Subscriber,
    ) -> None:
        super().__init__(subscription, registry, outbox, host)
        self._subscriber = subscriber
        # Set during the pause after a message (`throttle_ms`).
        self._throttle: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Stop the pause after a message, and leave the standing query."""
        if self._throttle is not None:
            self._throttle.cancel()
            self._throttle = None
        self._registry.unsubscribe(self._subscriber)

    async def send(self) -> None:
        """Send what has changed in the list since it was sent last, if the list is known."""
        subscription, subscriber = self._subscription, self._subscriber
        if subscriber.error is not None:
            await self._handle_error(subscriber)
        is_waiting = self._throttle is not None or not subscriber.has_changed
        if is_waiting or subscription.has_ended:
            return
        self._registry.check_generation()
        query = subscriber.standing_query
        try:
            as_of = self._registry.apply_queue.as_of(query)
        except NotReady:
            self._host.wake_later(subscription)
            return
        if as_of is None:
            return  # woken when there is one
        if query.is_current:
            ranked = query.top()
        elif subscriber.fallback is not None:
            ranked, as_of = subscriber.fallback
        else:
            return  # woken when it is current
        if subscription.is_ahead_of(as_of):
            # The list of this node is behind the list that another node has sent the client.
            self._host.wake_later(subscription)
            return
        changed_since_ms = subscriber.take_change()
        if subscription.suppresses(ranked):
            return
        messages = subscription.list_messages(ranked, as_of)
        await self._send_all(messages)
        if messages:
            self._observe_age(changed_since_ms)
            self._start_throttle()

    def _start_throttle(self) -> None:
        """Send nothing for the time that the client asked for."""
        subscription = self._subscription
        if subscription.throttle_s and not subscription.has_ended:
            self._throttle = asyncio.get_running_loop().call_later(
                subscription.throttle_s, self._end_throttle
            )

    def _end_throttle(self) -> None:
        self._throttle = None
        self._host.wake_subscription(self._subscription)

    def _observe_age(self, changed_since_ms: int | None) -> None:
        if changed_since_ms is not None:
            node = self._registry.node
            age_s = max(0.0, node.clock.now() - changed_since_ms / 1000)
            node.metrics.pushed_seconds.observe(age_s)


class AlertDelivery(Delivery):
    """The delivery of matches (mode `matches`)."""

    def __init__(
        self,
        subscription: Subscription,
        registry: SubscriptionRegistry,
        outbox: Outbox,
        host: DeliveryHost,
        *,
        alert: Alert,
        first: Sequence[ServerMessage],
    ) -> None:
        super().__init__(subscription, registry, outbox, host)
        self._alert = alert
        # The messages before the first match.
        self._first = first
        # The client is to be sent a newer cursor.
        self.is_progress_due = False

    def close(self) -> None:
        """Remove the alert."""
        self._registry.unsubscribe(self._alert)

    async def send(self) -> None:
        """Send the messages before the first match, then the next hits that wait, up to a limit."""
        subscription, alert = self._subscription, self._alert
        first, self._first = self._first, ()
        await self._send_all(first)
        if alert.error is not None:
            await self._handle_error(alert)
        if alert.reset_reason is not None and subscription.is_live:
            reason, alert.reset_reason = alert.reset_reason, None
            await self._send_all(subscription.alert_reset_messages(reason, alert.delivered))
        if not subscription.is_live:
            return
        hits = alert.take(self._registry.limits.alerts.message_hits_max)
        if hits:
            shown = [LazyMatchJson(hit, alert.query.include) for hit in hits]
            await self._send_all([subscription.match_message(shown, alert.delivered)])
        if not subscription.is_live:
            return
        if alert.has_news:
            # The other subscriptions come first.
            self._host.wake_subscription(subscription)
            return
        if alert.is_paused:
            self._registry.replay.replay(alert)
        if self.is_progress_due:
            await self._send_progress()

    async def _send_progress(self) -> None:
        """Send a cursor at the state up to which all matches have been sent."""
        self.is_progress_due = False
        # If the index was replaced, the alert was not matched up to its state.
        self._registry.check_generation()
        state = self._registry.state()
        if state is not None and self._alert.reset_reason is None:
            delivered = self._registry.alerts.delivered_up_to(self._alert, state)
            message = self._subscription.progress_message(delivered)
            if message is not None:
                await self._outbox.send(message)
