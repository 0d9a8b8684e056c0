"""Turn SIGINT and SIGTERM into one awaitable, from a role's start to the end of its process.

Only this module installs handlers. uvicorn would take the signals and raise them again at its end,
which kills the tasks beside it without their clean-up. asyncio's loop would put the defaults back
when it closes, and the interpreter may take seconds from there to its end: a second signal in that
time would make a process that stops in order look like one that was killed.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_STOPPING = frozenset({signal.SIGINT, signal.SIGTERM})
_READ_BYTES = 64


@asynccontextmanager
async def stop_signal() -> AsyncIterator[asyncio.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; later signals are ignored.

    They are ignored after the context too, until the process has ended. So a process enters it only
    once, and as its last one.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    receiving, sending = socket.socketpair()

    def read_signals() -> None:
        if _STOPPING & set(receiving.recv(_READ_BYTES)):
            stop.set()

    with receiving, sending:
        receiving.setblocking(False)
        sending.setblocking(False)
        # Python writes to it, whatever the loop is doing; the handlers themselves do nothing.
        signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        loop.add_reader(receiving, read_signals)
        for number in _STOPPING:
            signal.signal(number, lambda *_: None)
        try:
            yield stop
        finally:
            # SIG_IGN, since the interpreter removes handlers, even empty ones, before it ends.
            for number in _STOPPING:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            loop.remove_reader(receiving)


async def unless_stopped(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Return what `work` returns, or None if `stop` is set first and `work` was cancelled."""
    working, stopping = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        # `work` may have opened something already, which it closes.
        await asyncio.gather(working, return_exceptions=True)


async def finish_until(work: Coroutine[Any, Any, T], event: asyncio.Event) -> T:
    """Return what `work` returns; if cancelled, let `work` go on until `event` is set."""
    working = asyncio.create_task(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        if not working.done():
            waiting = asyncio.create_task(event.wait())
            await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        raise
    finally:
        working.cancel()
        # After a cancellation nobody waits for its failure any more.
        await asyncio.gather(working, return_exceptions=True)


async def until_stopped(
    stop: asyncio.Event, tasks: "dict[str, asyncio.Task[None]]", *, deadline_s: float = 15.0
) -> None:
    """Run `tasks` until `stop` is set or one of them ends, then cancel the rest.

    Cancelled tasks have `deadline_s` seconds to clean up; after that, the error of a task that
    failed is raised. Raises RuntimeError if a task ended without an error before `stop` was set.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopping, *tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks.values() if task.done() and not task.cancelled()]
    finally:
        stopping.cancel()
        for task in tasks.values():
            task.cancel()
        await asyncio.wait([stopping, *tasks.values()], timeout=deadline_s)
    for task in failed:
        error = task.exception()
        # A task group wraps what one of its tasks raised; the one line is about the cause.
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is not None:
            raise error
        if not stop.is_set():
            raise RuntimeError("a task ended, but should run until cancelled")
