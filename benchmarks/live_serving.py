"""The server process of benchmarks.live_latency, and how it is driven.

Tidelens's own app over a real index, served as `up` serves it; or a bare one that sends as many
bytes to as many sockets, and does nothing else. Changes come at a rate; those that are due together
are applied together, as the maintainer applies what a poll returned.
"""

import asyncio
import socket
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import background, create_app
from api.node import Node
from benchmarks import clip_like
from benchmarks.filled import NAMES, SPACE, Filled
from benchmarks.live_load import HOT, Load
from contracts.metrics import Metrics
from contracts.settings import Settings
from contracts.testing.event_log import MemoryEventLog
from index_store.search.matcher_numpy import NumpyMatcher
from index_store.search.searcher import AppliedFeed, LocalSearcher
from tidelens.process import gc_pauses
from tidelens.process.clock import SystemClock
from tidelens.server.admission import ConnectionLimiter, ConnectionLimits
from tidelens.server.server import listen, serve

# As the maintainer's.
_SLICE = 256


class Server(Protocol):
    @property
    def app(self) -> ASGIApp: ...

    async def apply(self, changes: range) -> None: ...


class Tidelens:
    """A node without Kafka, encoders and timers."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._filled = Filled()
        self._filled.fill(clip_like.widened(clip_like.load()[0], load.corpus))
        self._feed = AppliedFeed()
        self._apply(range(HOT * load.groups), stamped=False)
        searcher = LocalSearcher()
        searcher.serve(self._filled.index)
        searcher.set_ready()
        metrics = Metrics(SPACE.name)
        absent: Any = None  # the live endpoint asks none of these for a vector
        node = Node(
            space=SPACE,
            names=NAMES,
            settings=Settings(connections_max=load.connections),
            searcher=searcher,
            progress=searcher,
            feed=self._feed,
            log=MemoryEventLog({}),
            queries=absent,
            references=absent,
            picture_references=absent,
            converter=absent,
            lag=absent,
            admin=absent,
            matcher=NumpyMatcher(),
            metrics=metrics,
            exposed=metrics.registry,
            clock=SystemClock(),
            status=dict,
        )
        self.app = create_app(node)
        self.live = background(self.app)["live"]

    async def apply(self, changes: range) -> None:
        self._apply(changes, stamped=True)

    def _apply(self, changes: range, *, stamped: bool) -> None:
        filled, load = self._filled, self._load
        records = [
            filled.put(
                load.item_of(change),
                load.vector_of(change),
                stamp=time.monotonic_ns() if stamped else 0,
            )
            for change in changes
        ]
        self._feed.publish(filled.index.apply(filled.fetched(records)))


class Bare:
    """Answers a subscription with a word, and sends each change to those whom it reaches."""

    def __init__(self, load: Load) -> None:
        self.app = self
        self._load = load
        self._groups: list[list[Send]] = [[] for _ in range(load.groups)]
        self._pad = "x" * max(0, (load.bare_bytes or 0) - len(self._text(time.monotonic_ns(), "")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        subscribed = orjson.loads((await receive())["text"])
        await send({"type": "websocket.send", "text": '{"type":"snapshot"}'})
        group = self._groups[int(subscribed["sub"]) // self._load.reach]
        group.append(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        group.remove(send)

    async def apply(self, changes: range) -> None:
        for change in changes:
            text = self._text(time.monotonic_ns(), self._pad)
            for send in self._groups[self._load.group_of(change)]:
                await send({"type": "websocket.send", "text": text})

    @staticmethod
    def _text(stamp: int, pad: str) -> str:
        return orjson.dumps({"type": "delta", "stamp": stamp, "pad": pad}).decode()


@dataclass(slots=True)
class Driven:
    """One phase: how many changes were applied, and how much later than they were due."""

    began_ns: int
    seconds: float = 0.0
    cpu_s: float = 0.0
    changes: int = 0
    late_s: list[float] = field(default_factory=list)


class Driver:
    """A driver that applies changes at a rate, whether or not the server keeps up with it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._next = 0

    async def drive(self, rate: float, seconds: float) -> Driven:
        driven = Driven(time.monotonic_ns())
        cpu, began = time.process_time(), time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            due = int((now - began) * rate) + 1
            count = min(_SLICE, due - driven.changes)
            if count:
                some = range(driven.changes, driven.changes + count)
                driven.late_s += [now - began - n / rate for n in some]
                driven.changes += count
                await self._server.apply(range(self._next, self._next + count))
                self._next += count
            await asyncio.sleep(max(0.0, began + driven.changes / rate - time.monotonic()))
        driven.seconds = time.monotonic() - began
        driven.cpu_s = time.process_time() - cpu
        return driven


def run(pipe: Connection, load: Load) -> None:
    """Send the port, then drive at each rate that comes, until None comes."""
    gc_pauses.shorten_pauses()  # as the node does
    server: Server = Tidelens(load) if load.bare_bytes is None else Bare(load)
    listener = listen("127.0.0.1", 0)
    asyncio.run(_run(pipe, server, listener))


async def _run(pipe: Connection, server: Server, listener: socket.socket) -> None:
    # All clients have one address, as behind a proxy.
    limiter = ConnectionLimiter(ConnectionLimits(connections_max=20_000, per_address_max=20_000))
    serving = serve(server.app, listener, frame_bytes_max=2**20, limiter=limiter)
    tasks = [asyncio.create_task(serving)]
    if isinstance(server, Tidelens):
        tasks.append(asyncio.create_task(server.live()))
    pipe.send(listener.getsockname()[1])
    driver = Driver(server)
    while (asked := await asyncio.to_thread(pipe.recv)) is not None:
        pipe.send(await driver.drive(*asked))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
