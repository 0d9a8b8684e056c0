"""One live client: its subscriptions, and the tasks that receive and send its messages.

A session has a receiver, a task for each subscription that is being opened, and one sender.
Messages are not queued: the sender notes only which subscriptions have news, in the order in which
they were woken. A slow client delays no other client; one that does not take a message in time is
disconnected.
"""

import asyncio
from functools import partial
from time import monotonic

import structlog

from api.http.bodies import INLINE_PARSE_BYTES
from api.http.time_slices import TimeSlice
from api.live.connection import (
    INTERNAL_ERROR,
    NORMAL_CLOSURE,
    SERVICE_RESTART,
    LiveConnection,
    MustClose,
    parse_large_message,
    sub_of,
)
from api.live.delivery import AlertDelivery, ListDelivery
from api.live.opening import OpenedSubscription, open_subscription
from api.live.outbox import ClientGone, ClientSocket, Outbox
from api.live.registry import SubscriptionRegistry
from api.live.subscription import Subscription
from contracts.errors import RejectedRequest, TidelensError
from contracts.wire.client_messages import Ping, Subscribe, Unsubscribe
from contracts.wire.parser import parse_client_message

log = structlog.get_logger(__name__)

_RETRY_S = 0.25
# Mode `matches`: how often a client that is sent no matches is sent a newer cursor.
_PROGRESS_S = 30.0
# How often a client that is sent nothing is shown that the connection is alive.
_HEARTBEAT_S = 15.0


class LiveSession:
    """The session of one connection, which `serve` runs until the client leaves."""

    def __init__(self, registry: SubscriptionRegistry, socket: ClientSocket) -> None:
        self._registry = registry
        self._idle_s_max = registry.node.settings.idle_s_max
        self._socket = socket
        self._outbox = Outbox(registry.node, socket, registry.budget)
        self._connection = LiveConnection(registry.node.settings)
        self._opening: dict[Subscription, asyncio.Task[None]] = {}
        self._lists: dict[Subscription, ListDelivery] = {}
        self._alerts: dict[Subscription, AlertDelivery] = {}
        self._woken: dict[Subscription, None] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._has_work = asyncio.Event()
        self._heard_at = self._progress_at = self._heartbeat_at = monotonic()
        self._is_idle = self._is_progress_due = self._is_heartbeat_due = False
        self.wake()

    def wake(self) -> None:
        """Let the sender look for work, such as a connection to be closed."""
        self._has_work.set()

    def wake_subscription(self, subscription: Subscription) -> None:
        """Send what there is for this subscription, in its turn."""
        self._woken[subscription] = None
        self.wake()

    def wake_later(self, subscription: Subscription) -> None:
        """Wake the subscription after a pause, together with others that wait."""
        self._woken[subscription] = None
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._end_pause)

    def _end_pause(self) -> None:
        self._retry = None
        self.wake()

    def check(self, now: float) -> None:
        """Wake the sender if a heartbeat, a cursor or the end of an idle connection is due.

        `now` is a time of `monotonic`. Called every second.
        """
        has_subscriptions = bool(self._connection.subscriptions)
        self._is_idle = not has_subscriptions and now - self._heard_at > self._idle_s_max
        self._is_heartbeat_due = now - self._heartbeat_at > _HEARTBEAT_S
        self._is_progress_due = bool(self._alerts) and now - self._progress_at > _PROGRESS_S
        if self._is_idle or self._is_heartbeat_due or self._is_progress_due:
            self.wake()

    async def serve(self, first: Subscribe | None = None) -> None:
        """Serve the client until it leaves. A defect closes it with code 1011, and is logged.

        `first` is subscribed to as if the client had sent it.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                if first is not None:
                    try:
                        self._begin(tasks, self._connection.subscribe(first))
                    except RejectedRequest as error:
                        await self._outbox.error(first.sub, error)
                tasks.create_task(self._send_changes())
                await self._receive(tasks)
        except* ClientGone:
            pass
        except* Exception as defects:
            await self._outbox.close(INTERNAL_ERROR, "an unexpected error")
            log.error("live connection failed", error=repr(defects), exc_info=defects)
        finally:
            if self._retry is not None:
                self._retry.cancel()
            await self._forget_all(self._connection.close())

    async def _forget_all(self, ended: list[Subscription]) -> None:
        """Release subscriptions in slices: a hundred lists of a thousand items take 40 ms."""
        pace = TimeSlice()
        try:
            while ended:
                self._forget(ended.pop())
                await pace.yield_when_over()
        finally:
            for subscription in ended:  # cancelled meanwhile
                self._forget(subscription)

    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            frame = await self._socket.receive()
            if frame["type"] == "websocket.disconnect":
                raise ClientGone
            self._heard_at = monotonic()
            text = frame.get("text")
            try:
                step = await self._parse(text, frame.get("bytes"))
            except MustClose as refused:
                await self._outbox.close(refused.code, refused.reason)
                raise ClientGone from None
            except RejectedRequest as error:
                await self._outbox.error(await _sub_of(text or "", error), error)
                continue
            match step:
                case Ping():
                    await self._outbox.send({"type": "pong"})
                case Unsubscribe():
                    self._end(self._connection.subscriptions[step.sub])
                case Subscription():
                    self._begin(tasks, step)

    async def _parse(
        self, text: str | None, data: bytes | None
    ) -> Subscription | Unsubscribe | Ping:
        """Parse a frame, a large one in a thread. Raises as LiveConnection.parse_frame does."""
        text = self._connection.require_parsable(text=text, data=data)
        if len(text) <= INLINE_PARSE_BYTES:
            return self._connection.accept_message(parse_client_message(text))
        return self._connection.accept_message(
            *await self._registry.bodies.in_thread(partial(parse_large_message, text))
        )

    def _begin(self, tasks: asyncio.TaskGroup, subscription: Subscription) -> None:
        self._opening[subscription] = tasks.create_task(self._open(subscription))

    async def _open(self, subscription: Subscription) -> None:
        try:
            opened = await open_subscription(self._registry, subscription)
        except TidelensError as error:
            await self.refuse(subscription, error)
        else:
            self._start_delivery(subscription, opened)
        finally:
            self._opening.pop(subscription, None)

    def _start_delivery(self, subscription: Subscription, opened: OpenedSubscription) -> None:
        wake = partial(self.wake_subscription, subscription)
        shared = (subscription, self._registry, self._outbox, self)
        if subscription.mode == "top":
            key = opened.key(subscription)
            subscriber = self._registry.subscribe_list(key, opened.query, wake)
            self._lists[subscription] = ListDelivery(*shared, subscriber=subscriber)
        else:
            first = subscription.alert_opened(opened.now)
            assert subscription.cursor is not None
            position = subscription.cursor.as_of
            alert = self._registry.subscribe_alert(opened.query, position, wake)
            self._alerts[subscription] = AlertDelivery(*shared, alert=alert, first=first)
            wake()

    async def _send_changes(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            if self._registry.close_reason is not None:
                await self._leave(self._registry.close_reason)
            if self._is_idle or self._is_heartbeat_due or self._is_progress_due:
                await self._send_due()
            woken, self._woken = self._woken, {}
            for subscription in woken:
                delivery = self._lists.get(subscription) or self._alerts.get(subscription)
                if delivery is not None:
                    await delivery.send()
                if len(woken) > 1 or self._woken:
                    # Sending to a client that takes everything at once never waits by itself.
                    await asyncio.sleep(0)

    async def _send_due(self) -> None:
        """Close an idle connection, or send the heartbeat and the cursors that are due."""
        if self._is_idle:
            await self._outbox.close(NORMAL_CLOSURE, "no subscription for too long")
            raise ClientGone
        if self._is_heartbeat_due:
            self._heartbeat_at, self._is_heartbeat_due = monotonic(), False
            await self._outbox.beat()
        if self._is_progress_due:
            self._progress_at, self._is_progress_due = monotonic(), False
            for subscription, delivery in self._alerts.items():
                delivery.is_progress_due = True
                self._woken[subscription] = None

    async def _leave(self, reason: str) -> None:
        """Close the connection, since this node or this space does not answer any longer."""
        if self._registry.successor_space is not None:
            for subscription in list(self._connection.subscriptions.values()):
                if subscription.is_live:
                    await self._outbox.send(subscription.reset_message(reason))
        await self._outbox.close(SERVICE_RESTART, reason)
        raise ClientGone

    async def refuse(self, subscription: Subscription, error: TidelensError) -> None:
        """End a subscription, and send the client the reason, unless the client has ended it."""
        if not subscription.has_ended:
            self._end(subscription)
            await self._outbox.error(subscription.name, error)

    def _end(self, subscription: Subscription) -> None:
        self._connection.end(subscription)
        self._forget(subscription)

    def _forget(self, subscription: Subscription) -> None:
        """Release what an ended subscription uses."""
        opening = self._opening.pop(subscription, None)
        if opening is not None and opening is not asyncio.current_task():
            opening.cancel()
        delivery = self._lists.pop(subscription, None) or self._alerts.pop(subscription, None)
        if delivery is not None:
            delivery.close()


async def _sub_of(text: str, error: RejectedRequest) -> str | None:
    """Return the `sub` of a refused message, so that the error can name it, or None."""
    if len(text) <= INLINE_PARSE_BYTES:
        return sub_of(text)
    # A frame with too many values is not parsed at all.
    return None if error.field == "frame" else await asyncio.to_thread(sub_of, text)
