"""One live client: what it subscribed to, and what it is told of it.

A receiver of its messages, a task for each subscription that is being opened, and one sender. There
is no outbox: what is waiting is which subscriptions have news. The sender looks at what these are
when the client has taken the message before, so that a slow client costs the memory of one message,
gets the newest list, and holds up nobody; one that takes none in time is closed.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from api.http.answer_memory import hits_bytes
from api.http.bodies import INLINE_PARSE_BYTES
from api.http.deadline import time_limit
from api.http.time_slices import TimeSlice
from api.live.connection import (
    NORMAL_CLOSURE,
    SERVICE_RESTART,
    LiveConnection,
    MustClose,
    ServerMessage,
    Subscription,
    SubscriptionState,
    parse_large_message,
    sub_of,
)
from api.live.matches.alert import Alert
from api.live.message_json import LazyMatchJson, message_too_large
from api.live.outbox import ClientGone, ClientSocket, Outbox
from api.live.top.standing_query import Subscriber
from api.queries.prepare import ItemGone, PreparedQuery, prepare_query
from api.queries.wait_for import require_shape
from contracts.errors import NotReady, RejectedRequest, TidelensError
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Ping, Subscribe, Unsubscribe
from contracts.wire.parser import parse_client_message

if TYPE_CHECKING:
    from api.live.hub import LiveEndpoints

log = structlog.get_logger(__name__)

_INTERNAL_ERROR = 1011
_RETRY_S = 0.25
# Mode matches: how often a client to which nothing is told learns how far everything was.
_PROGRESS_S = 30.0
# How often a client that is told nothing is shown that the connection lives.
_BEAT_S = 15.0


class LiveSession:
    """One connection, until the client goes: `serve` it."""

    def __init__(self, live: "LiveEndpoints", socket: ClientSocket) -> None:
        self._live = live
        self._node = live.node
        self._searcher = live.node.searcher
        self._socket = socket
        self._outlet = Outbox(live.node, socket, live.budget)
        self._connection = LiveConnection(live.node.settings)
        self._lists: dict[Subscription, Subscriber] = {}
        self._alerts: dict[Subscription, Alert] = {}
        # Before the first match.
        self._first: dict[Subscription, Sequence[ServerMessage]] = {}
        # To be told how far everything was told.
        self._far: dict[Subscription, None] = {}
        self._woken: dict[Subscription, None] = {}
        # Those that were told of a change lately and want to be left alone for a while.
        self._resting: dict[Subscription, asyncio.TimerHandle] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._opening: dict[Subscription, asyncio.Task[None]] = {}
        self._dirty = asyncio.Event()
        self._heard_at = self._progress_at = self._beat_at = monotonic()
        self._idle = self._progress_due = self._beat_due = False
        self.wake()

    def wake(self) -> None:
        """Let the sender look at what there is to do."""
        self._dirty.set()

    def check(self, now: float) -> None:
        """Look at the clock; called every second."""
        limit_s = self._node.settings.idle_s_max
        self._idle = not self._connection.subscriptions and now - self._heard_at > limit_s
        self._beat_due = now - self._beat_at > _BEAT_S
        self._progress_due = bool(self._alerts) and now - self._progress_at > _PROGRESS_S
        if self._idle or self._beat_due or self._progress_due:
            self.wake()

    async def serve(self, first: Subscribe | None = None) -> None:
        """Until the client goes. A defect of ours closes it with 1011, and is logged.

        `first` is subscribed to as if the client had sent it.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                if first is not None:
                    try:
                        self._begin(tasks, self._connection.subscribe(first))
                    except RejectedRequest as error:
                        await self._outlet.error(first.sub, error)
                tasks.create_task(self._send_changes())
                await self._receive(tasks)
        except* ClientGone:
            pass
        except* Exception as defects:
            await self._outlet.close(_INTERNAL_ERROR, "an unexpected error")
            log.error("live connection failed", error=repr(defects), exc_info=defects)
        finally:
            if self._retry is not None:
                self._retry.cancel()
            await self._forget_all(self._connection.close())

    async def _forget_all(self, ended: list[Subscription]) -> None:
        """Forget them in slices: a hundred lists of a thousand items take 40 ms."""
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
                step = await self._read(text, frame.get("bytes"))
            except MustClose as refused:
                await self._outlet.close(refused.code, refused.reason)
                raise ClientGone from None
            except RejectedRequest as error:
                await self._outlet.error(await _sub_of(text or "", error), error)
                continue
            match step:
                case Ping():
                    await self._outlet.send({"type": "pong"})
                case Unsubscribe():
                    self._end(self._connection.subscriptions[step.sub])
                case Subscription():
                    self._begin(tasks, step)

    async def _read(
        self, text: str | None, data: bytes | None
    ) -> Subscription | Unsubscribe | Ping:
        """One frame; a large one is parsed in a thread. Raises as Connection.read does."""
        text = self._connection.measured(text=text, data=data)
        if len(text) <= INLINE_PARSE_BYTES:
            return self._connection.take(parse_client_message(text))
        return self._connection.take(
            *await self._live.bodies.in_thread(partial(parse_large_message, text))
        )

    def _begin(self, tasks: asyncio.TaskGroup, subscription: Subscription) -> None:
        self._opening[subscription] = tasks.create_task(self._open(subscription))

    async def _open(self, subscription: Subscription) -> None:
        """Prepare the query, wait for what it waits for, then hand it to the sender."""
        query, node = subscription.asked(), self._node
        try:
            async with time_limit(
                node.settings.wait_s_max, [query.timeout_s], "subscribe: not opened"
            ):
                if query.wait_for is not None:
                    await self._live.waiting.wait_for(query.wait_for)
                question = await prepare_query(node, query, TimeSlice())
                self._bound(subscription, question)
                await self._catch_up(subscription)
                if question.filter is not None:
                    subscription.warnings = await self._searcher.warnings(
                        question.target, question.filter
                    )
                now = self._searcher.as_of()  # raises NotReady
                self._live.require_room()
        except TidelensError as error:
            await self._refuse(subscription, error)
        else:
            self._register(subscription, question, now)
        finally:
            self._opening.pop(subscription, None)

    def _bound(self, subscription: Subscription, question: PreparedQuery) -> None:
        """Raise RejectedRequest for a list that would be too large for one message."""
        if subscription.mode == "top":
            limit = self._node.settings.message_bytes_max
            size = hits_bytes(question.k, question.include, self._node.space.dim)
            if size > limit:
                raise message_too_large(limit, size)

    def _register(self, subscription: Subscription, question: PreparedQuery, now: AsOf) -> None:
        def wake() -> None:
            self._wake(subscription)

        if subscription.mode == "top":
            asked = f"{subscription.query_digest}-{question.vectors_digest()}"
            self._lists[subscription] = self._live.watch(asked, question, wake)
        else:
            self._first[subscription] = subscription.followed(now)
            assert subscription.cursor is not None
            self._alerts[subscription] = self._live.subscribe_alert(
                question, subscription.cursor.as_of, wake
            )
            wake()

    async def _catch_up(self, subscription: Subscription) -> None:
        """Never back in time: wait until the index is at or past the client's cursor."""
        cursor = subscription.cursor
        if cursor is None:
            return
        now = self._searcher.as_of()
        if (cursor.as_of.space, cursor.as_of.epoch) == (now.space, now.epoch):
            require_shape(cursor.as_of, now, "cursor")
            await self._live.waiting.wait_until_covers(cursor.as_of)

    async def _send_changes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self._live.leaving is not None:
                await self._leave(self._live.leaving)
            if self._idle or self._beat_due or self._progress_due:
                await self._keep_up()
            woken, self._woken = self._woken, {}
            for subscription in woken:
                if (subscriber := self._lists.get(subscription)) is not None:
                    await self._send_list(subscription, subscriber)
                elif (alert := self._alerts.get(subscription)) is not None:
                    await self._send_matches(subscription, alert)
                if len(woken) > 1 or self._woken:
                    # A client that takes all at once never makes us wait.
                    await asyncio.sleep(0)

    async def _keep_up(self) -> None:
        """What is due at this time."""
        if self._idle:
            await self._outlet.close(NORMAL_CLOSURE, "no subscription for too long")
            raise ClientGone
        if self._beat_due:
            self._beat_at, self._beat_due = monotonic(), False
            await self._outlet.beat()
        if self._progress_due:
            self._progress_at, self._progress_due = monotonic(), False
            self._far = dict.fromkeys(self._alerts)
            self._woken.update(self._far)

    async def _send_matches(self, subscription: Subscription, alert: Alert) -> None:
        """What it was not told yet, or a part of that."""
        await self._send_all(subscription, self._first.pop(subscription, ()))
        if alert.error is not None:
            await self._failed(subscription, alert)
        if alert.reset_reason is not None and subscription.state is SubscriptionState.LIVE:
            reason, alert.reset_reason = alert.reset_reason, None
            await self._send_all(subscription, subscription.lost(reason, alert.delivered))
        if subscription.state is not SubscriptionState.LIVE:
            return
        hits = alert.take(self._live.limits.alerts.message_hits_max)
        if hits:
            shown = [LazyMatchJson(hit, alert.query.include) for hit in hits]
            await self._send_all(subscription, [subscription.matched(shown, alert.delivered)])
        if subscription.state is not SubscriptionState.LIVE:
            return
        if alert.has_news:
            # After the others.
            self._wake(subscription)
            return
        if alert.is_paused:
            self._live.replay.replay(alert)
        if subscription in self._far:
            await self._send_progress(subscription, alert)

    async def _send_progress(self, subscription: Subscription, alert: Alert) -> None:
        del self._far[subscription]
        # The state of another index is none that this alert was matched up to.
        self._live.check_generation()
        state = self._live.state()
        if state is not None and alert.reset_reason is None:
            message = subscription.progress(self._live.alerts.delivered_up_to(alert, state))
            if message is not None:
                await self._outlet.send(message)

    async def _leave(self, reason: str) -> None:
        if self._live.moved_to is not None:
            for subscription in list(self._connection.subscriptions.values()):
                if subscription.state is SubscriptionState.LIVE:
                    await self._outlet.send(subscription.reset(reason))
        await self._outlet.close(SERVICE_RESTART, reason)
        raise ClientGone

    async def _send_list(self, subscription: Subscription, subscriber: Subscriber) -> None:
        """What changed in it since it was sent last, if it is known what it is now."""
        if subscriber.error is not None:
            await self._failed(subscription, subscriber)
        over = subscription.state is SubscriptionState.ENDED
        if over or not subscriber.has_changed or subscription in self._resting:
            return
        self._live.check_generation()
        try:
            as_of = self._live.apply_queue.as_of(subscriber.standing_query)
        except NotReady:
            self._wake_later(subscription)
            return
        if as_of is None:
            return  # woken again when there is one
        if subscriber.standing_query.is_current:
            ranked = subscriber.standing_query.top()
        elif subscriber.fallback is not None:
            ranked, as_of = subscriber.fallback
        else:
            return  # woken again when it is
        if subscription.is_ahead_of(as_of):
            # Others' list, which is not as far as the client was elsewhere.
            self._wake_later(subscription)
            return
        changed_since_ms = subscriber.take_change()
        if subscription.suppresses(ranked):
            return
        messages = subscription.found(ranked, as_of)
        await self._send_all(subscription, messages)
        if messages:
            self._observe(changed_since_ms)
            self._rest(subscription)

    async def _send_all(
        self, subscription: Subscription, messages: Sequence[ServerMessage]
    ) -> None:
        """While the client has not ended it: after that its name may be another one's."""

        def wanted() -> bool:
            return subscription.state is SubscriptionState.LIVE

        for message in messages:
            if wanted():
                try:
                    await self._outlet.send(message, wanted=wanted)
                except RejectedRequest as error:
                    await self._refuse(subscription, error)

    async def _failed(self, subscription: Subscription, one: Subscriber | Alert) -> None:
        """New subscriptions are refused; open ones keep their list until the node is ready."""
        error, one.error = one.error, None
        is_open = subscription.state is SubscriptionState.LIVE
        match error:
            case ItemGone() if is_open:
                code = "query_item_gone"
                gone = RejectedRequest(code, error.message, field=error.field, value=error.value)
                await self._refuse(subscription, gone)
            case NotReady() if is_open:
                pass
            case TidelensError():
                await self._refuse(subscription, error)
            case Exception():
                raise error

    def _rest(self, subscription: Subscription) -> None:
        """Tell it nothing for as long as it asked for."""
        if subscription.throttle_s and subscription in self._lists:
            loop = asyncio.get_running_loop()
            self._resting[subscription] = loop.call_later(
                subscription.throttle_s, self._rested, subscription
            )

    def _rested(self, subscription: Subscription) -> None:
        del self._resting[subscription]
        self._wake(subscription)

    def _wake(self, subscription: Subscription) -> None:
        self._woken[subscription] = None
        self.wake()

    def _wake_later(self, subscription: Subscription) -> None:
        """With all others that wait for the same."""
        self._woken[subscription] = None
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._wake_again)

    def _wake_again(self) -> None:
        self._retry = None
        self.wake()

    async def _refuse(self, subscription: Subscription, error: TidelensError) -> None:
        """End it, telling why; nothing to tell when the client ended it itself meanwhile."""
        if subscription.state is not SubscriptionState.ENDED:
            self._end(subscription)
            await self._outlet.error(subscription.name, error)

    def _end(self, subscription: Subscription) -> None:
        self._connection.end(subscription)
        self._forget(subscription)

    def _forget(self, subscription: Subscription) -> None:
        """Let go of what belongs to an ended subscription."""
        opening = self._opening.pop(subscription, None)
        if opening is not None and opening is not asyncio.current_task():
            opening.cancel()
        resting = self._resting.pop(subscription, None)
        if resting is not None:
            resting.cancel()
        self._first.pop(subscription, None)
        self._far.pop(subscription, None)
        one = self._lists.pop(subscription, None) or self._alerts.pop(subscription, None)
        if one is not None:
            self._live.leave(one)

    def _observe(self, since_ms: int | None) -> None:
        if since_ms is not None:
            age_s = max(0.0, self._node.clock.now() - since_ms / 1000)
            self._node.metrics.pushed_seconds.observe(age_s)


async def _sub_of(text: str, error: RejectedRequest) -> str | None:
    """Return the `sub` that the refusal of this message is about, if it can be found."""
    if len(text) <= INLINE_PARSE_BYTES:
        return sub_of(text)
    # A frame of too many values is not parsed at all.
    return None if error.field == "frame" else await asyncio.to_thread(sub_of, text)
