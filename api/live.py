"""WebSocket /v1/live: standing queries, pushed.

Exact, because a list is what an exact search returned at one state, with every batch applied since
folded in (api.standing_set), and the cursor sent with it names the state after the last of these.
Complete, because a subscription is registered with the standing set *before* its first search.
Nothing comes twice, because what is sent is the difference to the list sent last. Bounded, because
there is no outbox: a slow client's changed lists are looked at when it has taken the message
before, and what it gets then is the newest state.
"""

import asyncio
from collections.abc import Sequence

import structlog
from starlette.websockets import WebSocket

from api.connection import (
    SERVICE_RESTART,
    Connection,
    Refused,
    Subscription,
    SubscriptionState,
    space_changed,
    sub_of,
)
from api.node import Node
from api.outlet import Gone, Outlet
from api.problems import problem
from api.queries import ItemGone, prepare
from api.refills import Refills
from api.standing import Standing
from api.waiting import Waiting, require_shape
from contracts.errors import NotReady, RejectedRequest, TidelensError, TimedOut
from contracts.hits import Hit
from contracts.messages import Ping, Unsubscribe, wire_hit
from contracts.ports import Applied

log = structlog.get_logger(__name__)

_INTERNAL_ERROR = 1011
_CHECK_EVERY_S = 1.0
_RETRY_S = 0.25


class Live:
    """The endpoint, and what all connections share."""

    def __init__(self, node: Node, waiting: Waiting) -> None:
        self.node = node
        self.waiting = waiting
        self.standing = Refills(node.searcher, node.matcher).standing
        self._connections = 0
        self._clients: set[_Client] = set()
        self._generation = node.searcher.generation
        # The space that answers instead of this one, while another does.
        self.moved_to: str | None = None
        node.feed.listen(self._applied)

    async def run(self) -> None:
        """Notice, until cancelled, an index replaced without a batch that would tell."""
        while True:
            self.check_generation()
            await asyncio.sleep(_CHECK_EVERY_S)

    async def endpoint(self, websocket: WebSocket) -> None:
        limit = self.node.settings.connections_max
        if self._connections >= limit:
            members = {
                "code": "too_many",
                "message": f"connections_max: limit {limit} WebSocket connections",
                "limit": limit,
            }
            await websocket.send_denial_response(problem(429, members))
            return
        self._connections += 1
        self._count()
        try:
            await websocket.accept()
            client = _Client(self, websocket)
            self._clients.add(client)
            try:
                await client.serve()
            finally:
                self._clients.discard(client)
        finally:
            self._connections -= 1
            self._count()

    def move(self, space: str | None) -> None:
        """Another space answers from now on (None: this one does, again).

        Every subscription is reset and every connection closed, so that clients ask that one: the
        vectors of standing queries are of this space, and their pictures are not kept.
        """
        self.moved_to = space
        for client in self._clients:
            client.wake()

    def require_room(self) -> None:
        """Raises RejectedRequest while too many lists wait to be searched."""
        limit = self.node.settings.standing_searches_max
        if self.standing.waiting() >= limit:
            raise RejectedRequest(
                "too_many",
                f"standing_searches_max: limit {limit} lists that wait to be searched; try later",
                status=429,
                field="sub",
                limit=limit,
            )

    def add(self, standing: Standing) -> None:
        self.standing.add(standing)
        self._count()

    def remove(self, standing: Standing) -> None:
        self.standing.remove(standing)
        self._count()

    def _applied(self, batches: Sequence[Applied]) -> None:
        self.check_generation()
        self.standing.applied(batches)

    def check_generation(self) -> None:
        """Search everything anew when the state is no longer a successor of the one we knew."""
        generation = self.node.searcher.generation
        if generation != self._generation:
            self._generation = generation
            self.standing.mark_all()

    def _count(self) -> None:
        self.node.metrics.connections.set(self._connections)
        self.node.metrics.subscriptions.set(len(self.standing))


class _Client:
    """One connection: a receiver, a sender, and a task for each subscription being opened."""

    def __init__(self, live: Live, socket: WebSocket) -> None:
        self._live = live
        self._node = live.node
        self._searcher = live.node.searcher
        self._socket = socket
        self._outlet = Outlet(live.node, socket)
        self._connection = Connection(
            subscriptions_max=live.node.settings.subscriptions_max,
            frame_bytes_max=live.node.settings.frame_bytes_max,
        )
        self._standing: dict[Subscription, Standing] = {}
        self._woken: dict[Subscription, None] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._opening: dict[Subscription, asyncio.Task[None]] = {}
        self._dirty = asyncio.Event()
        self.wake()

    def wake(self) -> None:
        """Let the sender look at what there is to do."""
        self._dirty.set()

    async def serve(self) -> None:
        """Until the client goes. A defect of ours closes it with 1011, and is logged."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_changes())
                await self._receive(tasks)
        except* Gone:
            pass
        except* Exception as defects:
            await self._outlet.close(_INTERNAL_ERROR, "an unexpected error")
            log.error("live connection failed", error=repr(defects), exc_info=defects)
        finally:
            for subscription in self._connection.close():
                self._forget(subscription)
            if self._retry is not None:
                self._retry.cancel()

    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            frame = await self._socket.receive()
            if frame["type"] == "websocket.disconnect":
                raise Gone
            text = frame.get("text")
            try:
                step = self._connection.read(text=text, data=frame.get("bytes"))
            except Refused as refused:
                await self._outlet.close(refused.code, refused.reason)
                raise Gone from None
            except RejectedRequest as error:
                await self._outlet.error(sub_of(text or ""), error)
                continue
            match step:
                case Ping():
                    await self._outlet.send({"type": "pong"})
                case Unsubscribe():
                    self._end(self._connection.subscriptions[step.sub])
                case Subscription():
                    self._opening[step] = tasks.create_task(self._open(step))

    async def _open(self, subscription: Subscription) -> None:
        """Prepare the query, wait for what it waits for, then hand it to the sender."""
        query, node = subscription.asked(), self._node
        limit_s = node.settings.wait_s_max
        bound_s = limit_s if query.timeout_s is None else min(query.timeout_s, limit_s)
        try:
            async with asyncio.timeout(bound_s):
                if query.wait_for is not None:
                    await self._live.waiting.wait_for(query.wait_for)
                question = await prepare(node, query)
                await self._catch_up(subscription)
                self._searcher.as_of()  # raises NotReady
                self._live.require_room()
        except TimeoutError:
            error = TimedOut(f"subscribe: the cursor's state was not reached within {bound_s:g} s")
            await self._refuse(subscription, error)
        except TidelensError as error:
            await self._refuse(subscription, error)
        else:
            standing = Standing(question, lambda: self._wake(subscription))
            self._standing[subscription] = standing
            self._live.add(standing)
        finally:
            self._opening.pop(subscription, None)

    async def _catch_up(self, subscription: Subscription) -> None:
        """Never back in time: wait until the index is at or past the client's cursor."""
        cursor = subscription.cursor
        if cursor is None:
            return
        now = self._searcher.as_of()
        if (cursor.as_of.space, cursor.as_of.epoch) == (now.space, now.epoch):
            require_shape(cursor.as_of, now, "cursor")
            await self._live.waiting.reach(cursor.as_of)

    async def _send_changes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self._live.moved_to is not None:
                await self._leave(self._live.moved_to)
            woken, self._woken = self._woken, {}
            for subscription in woken:
                standing = self._standing.get(subscription)
                if standing is None:
                    continue
                if standing.failed is not None:
                    await self._failed(subscription, standing)
                if standing.changed and subscription.state is not SubscriptionState.ENDED:
                    await self._send_list(subscription, standing)

    async def _leave(self, space: str) -> None:
        reason = space_changed(self._node.space.name, space)
        for subscription in list(self._connection.subscriptions.values()):
            if subscription.state is SubscriptionState.LIVE:
                await self._outlet.send(subscription.reset(reason))
        await self._outlet.close(SERVICE_RESTART, reason)
        raise Gone

    async def _send_list(self, subscription: Subscription, standing: Standing) -> None:
        """What changed in it since it was sent last, if it is known what it is now."""
        self._live.check_generation()
        try:
            as_of = self._searcher.as_of()
        except NotReady:
            self._wake_later(subscription)
            return
        hits: Sequence[Hit]
        if standing.settled:
            hits = standing.list.top()
        elif standing.overtaken is not None:
            hits, as_of = standing.overtaken
        else:
            return  # woken again when it is
        standing.overtaken = None
        since, standing.since_ms, standing.changed = standing.since_ms, None, False
        messages = subscription.found([wire_hit(hit) for hit in hits], as_of)
        for message in messages:
            if subscription.state is SubscriptionState.LIVE:
                await self._outlet.send(message)
        if messages:
            self._observe(since)

    async def _failed(self, subscription: Subscription, standing: Standing) -> None:
        """New subscriptions are refused; open ones keep their list until the node is ready."""
        error, standing.failed = standing.failed, None
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
        standing = self._standing.pop(subscription, None)
        if standing is not None:
            self._live.remove(standing)

    def _observe(self, since_ms: int | None) -> None:
        if since_ms is not None:
            age_s = max(0.0, self._node.clock.now() - since_ms / 1000)
            self._node.metrics.stage_seconds.labels("pushed").observe(age_s)
