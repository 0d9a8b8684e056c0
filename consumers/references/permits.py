"""Permits for what is limited: requests at the hosts of one owner, and pictures in memory.

Groups take turns at both. A group is a partition of a content topic, whose records wait for each
other, or None for all other callers.
"""

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from consumers.fair_semaphore import FairSemaphore


class HostPermits:
    """The permits for requests, `per_host_max` at once at the hosts of one owner.

    An owner is a registrant (registrant.py) or a bucket. Only owners in use are remembered.
    """

    def __init__(self, per_host_max: int) -> None:
        self._per_host_max = per_host_max
        self._by_owner: dict[str, _OwnerPermits] = {}

    @asynccontextmanager
    async def permit(self, owner: str, group: Hashable) -> AsyncIterator[None]:
        """Hold a permit for a request at the hosts of `owner`; groups that wait take turns."""
        entry = self._by_owner.setdefault(owner, _OwnerPermits(FairSemaphore(self._per_host_max)))
        entry.users += 1
        try:
            async with entry.semaphore.permit(group):
                yield
        finally:
            entry.users -= 1
            if entry.users == 0:
                del self._by_owner[owner]


@dataclass(slots=True)
class _OwnerPermits:
    semaphore: FairSemaphore
    users: int = 0


class MemoryPermit:
    """The permit of one picture to be in memory, out of `semaphore`, for a reader of `group`.

    A caller that reads from a host acquires it while holding the owner's permit (HostPermits), so
    that slow hosts of one owner hold no more of them than that owner's limit. It releases this
    permit before it waits for the next owner's: two pictures that wait for each other's permits
    would wait for ever. Once the picture is read, the permit is kept until it is decoded.
    """

    def __init__(self, semaphore: FairSemaphore, group: Hashable) -> None:
        self._semaphore = semaphore
        self.group = group
        self._taken = False

    async def acquire(self) -> None:
        """Wait for the permit, which must not be held already."""
        assert not self._taken
        await self._semaphore.acquire(self.group)
        self._taken = True

    @contextmanager
    def released_on_failure(self) -> Iterator[None]:
        """Release the permit when the attempt fails, so that the pause before the next has none."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the permit if it is held."""
        if self._taken:
            self._taken = False
            self._semaphore.release()
