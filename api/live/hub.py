"""Live subscriptions: what all clients share, and the two ways in (`/v1/live`).

Exact, because a list is what an exact search returned at one state, with every batch applied since
folded in (api.live.top.standing_set), and the cursor sent with it names the state after the last of
these. Complete, because a subscription is registered *before* its first search, or before its past
is read (api.live.matches.replay). Nothing comes twice, because what is sent is the difference to
what was sent last.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from api.http.answer_memory import AnswerBudget
from api.http.bodies import BodyReader
from api.http.problems import problem
from api.live.connection import ServerMessage, space_changed
from api.live.event_stream import HEADERS, EventStream, subscription_of
from api.live.limits import LiveLimits
from api.live.matches.alert import Alert
from api.live.matches.replay import AlertReplay
from api.live.message_json import message_json
from api.live.session import LiveSession
from api.live.top.refill import Refiller
from api.live.top.standing_query import StandingQuery, Subscriber
from api.node import Node
from api.queries.prepare import PreparedQuery
from api.queries.wait_for import StateWaiter
from contracts.errors import NotReady, RejectedRequest
from contracts.ports.search import AppliedBatch
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Subscribe

_CHECK_EVERY_S = 1.0


class LiveEndpoints:
    """The endpoints, and what all connections share."""

    def __init__(
        self,
        node: Node,
        waiting: StateWaiter,
        budget: AnswerBudget,
        bodies: BodyReader,
        limits: LiveLimits | None = None,
    ) -> None:
        self.node = node
        self.limits = limits or LiveLimits()
        self.budget = budget
        self.bodies = bodies
        self.waiting = waiting
        self.refills = Refiller(node.searcher, node.matcher, node.side)
        self.queries, self.apply_queue = self.refills.queries, self.refills.apply_queue
        self.replay = AlertReplay(node, self.limits.alerts, self.limits.replay)
        self.alerts = self.replay.alerts
        # Lists by the query that they stand for, and who watches them.
        self._asked: dict[str, StandingQuery] = {}
        self._watching: dict[Subscriber, str] = {}
        self._connections = 0
        self._sessions: set[LiveSession] = set()
        self._generation = node.searcher.generation
        # Why clients must go elsewhere, while they must; and the space that answers there.
        self.leaving: str | None = None
        self.moved_to: str | None = None
        node.feed.listen(self._applied)

    async def run(self) -> None:
        """Look after connections until cancelled.

        Also notices an index that was replaced without a batch that would tell.
        """
        try:
            while True:
                await self.node.side.run_step("live", self._check_sessions)
                await asyncio.sleep(_CHECK_EVERY_S)
        finally:
            self.stop()

    def stop(self) -> None:
        """Close every connection: a server that stops waits for its answers, and event streams
        never end by themselves.
        """
        self._leave("the server stops")

    async def _check_sessions(self) -> None:
        """Check the index's generation and every session, also after one of these has failed.

        Raises an ExceptionGroup of what failed.
        """
        now = monotonic()
        errors: list[Exception] = []
        checks: list[Callable[[], None]] = [self.check_generation]
        checks += [partial(session.check, now) for session in self._sessions]
        for check in checks:
            try:
                check()
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"live checks failed, the first by {errors[0]!r}", errors)

    async def websocket(self, websocket: WebSocket) -> None:
        """Any number of subscriptions on one connection."""
        refusal = self._no_room()
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        with self._counted():
            await websocket.accept()
            await self._serve(LiveSession(self, _WebSocketClient(websocket)))

    async def events(self, request: Request) -> Response:
        """One subscription as server-sent events. Raises RejectedRequest."""
        message = subscription_of(request)
        if request.method == "HEAD":
            return Response(headers=HEADERS)  # a stream would never end it
        return self._no_room() or EventStream(lambda stream: self._stream(stream, message))

    async def _stream(self, stream: EventStream, message: Subscribe) -> None:
        with self._counted():
            await self._serve(LiveSession(self, stream), message)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count one live connection for as long as the context lasts."""
        self._connections += 1
        self._count()
        try:
            yield
        finally:
            self._connections -= 1
            self._count()

    async def _serve(self, session: LiveSession, first: Subscribe | None = None) -> None:
        self._sessions.add(session)
        try:
            await session.serve(first)
        finally:
            self._sessions.discard(session)

    def move(self, space: str | None) -> None:
        """Another space answers from now on (None: this one does, again).

        Every subscription is reset and every connection closed, so that clients ask that one: the
        vectors of standing queries are of this space, and their pictures are not kept.
        """
        self.moved_to = space
        self._leave(None if space is None else space_changed(self.node.space.name, space))

    def _leave(self, reason: str | None) -> None:
        self.leaving = reason
        for session in self._sessions:
            session.wake()

    def require_room(self) -> None:
        """Raises RejectedRequest while there are too many, or too many wait to be searched."""
        settings = self.node.settings
        limits = {
            "standing_max": (settings.standing_max, self._subscriptions(), "subscriptions"),
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

    def watch(self, asked: str, question: PreparedQuery, wake: Callable[[], None]) -> Subscriber:
        """Call `wake` when the list of a query changes. Equal queries (`asked`) share one list."""
        standing = self._asked.get(asked)
        if standing is None or standing.has_failed:
            standing = self._asked[asked] = StandingQuery(question)
            subscriber = standing.subscribe(wake)
            self.queries.add(standing)
        else:
            subscriber = standing.subscribe(wake)
        self._watching[subscriber] = asked
        self._count()
        return subscriber

    def subscribe_alert(
        self, query: PreparedQuery, position: AsOf, wake: Callable[[], None]
    ) -> Alert:
        """Return an alert for the matches of a query after `position`."""
        alert = Alert(query, position, wake, self.limits.alerts)
        self.alerts.add(alert)
        self._count()
        return alert

    def leave(self, one: Subscriber | Alert) -> None:
        """Nothing more for it."""
        if isinstance(one, Alert):
            self.replay.remove(one)
        else:
            asked, standing = self._watching.pop(one), one.standing_query
            standing.subscribers.remove(one)
            if not standing.subscribers:
                self.queries.remove(standing)
                if self._asked.get(asked) is standing:
                    del self._asked[asked]
        self._count()

    def _applied(self, batches: Sequence[AppliedBatch]) -> None:
        self.check_generation()
        self.apply_queue.add_batches(batches)
        if len(self.alerts):
            self.alerts.apply_batches(batches, self.state())

    def state(self) -> AsOf | None:
        """The index's, or None while it cannot answer."""
        try:
            return self.node.searcher.as_of()
        except NotReady:
            return None

    def check_generation(self) -> None:
        """Search all lists again when the state is no longer a successor of the last one."""
        generation = self.node.searcher.generation
        if generation != self._generation:
            self.apply_queue.invalidate_all()
            self.alerts.invalidate_all()
            self._generation = generation

    def _subscriptions(self) -> int:
        return len(self._watching) + len(self.alerts)

    def _no_room(self) -> Response | None:
        limit = self.node.settings.connections_max
        if self._connections < limit:
            return None
        members = {
            "code": "too_many",
            "message": f"connections_max: limit {limit} live connections",
            "limit": limit,
        }
        return problem(429, members)

    def _count(self) -> None:
        self.node.metrics.connections.set(self._connections)
        self.node.metrics.subscriptions.set(self._subscriptions())


class _WebSocketClient:
    """A WebSocket as a Socket: each message is a text frame."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.receive = websocket.receive
        self.close = websocket.close

    async def send_message(self, message: ServerMessage, text: str) -> None:
        await self._websocket.send_text(text)

    async def send_error(self, status: int, message: ServerMessage) -> None:
        await self.send_message(message, message_json(message))

    async def beat(self) -> None:
        """The server's WebSocket pings do that."""
