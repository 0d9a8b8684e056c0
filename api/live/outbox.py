"""Sending messages to one live client: in order, each within a time limit, and counted."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from starlette.websockets import WebSocketDisconnect

from api.http.answer_memory import SMALL_BYTES, AnswerBudget
from api.http.eager_start import run_until_blocked
from api.http.problems import RETRIED, RETRY_AFTER_S, problem_members
from api.live.connection import TRY_AGAIN_LATER
from api.live.message_json import message_json, message_json_in_slices, message_size
from api.live.subscription import ServerMessage
from api.node import Node
from contracts.errors import TidelensError

_CLOSE_S = 1.0


class ClientGone(Exception):
    """The client has left; this ends all work for it."""


class ClientSocket(Protocol):
    """The transport of one client: a WebSocket, or an event stream."""

    async def receive(self) -> Any:
        """Return the next frame, as the ASGI message of a WebSocket."""
        ...

    async def send_message(self, message: ServerMessage, text: str) -> None:
        """Send a message, whose JSON is `text`."""
        ...

    async def send_error(self, status: int, message: ServerMessage) -> None:
        """Send an error; `status` is the status of the same error in HTTP."""
        ...

    async def beat(self) -> None:
        """Show that the connection is alive, unless the protocol below does that."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close the connection with a WebSocket close code."""
        ...


class Outbox:
    """The sender to one client: one message at a time, each within a time limit."""

    def __init__(self, node: Node, socket: ClientSocket, budget: AnswerBudget) -> None:
        self._sent = node.metrics.live_message_sent
        self._budget = budget
        self._bytes_max = node.settings.message_bytes_max
        self._timeout_s = node.settings.send_timeout_s
        self._socket = socket
        self._turn = asyncio.Lock()

    async def send(
        self, message: ServerMessage, *, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Send a message. A large one takes a while to write, and is dropped if no longer `wanted`.

        Raises RejectedRequest if it is larger than a message may be, or if there is no memory for
        it in time. Raises ClientGone.
        """
        size = message_size(message)
        if size <= SMALL_BYTES:
            await self._in_time(self._socket.send_message(message, message_json(message)))
        else:
            share = await self._budget.reserve_when_free(size, self._timeout_s)
            try:
                text = await message_json_in_slices(
                    message, self._bytes_max, self._budget.time_slice()
                )
                # Joining the pieces was a slice of its own.
                await asyncio.sleep(0)
                if not wanted():
                    return
                await self._in_time(self._socket.send_message(message, text))
            finally:
                share.close()
        self._sent(message["type"])

    async def beat(self) -> None:
        """Show the client that the connection is alive. Raises ClientGone."""
        await self._in_time(self._socket.beat())

    async def _in_time(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            # A message that has the turn has it for a bounded time.
            async with self._turn:
                rest = run_until_blocked(sending)
                if rest is not None:
                    async with asyncio.timeout(self._timeout_s):
                        await rest
        except TimeoutError:
            await self.close(TRY_AGAIN_LATER, "too slow: resume with the last cursor")
            raise ClientGone from None
        except (WebSocketDisconnect, RuntimeError):
            # RuntimeError: closed before, by this server, or by Uvicorn, which got no pong.
            raise ClientGone from None
        finally:
            # For a message whose turn never came.
            sending.close()

    async def error(self, sub: str | None, error: TidelensError) -> None:
        """Send an error, about the subscription `sub` if it is given. Raises ClientGone."""
        status, members = problem_members(error)
        named = {} if sub is None else {"sub": sub}
        later = {"retry_after": RETRY_AFTER_S} if status in RETRIED else {}
        message = {"type": "error", **named, **members, **later}
        await self._in_time(self._socket.send_error(status, message))
        self._sent("error")

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, if the client takes that in time."""
        # A client that does not read does not take the close frame either.
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(_CLOSE_S):
                await self._socket.close(code, reason)
