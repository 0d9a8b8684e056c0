"""SIGINT and SIGTERM as one awaitable, owned by us for as long as a role runs.

uvicorn would take the signals and raise them again at its end, which kills the tasks beside it
without their clean-up; so nobody but this file installs handlers.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def stop_signal() -> AsyncIterator[asyncio.Event]:
    """An event that is set by the first SIGINT or SIGTERM; a second one is ignored."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def until_stopped(
    stop: asyncio.Event, tasks: "dict[str, asyncio.Task[None]]", *, deadline_s: float = 15.0
) -> None:
    """Run `tasks` until `stop` is set or one of them ends, then cancel the rest to a deadline.

    A task that dies stops the role: its error is raised here, after the others were cleaned up.
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
            raise RuntimeError("a task ended that runs for ever")
