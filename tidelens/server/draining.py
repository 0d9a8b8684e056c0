"""Ends the connections of a server that stops: nobody waits for an answer that never comes.

Requests that are nearly done are answered as always, those that still wait are refused with 503,
and answers that were begun go on to their end; each step has a bounded time. uvicorn waits once for
everything and cancels what is left: such requests were answered with 500 after five seconds.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

# A search takes milliseconds.
ANSWER_S = 0.5
# Large answers that were begun get this time, and clients to read why they were refused.
_FLUSH_S = 2.0
_CANCEL_S = 0.5
_LOOK_S = 0.02


class DrainableProtocol(Protocol):
    """The protocol of a connection that is asked to end."""

    transport: asyncio.Transport

    @property
    def unanswered(self) -> bool:
        """Return whether a request waits for the first byte of its answer."""

    def shutdown(self) -> None:
        """End what waits for the client."""

    def stop(self) -> None:
        """Refuse what has no answer yet."""


async def drain(
    connections: Collection[DrainableProtocol],
    tasks: Collection["asyncio.Task[None]"],
    answered: Callable[[], None],
) -> None:
    """Return when no connection is left, and call `answered` once no request waits any more.

    Both collections belong to the server and shrink meanwhile.
    """
    for connection in list(connections):
        connection.shutdown()
    await _until(lambda: not any(one.unanswered for one in connections), ANSWER_S)
    for connection in list(connections):
        connection.stop()
    answered()
    await _until(lambda: not connections, _FLUSH_S)
    for connection in list(connections):
        connection.transport.abort()
    for task in list(tasks):
        task.cancel()
    await _until(lambda: not connections and not tasks, _CANCEL_S)


async def _until(true: Callable[[], bool], seconds: float) -> None:
    """Return when `true()`, or after this many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not true() and loop.time() < end:  # noqa: ASYNC110 - nobody tells when that is
        await asyncio.sleep(_LOOK_S)
