"""The endpoints of live subscriptions (`/v1/live`), and all connections of a node."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from api.http.problems import problem
from api.live.event_stream import HEADERS, EventStream, subscription_of
from api.live.message_json import message_json
from api.live.registry import SubscriptionRegistry
from api.live.session import LiveSession
from api.live.subscription import ServerMessage, space_changed
from contracts.wire.client_messages import Subscribe

_CHECK_EVERY_S = 1.0


class LiveEndpoints:
    """The WebSocket and the event stream, with the sessions of all clients."""

    def __init__(self, registry: SubscriptionRegistry) -> None:
        self.registry = registry
        self._node = registry.node
        self._connections = 0
        self._sessions: set[LiveSession] = set()

    async def run(self) -> None:
        """Check all connections each second, until cancelled.

        This also notices an index that was replaced when no batch came after that.
        """
        try:
            while True:
                await self._node.side.run_step("live", self._check_sessions)
                await asyncio.sleep(_CHECK_EVERY_S)
        finally:
            self.stop()

    def stop(self) -> None:
        """Close every connection.

        A server that stops waits for its answers, and event streams never end by themselves.
        """
        self._close_sessions("the server stops")

    async def _check_sessions(self) -> None:
        """Check the index's generation and every session, also after one of these has failed.

        Raises an ExceptionGroup of what failed.
        """
        now = monotonic()
        errors: list[Exception] = []
        checks: list[Callable[[], None]] = [self.registry.check_generation]
        checks += [partial(session.check, now) for session in self._sessions]
        for check in checks:
            try:
                check()
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"live checks failed, the first by {errors[0]!r}", errors)

    async def websocket(self, websocket: WebSocket) -> None:
        """Serve any number of subscriptions on one connection."""
        refusal = self._refusal()
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        with self._counted():
            await websocket.accept()
            await self._serve(LiveSession(self.registry, _WebSocketClient(websocket)))

    async def events(self, request: Request) -> Response:
        """Serve one subscription as server-sent events. Raises RejectedRequest."""
        message = subscription_of(request)
        if request.method == "HEAD":
            return Response(headers=HEADERS)  # an event stream would never end
        return self._refusal() or EventStream(lambda stream: self._stream(stream, message))

    async def _stream(self, stream: EventStream, message: Subscribe) -> None:
        with self._counted():
            await self._serve(LiveSession(self.registry, stream), message)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count one live connection while the context lasts."""
        self._connections += 1
        self._update_gauge()
        try:
            yield
        finally:
            self._connections -= 1
            self._update_gauge()

    async def _serve(self, session: LiveSession, first: Subscribe | None = None) -> None:
        self._sessions.add(session)
        try:
            await session.serve(first)
        finally:
            self._sessions.discard(session)

    def redirect_to_space(self, space: str | None) -> None:
        """Send the clients to another space, which answers from now on; None lets this one answer.

        Every subscription is reset and every connection closed, so that clients ask the other
        space. They must ask again, since the vectors of standing queries are of this space, and the
        pictures that some were encoded from are no longer in memory.
        """
        self.registry.successor_space = space
        here = self._node.space.name
        self._close_sessions(None if space is None else space_changed(here, space))

    def _close_sessions(self, reason: str | None) -> None:
        self.registry.close_reason = reason
        for session in self._sessions:
            session.wake()

    def _refusal(self) -> Response | None:
        """Return the answer if there are too many connections already, otherwise None."""
        limit = self._node.settings.connections_max
        if self._connections < limit:
            return None
        members = {
            "code": "too_many",
            "message": f"connections_max: limit {limit} live connections",
            "limit": limit,
        }
        return problem(429, members)

    def _update_gauge(self) -> None:
        self._node.metrics.connections.set(self._connections)


class _WebSocketClient:
    """A WebSocket as a ClientSocket: each message is a text frame."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.receive = websocket.receive
        self.close = websocket.close

    async def send_message(self, message: ServerMessage, text: str) -> None:
        """Send a message as a text frame."""
        await self._websocket.send_text(text)

    async def send_error(self, status: int, message: ServerMessage) -> None:
        """Send an error like any other message."""
        await self.send_message(message, message_json(message))

    async def beat(self) -> None:
        """Do nothing: the server's WebSocket pings show that the connection is alive."""
