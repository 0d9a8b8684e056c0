"""A semaphore that serves groups in turns, so that one with many waiters holds up no other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """Lets at most `count` in at once. A free turn goes to the group whose last one is longest ago,
    and within the group to the waiter that came first.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def acquire(self, group: Hashable) -> None:
        """Wait for a turn; a caller that is cancelled has none."""
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(group, turn)
            else:  # the turn was given in the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give the turn back, to the next who waits for one."""
        while self._waiting:
            group, queue = next(iter(self._waiting.items()))
            turn = queue[0]
            self._forget(group, turn)
            if turn.done():  # cancelled a moment ago, which costs its group no turn
                continue
            if queue:  # behind all others
                self._waiting[group] = self._waiting.pop(group)
            turn.set_result(None)
            return
        self._free += 1

    def _forget(self, group: Hashable, turn: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(group)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[group]

    @asynccontextmanager
    async def turn(self, group: Hashable) -> AsyncIterator[None]:
        """Hold a turn while it is entered."""
        await self.acquire(group)
        try:
            yield
        finally:
            self.release()
