"""The time limit of a request: the shortest that it asks for, up to the server's limit."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from contracts.errors import TimedOut


@asynccontextmanager
async def time_limit(
    limit_s: float, asked_s: Iterable[float | None], what: str
) -> AsyncIterator[None]:
    """Bound a context by the shortest of `asked_s` that is not None, and by `limit_s`, in seconds.

    Raises TimedOut, whose message begins with `what`, the thing that did not happen.
    """
    bound_s = min([limit_s, *(one for one in asked_s if one is not None)])
    try:
        async with asyncio.timeout(bound_s):
            yield
    except TimeoutError:
        raise TimedOut(f"{what} within {bound_s:g} s") from None
