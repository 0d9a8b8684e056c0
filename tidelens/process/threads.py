"""Run work that blocks and cannot be ended, such as loading a model, beside a loop that can."""

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

# Idle threads end at once with the interpreter; one that runs for longer is considered hung.
_HANG_S = 1.0


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns, from a thread that does not delay the exit when it hangs.

    The threads of asyncio.to_thread are waited for when the loop closes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(how: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            how(value)

    def run() -> None:
        how: Callable[[Any], None]
        value: Any
        try:
            how, value = done.set_result, work()
        except BaseException as error:
            how, value = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # Nobody waited, and the loop is closed.
            loop.call_soon_threadsafe(finish, how, value)

    threading.Thread(target=run, daemon=True).start()
    return await done


def leave_behind(code: int) -> None:
    """End the process with `code` if threads delay the end of the interpreter by over 1 s."""
    ending = threading.Event()
    # The interpreter calls these functions in the reverse order of their registration, so this one
    # runs before the one that joins the threads of all executors.
    threading._register_atexit(ending.set)  # type: ignore[attr-defined]

    def end() -> None:
        ending.wait()
        time.sleep(_HANG_S)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def end_now() -> NoReturn:
    """End the process with 0, whatever runs in its threads.

    The interpreter would wait for those of a download, and may crash in one that is importing.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
