"""Pictures that were looked at lately, and those that are being read: each is read once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from contracts.errors import RejectedRequest

# For how long one that cannot be shown is not tried again, and how many such are remembered.
_REFUSED_S = 10.0
_REFUSED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Picture:
    """What a browser is given."""

    data: bytes
    media_type: str


class CostlyRefusal(RejectedRequest):
    """One that would cost as much again, of a decoder or of another host: it is remembered."""


class KeptPictures:
    """The pictures asked for last, up to a number of bytes; by version, or by SHA-256."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def get(self, name: str) -> Picture | None:
        found = self._pictures.get(name)
        if found is not None:
            self._pictures.move_to_end(name)
        return found

    def put(self, name: str, picture: Picture) -> None:
        if len(picture.data) > self._bytes_max or name in self._pictures:
            return
        self._pictures[name] = picture
        self._bytes += len(picture.data)
        while self._bytes > self._bytes_max:
            _, dropped = self._pictures.popitem(last=False)
            self._bytes -= len(dropped.data)


class Places:
    """So many at once; one more is refused, and may come again."""

    def __init__(self, setting: str, places: int, what: str) -> None:
        self._setting, self._free, self._places, self._what = setting, places, places, what

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self._free == 0:
            raise RejectedRequest(
                "too_many_pictures",
                f"{self._setting}: limit {self._places} {self._what}",
                status=503,
                limit=self._places,
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Flights:
    """Readings under way, shared by all who ask for the same; costly ones that failed are
    remembered for a while."""

    def __init__(self, places: Places, clock: Callable[[], float]) -> None:
        self._places = places
        self._clock = clock
        self._running: dict[str, asyncio.Task[Picture]] = {}
        self._refused: OrderedDict[str, tuple[float, CostlyRefusal]] = OrderedDict()

    async def join(self, name: str, read: Callable[[], Coroutine[Any, Any, Picture]]) -> Picture:
        """The picture; who gives up waiting leaves it to the others. Raises what `read` does."""
        until, refusal = self._refused.get(name, (0.0, None))
        if refusal is not None and self._clock() < until:
            # Not itself: an error that is raised again keeps every traceback.
            raise RejectedRequest(**refusal.members(), status=refusal.status)
        running = self._running.get(name)
        if running is None:
            running = asyncio.create_task(self._read(read))
            self._running[name] = running
            running.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(running)

    async def _read(self, read: Callable[[], Awaitable[Picture]]) -> Picture:
        with self._places.taken():
            return await read()

    def _ended(self, name: str, done: "asyncio.Task[Picture]") -> None:
        del self._running[name]
        self._refused.pop(name, None)
        error = None if done.cancelled() else done.exception()
        if isinstance(error, CostlyRefusal):
            self._refused[name] = self._clock() + _REFUSED_S, error
            if len(self._refused) > _REFUSED_MAX:
                self._refused.popitem(last=False)
