"""End the connections of a server that stops, so that no client waits for an answer in vain.

Requests that are nearly done are answered as usual, those that still wait are refused with 503, and
answers that were begun are sent to their end. Each step has a bounded time. uvicorn waits once for
everything and cancels what is left: such requests were answered with 500 after five seconds.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

_CANCEL_S = 0.5
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class DrainLimits:
    """The longest times, in seconds, that draining waits for requests and for connections."""

    answer_s: float = 0.5
    """The time for requests that are nearly done; a search takes milliseconds."""
    flush_s: float = 2.0
    """The time for large answers that were begun, and for clients to read why they were refused."""


class DrainableProtocol(Protocol):
    """The protocol of a connection, as far as draining uses it."""

    transport: asyncio.Transport

    @property
    def unanswered(self) -> bool:
        """True if a request waits for the first byte of its answer."""

    def shutdown(self) -> None:
        """Close the connection if the server waits for its client."""

    def stop(self) -> None:
        """Refuse requests that have no answer yet."""


async def drain(
    connections: Collection[DrainableProtocol],
    tasks: Collection["asyncio.Task[None]"],
    answered: Callable[[], None],
    limits: DrainLimits,
) -> None:
    """Return when no connection is left, and call `answered` once no request waits any longer.

    Both collections belong to the server, which removes what has ended.
    """
    for connection in list(connections):
        connection.shutdown()
    await _until(lambda: not any(one.unanswered for one in connections), limits.answer_s)
    for connection in list(connections):
        connection.stop()
    answered()
    await _until(lambda: not connections, limits.flush_s)
    for connection in list(connections):
        connection.transport.abort()
    for task in list(tasks):
        task.cancel()
    await _until(lambda: not connections and not tasks, _CANCEL_S)


async def _until(true: Callable[[], bool], seconds: float) -> None:
    """Return when `true()` holds, or after this many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not true() and loop.time() < end:  # noqa: ASYNC110 - no event is set at that time
        await asyncio.sleep(_POLL_S)
