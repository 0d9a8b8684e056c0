"""Run a role: its last line is JSON if its log is, and no thread delays the end of its process.

Threads that cannot be ended may hang, such as one that asks a name server, or Faust's own for
Kafka. The interpreter would wait for them after everything that matters was closed.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tidelens.cli.base.failures import describe_failure
from tidelens.process import logs

T = TypeVar("T")

# A thread that hangs for longer is left behind.
_THREADS_S = 1.0
_POLL_S = 0.02


def run(role: Coroutine[Any, Any, T]) -> T:
    """Run `role` as asyncio.run does, but wait at most 1 s for the threads of its loop."""
    logs.catch_all()
    with asyncio.Runner() as runner:
        try:
            return runner.run(role)
        finally:
            runner.run(_leave_threads())


async def _leave_threads() -> None:
    loop = asyncio.get_running_loop()
    executor: ThreadPoolExecutor | None = vars(loop)["_default_executor"]
    if executor is None:
        return
    executor.shutdown(wait=False, cancel_futures=True)
    end = loop.time() + _THREADS_S
    while any(thread.is_alive() for thread in executor._threads) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    # Otherwise the runner would wait for them without end.
    vars(loop)["_default_executor"] = None


@contextmanager
def failing_as_logged(role: str) -> Iterator[None]:
    """Configure the log before an error ends a role, so that `main` can log it as last line."""
    try:
        yield
    except Exception as error:
        # The settings, which describe the log, may be what is wrong.
        if not logs.is_of(role):
            logs.configure(os.environ.get("TIDELENS_LOG_FORMAT", "auto"), role)
        if describe_failure(error) is None:
            logs.catch_all()
        raise
