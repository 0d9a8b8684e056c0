"""Pictures that were shown lately, and readings under way that all who ask for them share."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from contracts.errors import RejectedRequest

# How long a picture that could not be shown is not tried again, and how many are remembered.
_REFUSED_S = 10.0
_REFUSED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class CachedPicture:
    """A picture as it is sent to a browser."""

    data: bytes
    media_type: str


class CostlyRefusal(RejectedRequest):
    """A refusal that cost a decoder or another host much, and is remembered for a while."""


class PictureCache:
    """The pictures shown last, by version or by SHA-256, up to a number of bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pictures: OrderedDict[str, CachedPicture] = OrderedDict()

    def get(self, name: str) -> CachedPicture | None:
        found = self._pictures.get(name)
        if found is not None:
            self._pictures.move_to_end(name)
        return found

    def put(self, name: str, picture: CachedPicture) -> None:
        if len(picture.data) > self._bytes_max or name in self._pictures:
            return
        self._pictures[name] = picture
        self._bytes += len(picture.data)
        while self._bytes > self._bytes_max:
            _, dropped = self._pictures.popitem(last=False)
            self._bytes -= len(dropped.data)


class Permits:
    """Permits for work of one kind, as many as a setting says. Without a free one, work is refused.

    `what` names the work in the refusal.
    """

    def __init__(self, setting: str, limit: int, what: str) -> None:
        self._setting, self._limit, self._what = setting, limit, what
        self._free = limit

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a permit. Raises RejectedRequest with 503, since a later request may get one."""
        if self._free == 0:
            raise RejectedRequest(
                "too_many_pictures",
                f"{self._setting}: limit {self._limit} {self._what}",
                status=503,
                limit=self._limit,
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class SharedReads:
    """Readings under way, shared by all requests for the same picture.

    Costly refusals are remembered for a while, and repeated without another reading.
    """

    def __init__(self, permits: Permits, clock: Callable[[], float]) -> None:
        self._permits = permits
        self._clock = clock
        self._running: dict[str, asyncio.Task[CachedPicture]] = {}
        self._refused: OrderedDict[str, tuple[float, CostlyRefusal]] = OrderedDict()

    async def join(
        self, name: str, read: Callable[[], Coroutine[Any, Any, CachedPicture]]
    ) -> CachedPicture:
        """Return the picture, read by `read` unless somebody reads it already.

        A request that is cancelled leaves the reading to the others. Raises what `read` does.
        """
        until, refusal = self._refused.get(name, (0.0, None))
        if refusal is not None and self._clock() < until:
            # A new error: one that is raised again would keep every traceback.
            raise RejectedRequest(**refusal.members(), status=refusal.status)
        running = self._running.get(name)
        if running is None:
            running = asyncio.create_task(self._read(read))
            self._running[name] = running
            running.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(running)

    async def _read(self, read: Callable[[], Awaitable[CachedPicture]]) -> CachedPicture:
        with self._permits.taken():
            return await read()

    def _ended(self, name: str, done: "asyncio.Task[CachedPicture]") -> None:
        del self._running[name]
        self._refused.pop(name, None)
        error = None if done.cancelled() else done.exception()
        if isinstance(error, CostlyRefusal):
            self._refused[name] = self._clock() + _REFUSED_S, error
            if len(self._refused) > _REFUSED_MAX:
                self._refused.popitem(last=False)
