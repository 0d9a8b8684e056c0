"""A semaphore that serves groups in turns, so that a group with many waiters delays no other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """A semaphore of `count` permits, which it gives to groups in turns.

    A free permit goes to the group that has waited longest since its last one, and within the group
    to the waiter that came first.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def acquire(self, group: Hashable) -> None:
        """Wait for a permit. A caller that is cancelled meanwhile does not hold one."""
        if self._free:  # then nobody waits
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._forget(group, waiter)
            else:  # the permit was given at the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give a permit back: the next waiter has it, or it is free."""
        while self._waiting:
            group, queue = next(iter(self._waiting.items()))
            waiter = queue[0]
            self._forget(group, waiter)
            if waiter.done():  # cancelled a moment ago, which costs its group no permit
                continue
            if queue:  # behind all others
                self._waiting[group] = self._waiting.pop(group)
            waiter.set_result(None)
            return
        self._free += 1

    def _forget(self, group: Hashable, waiter: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(group)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[group]

    @asynccontextmanager
    async def permit(self, group: Hashable) -> AsyncIterator[None]:
        """Hold a permit inside the context."""
        await self.acquire(group)
        try:
            yield
        finally:
            self.release()
