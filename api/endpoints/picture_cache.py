"""The pictures that were shown last, and reads in progress that several requests share."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache, TTLCache

from contracts.errors import RejectedRequest

# Seconds for which a costly refusal is repeated without another read, and how many are remembered.
_REFUSED_S = 10.0
_REFUSED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class CachedPicture:
    """A picture as it is sent to a browser; `data` is a file of `media_type`."""

    data: bytes
    media_type: str


class CostlyRefusal(RejectedRequest):
    """A refusal that was expensive for a decoder or another host, so it is repeated for a while."""


class PictureCache:
    """The pictures that were shown last, `bytes_max` bytes of them at most.

    A picture is known by the version of its item or by the SHA-256 of what was published.
    """

    def __init__(self, bytes_max: int) -> None:
        self._pictures: LRUCache[str, CachedPicture] = LRUCache(
            bytes_max, getsizeof=lambda picture: len(picture.data)
        )

    def get(self, name: str) -> CachedPicture | None:
        """Return the picture, or None if it is not in the cache."""
        return self._pictures.get(name)

    def put(self, name: str, picture: CachedPicture) -> None:
        """Add a picture, unless it is larger than the whole cache or is in the cache already."""
        if len(picture.data) <= self._pictures.maxsize and name not in self._pictures:
            self._pictures[name] = picture


class Permits:
    """The permits for one type of work, `limit` of them. Without a free one, work is refused.

    `setting` and `what` name the limit and the work in the refusal.
    """

    def __init__(self, setting: str, limit: int, what: str) -> None:
        self._setting, self._limit, self._what = setting, limit, what
        self._free = limit

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold a permit for the context. Raises RejectedRequest with 503 if no permit is free."""
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
    """The reads of pictures in progress, each shared by all requests for the same picture.

    Costly refusals are repeated for a while without another read. `clock` returns seconds.
    """

    def __init__(self, permits: Permits, clock: Callable[[], float]) -> None:
        self._permits = permits
        self._running: dict[str, asyncio.Task[CachedPicture]] = {}
        self._refused: TTLCache[str, CostlyRefusal] = TTLCache(
            _REFUSED_MAX, _REFUSED_S, timer=clock
        )

    async def join(
        self, name: str, read: Callable[[], Coroutine[Any, Any, CachedPicture]]
    ) -> CachedPicture:
        """Return the picture, which `read` reads unless another request is reading it.

        A cancelled request leaves the read to the others. Raises what `read` raises, and
        RejectedRequest without a free permit.
        """
        refusal = self._refused.get(name)
        if refusal is not None:
            # A new error: one that is raised again would keep every traceback.
            raise RejectedRequest(**refusal.members(), status=refusal.status)
        running = self._running.get(name)
        if running is None:
            running = asyncio.create_task(self._read(read))
            self._running[name] = running
            running.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(running)

    async def _read(self, read: Callable[[], Awaitable[CachedPicture]]) -> CachedPicture:
        with self._permits.permit():
            return await read()

    def _ended(self, name: str, done: "asyncio.Task[CachedPicture]") -> None:
        del self._running[name]
        self._refused.pop(name, None)
        error = None if done.cancelled() else done.exception()
        if isinstance(error, CostlyRefusal):
            self._refused[name] = error
