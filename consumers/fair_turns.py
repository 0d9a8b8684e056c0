"""A semaphore whose groups have turns: one that has many waiting keeps no other from its next."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairTurns:
    """At most `count` at once. A free one goes to the group that waits longest for its next.

    Within a group the first to come is the first to go; a group is known while it waits.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def acquire(self, group: Hashable) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given in the same moment
                self.release()
            raise

    def release(self) -> None:
        while self._waiting:
            group = next(iter(self._waiting))
            queue = self._waiting.pop(group)
            turn = queue.popleft()
            if queue:
                self._waiting[group] = queue  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    @asynccontextmanager
    async def turn(self, group: Hashable) -> AsyncIterator[None]:
        """Acquired, and released in the end."""
        await self.acquire(group)
        try:
            yield
        finally:
            self.release()
