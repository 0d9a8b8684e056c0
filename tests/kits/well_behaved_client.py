"""A client that does nothing wrong, and measures how long each type of request takes."""

import asyncio
import itertools
import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.kits.raw_http import Answer, Link, ask

NEW_TEXT, CACHED, FILTERED, LIVE = "new text", "cached vector", "filtered", "live"
KINDS = (NEW_TEXT, CACHED, FILTERED, LIVE)
_PAUSE_S = {NEW_TEXT: 0.1, CACHED: 0.05, FILTERED: 0.1, LIVE: 0.5}
_PROBE = "a probe that behaves well"
_LIVE_PATIENCE_S = 30.0
# A word of its own for each query, so that no vector of a text is known.
_WORDS = ("river", "lamp", "horse", "tower", "bread", "cloud", "violin", "stone", "garden", "ferry")


class WellBehaved:
    """Asks from 127.0.0.1 until it is cancelled; every search on a connection of its own, but the
    cached ones, which share one.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers = itertools.count(time.time_ns() // 1000)
        self._taken: dict[str, list[float]] = defaultdict(list)
        self.failures: Counter[str] = Counter()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(NEW_TEXT, self._new_text))
            tasks.create_task(self._repeat(FILTERED, self._filtered))
            tasks.create_task(self._cached())
            tasks.create_task(self._live())

    def take(self) -> dict[str, list[float]]:
        """Return the milliseconds of each request since the last call, by type of request."""
        taken, self._taken = dict(self._taken), defaultdict(list)
        return taken

    async def _repeat(self, kind: str, once: Callable[[], Awaitable[Answer]]) -> None:
        while True:
            await self._timed(kind, once)
            await asyncio.sleep(_PAUSE_S[kind])

    async def _timed(self, kind: str, once: Callable[[], Awaitable[Answer]]) -> bool:
        began = time.perf_counter()
        try:
            answer = await once()
            failure = None if answer.status == 200 else f"{kind}: {answer.status}"
        except (OSError, EOFError, TimeoutError) as error:
            failure = f"{kind}: {type(error).__name__}"
        self._taken[kind].append((time.perf_counter() - began) * 1000)
        if failure is not None:
            self.failures[failure] += 1
        return failure is None

    async def _new_text(self) -> Answer:
        number = next(self._numbers)
        text = f"{_WORDS[number % 10]} and {_WORDS[number // 10 % 10]} number {number}"
        return await ask(self._port, "POST", "/v1/search", {"text": text, "target": "captions"})

    async def _filtered(self) -> Answer:
        query = {"text": _PROBE, "target": "captions", "filter": {"eq": {"seed": True}}}
        answer = await ask(self._port, "POST", "/v1/search", query)
        if answer.status == 200 and not answer.json()["hits"]:
            raise EOFError("no hit, though there are items of that field")
        return answer

    async def _cached(self) -> None:
        query = {"text": _PROBE, "target": "captions"}
        link: Link | None = None
        while True:

            async def once() -> Answer:
                nonlocal link
                link = link or await Link.open(self._port)
                return await link.ask("POST", "/v1/search", query)

            if not await self._timed(CACHED, once) and link is not None:
                link.writer.transport.abort()
                link = None
            await asyncio.sleep(_PAUSE_S[CACHED])

    async def _live(self) -> None:
        """Measure from the publishing of a version of one caption to the message about it."""
        while True:
            try:
                url = f"ws://127.0.0.1:{self._port}/v1/live"
                async with connect(url, compression=None, proxy=None) as socket:
                    await self._follow(socket)
            except (OSError, EOFError, TimeoutError, WebSocketException) as error:
                self.failures[f"{LIVE}: {type(error).__name__}"] += 1
                await asyncio.sleep(_PAUSE_S[LIVE])

    async def _follow(self, socket: Any) -> None:
        query = {"text": _PROBE, "target": "captions", "min_score": 0.9}
        await socket.send(
            json.dumps({"op": "subscribe", "sub": "s", "mode": "matches", "query": query})
        )
        async with asyncio.timeout(_LIVE_PATIENCE_S):
            await socket.recv()
        while True:
            number = next(self._numbers)
            item = {
                "target": "captions",
                "id": "probe",
                "text": _PROBE,
                "metadata": {"number": number, "seed": True},
            }
            began = time.perf_counter()
            try:
                async with asyncio.timeout(_LIVE_PATIENCE_S):
                    published = await ask(self._port, "POST", "/v1/items", [item])
                    if published.status != 200:
                        raise EOFError(f"{published.status}")
                    while not _mentions(json.loads(await socket.recv()), number):
                        pass
            finally:
                self._taken[LIVE].append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(_PAUSE_S[LIVE])


def _mentions(message: Any, number: int) -> bool:
    hits = message.get("hits", ())
    return any(hit.get("metadata", {}).get("number") == number for hit in hits)


def percentiles(taken: list[float]) -> tuple[float, float]:
    """Return the p50 and the p99."""
    if len(taken) < 2:
        return (taken[0], taken[0]) if taken else (float("nan"), float("nan"))
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return cuts[49], cuts[98]
