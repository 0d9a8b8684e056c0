"""Functions that wait for turns of the event loop or for a condition, instead of for a time."""

import asyncio
from collections.abc import Callable

_LOOK_S = 0.001


async def turns(count: int) -> None:
    """Let the loop take `count` turns: all that is ready runs, and all that follows from it.

    A test that requires that nothing happens waits so, once what would cause it was seen.
    """
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` is true; only the test's own timeout bounds the wait."""
    while not condition():
        await asyncio.sleep(_LOOK_S)
