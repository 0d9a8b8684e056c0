"""Places that are limited: requests at one registrant's hosts, and pictures in memory."""

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from consumers.fair_semaphore import FairSemaphore


class HostPermits:
    """Lets so many requests at once at the hosts of one owner, and knows only owners in use.

    An owner is a registrant (registrants.py) or a bucket.
    """

    def __init__(self, per_host_max: int) -> None:
        self._per_host_max = per_host_max
        self._by_owner: dict[str, _OwnerPermits] = {}

    @asynccontextmanager
    async def permit(self, owner: str, group: Hashable) -> AsyncIterator[None]:
        """Hold a request at the hosts of `owner`; groups that wait for one take turns."""
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
    """One picture's permit in memory, of those that `semaphore` counts.

    Taken inside an owner's door, so that its slow hosts hold no more of them than its own limit,
    and left before another door: two who wait for each other's would wait for ever. Groups, which
    are partitions, have turns at both semaphores: pictures that take long to decode keep theirs.
    """

    def __init__(self, semaphore: FairSemaphore, group: Hashable) -> None:
        self._semaphore = semaphore
        self.group = group
        self._taken = False

    async def acquire(self) -> None:
        assert not self._taken
        await self._semaphore.acquire(self.group)
        self._taken = True

    @contextmanager
    def released_on_failure(self) -> Iterator[None]:
        """Whoever pauses before the next attempt holds nothing that others need."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Does nothing where none is taken."""
        if self._taken:
            self._taken = False
            self._semaphore.release()
