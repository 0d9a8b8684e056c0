"""Server-sent events: one live subscription as the answer to a GET, without a WebSocket.

    curl -N 'http://127.0.0.1:8080/v1/live?q=a+red+bicycle&k=5'

Each message of the live protocol is an event: its type, its JSON, and as id its cursor, which a
browser sends back as `Last-Event-ID` when it reconnects. A library is not used, since it would need
a queue between the session and the response: the list that is sent must be the newest one at the
moment at which the client takes it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from api.http.answer_pieces import BODY_PIECE_BYTES
from api.http.problems import problem
from api.http.url_parameters import query_parameters
from api.live.message_json import message_json
from api.live.subscription import ServerMessage
from contracts.errors import RejectedRequest
from contracts.filters.text_form import parse_text
from contracts.wire.client_messages import Subscribe
from contracts.wire.parser import parse_json, parse_subscribe

SUB = "events"
# Parameters that are numbers in the message.
_NUMBERS = ("k", "min_score", "throttle_ms", "min_change")
_OF_QUERY = ("target", "id", "of", "collapse", "k", "min_score")
_OF_SUBSCRIPTION = ("mode", "throttle_ms", "min_change")
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    # Otherwise nginx holds events back.
    "x-accel-buffering": "no",
}


def subscription_of(request: Request) -> Subscribe:
    """Read the subscription from the request's parameters.

    `q` is the query's text; `query`, a whole query as JSON, replaces it. `cursor` is used if there
    is no header `Last-Event-ID`. Raises RejectedRequest, which names the wrong parameter.
    """
    given = dict(query_parameters(request))
    query = _query(given)
    subscription: dict[str, Any] = {"op": "subscribe", "sub": SUB, "query": query}
    for name in _OF_SUBSCRIPTION:
        if name in given:
            subscription[name] = _value(name, given.pop(name))
    cursor = given.pop("cursor", None)
    subscription["cursor"] = request.headers.get("last-event-id") or cursor or None
    for name in given:
        raise RejectedRequest("invalid_request", f"{name}: not a parameter of /v1/live", field=name)
    return parse_subscribe(subscription)


def _query(given: dict[str, str]) -> Any:
    if "query" in given:
        query = parse_json(given.pop("query"), "query")
        if not isinstance(query, dict):
            raise RejectedRequest("invalid_request", "query: want a JSON object", field="query")
        return query
    query = {"text": given.pop("q")} if "q" in given else {}
    for name in _OF_QUERY:
        if name in given:
            query[name] = _value(name, given.pop(name))
    if "filter" in given:
        text = given.pop("filter")
        query["filter"] = parse_json(text, "filter") if text.startswith("{") else parse_text(text)
    return query


def _value(name: str, text: str) -> Any:
    if name not in _NUMBERS:
        return text
    try:
        return parse_json(text, name)
    except RejectedRequest as error:
        if error.code != "invalid_json":
            raise
        raise RejectedRequest(
            "invalid_request", f"{name}: want a number, got {text!r}", field=name, value=text
        ) from None


class EventStream(Response):
    """The response of an event stream, which `session` uses as its ClientSocket.

    A subscription that is refused before anything was sent is answered with a problem document: a
    browser does not repeat such a request.
    """

    def __init__(self, session: Callable[["EventStream"], Awaitable[None]]) -> None:
        self._session = session
        self._scope: Scope | None = None
        self._receive: Receive | None = None
        self._send: Send | None = None
        self._started = self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        await self._session(self)
        if not self._ended:
            await self._write(b"", more=False)

    async def receive(self) -> Any:
        """Wait until the client leaves, and return the frame of a disconnection.

        The client of an event stream sends nothing else.
        """
        assert self._receive is not None
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._ended = True
        return {"type": "websocket.disconnect"}

    async def send_message(self, message: ServerMessage, text: str) -> None:
        """Send a message as one event, a large one in pieces."""
        fields = [f"event: {message['type']}", f"data: {text}"]
        if "cursor" in message:
            fields.append(f"id: {message['cursor']}")
        event = "\n".join([*fields, "", ""]).encode()
        for start in range(0, len(event), BODY_PIECE_BYTES):
            await self._write(event[start : start + BODY_PIECE_BYTES])

    async def send_error(self, status: int, message: ServerMessage) -> None:
        """Send an error, and end the stream, which has only this subscription.

        Raises WebSocketDisconnect always.
        """
        if self._started:
            await self.send_message(message, message_json(message))
        else:
            assert self._scope is not None and self._receive is not None and self._send is not None
            members = {name: message[name] for name in message.keys() - {"type", "sub"}}
            self._started = self._ended = True
            await problem(status, members)(self._scope, self._receive, self._send)
        raise WebSocketDisconnect

    async def beat(self) -> None:
        """Send an empty comment, which a browser ignores."""
        await self._write(b": \n\n")

    async def close(self, code: int, reason: str) -> None:
        """End the stream; a browser reconnects by itself, with its last cursor."""
        await self._write(b"", more=False)

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        assert self._send is not None
        if self._ended:
            raise WebSocketDisconnect
        if not self._started:
            self._started = True
            headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._ended = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
