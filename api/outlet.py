"""Sending to one live client: in order, each message within a time, counted."""

import asyncio
import contextlib
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from api.connection import TRY_AGAIN_LATER
from api.node import Node
from api.problems import members_of
from contracts.errors import TidelensError

_CLOSE_S = 1.0


class Gone(Exception):
    """The client is no longer there; ends everything that is done for it."""


class Outlet:
    """Sends to one client, one message at a time, each within a time."""

    def __init__(self, node: Node, socket: WebSocket) -> None:
        self._metrics = node.metrics
        self._timeout_s = node.settings.send_timeout_s
        self._socket = socket
        self._turn = asyncio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        text = orjson.dumps(message, default=str).decode()
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                await self._socket.send_text(text)
        except TimeoutError:
            await self.close(TRY_AGAIN_LATER, "too slow: resume with the last cursor")
            raise Gone from None
        except (WebSocketDisconnect, WebSocketDisconnected):
            raise Gone from None
        self._metrics.live_messages.labels(message["type"]).inc()

    async def error(self, sub: str | None, error: TidelensError) -> None:
        named = {} if sub is None else {"sub": sub}
        await self.send({"type": "error", **named, **members_of(error)[1]})

    async def close(self, code: int, reason: str) -> None:
        # A client that does not read does not take the close frame either.
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, WebSocketDisconnected):
            async with asyncio.timeout(_CLOSE_S):
                await self._socket.close(code, reason)
