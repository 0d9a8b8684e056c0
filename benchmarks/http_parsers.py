"""HTTP parsed by httptools behind the door, by uvicorn's own protocol on httptools, and by h11.

One real node without Kafka in three server processes, which answer in turns, so that whatever else
the machine does meets all of them.
"""

import asyncio
import functools
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import orjson
import uvicorn

from benchmarks.live_load import Load
from benchmarks.live_serving import Tidelens
from benchmarks.report import Goal, finish, parser
from tidelens.process import gc_pauses
from tidelens.server.admission import ConnectionLimiter
from tidelens.server.server import Server, listen
from tidelens.server.websocket_protocol import LiveProtocol

_OURS, _UVICORN, _H11 = "ours", "httptools of uvicorn", "h11"
_ROWS = 1_000
_SEARCH = orjson.dumps({"id": "i5", "of": "images", "k": 10})


@dataclass(frozen=True, slots=True)
class Case:
    """A request, its number of clients, and the ratio to h11 that was found at the choice."""

    name: str
    method: str
    path: str
    body: bytes
    clients: int
    goal: float

    def request(self, port: int) -> bytes:
        head = f"{self.method} {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        if self.body:
            head += f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


_CASES = (
    Case("search, 1 client", "POST", "/v1/search", _SEARCH, 1, 1.19),
    Case("search, 8 clients", "POST", "/v1/search", _SEARCH, 8, 1.32),
    Case("/healthz, 8 clients", "GET", "/healthz", b"", 8, 2.04),
)


def run(pipe: Connection, name: str) -> None:
    """Send the port, then serve until the other side sends the end."""
    node = Tidelens(Load(100, _ROWS))
    gc_pauses.shorten_pauses()  # as the node does
    limiter = ConnectionLimiter()
    live: Any = functools.partial(LiveProtocol, limiter) if name == _OURS else "websockets-sansio"
    config = uvicorn.Config(
        node.app,
        http="h11" if name == _H11 else "httptools",
        ws=live,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        proxy_headers=name != _OURS,  # as it was
    )
    listener = listen("127.0.0.1", 0)
    pipe.send(listener.getsockname()[1])
    server = Server(config, limiter) if name == _OURS else _Uvicorn(config)
    asyncio.run(_serve(pipe, server, listener, limiter))


class _Uvicorn(uvicorn.Server):
    """Uvicorn as it is, but for its signals, since the parent process ends this one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    pipe: Connection, server: uvicorn.Server, listener: Any, limiter: ConnectionLimiter
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    told = asyncio.create_task(asyncio.to_thread(pipe.recv))
    while not told.done():
        limiter.check()  # as `serve` does
        await asyncio.wait([told], timeout=0.5)
    server.should_exit = True
    await serving


class _Client(asyncio.Protocol):
    """Asks again as soon as it has the answer."""

    def __init__(self, request: bytes, until: float) -> None:
        self.answers = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"want 200, got {head!r}")
        self.answers += 1
        self._data = b""
        if time.perf_counter() < self._until:
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


async def _rate(case: Case, port: int, seconds: float) -> float:
    request, began = case.request(port), time.perf_counter()
    loop = asyncio.get_running_loop()

    def client() -> _Client:
        return _Client(request, began + seconds)

    asking = [
        (await loop.create_connection(client, "127.0.0.1", port))[1] for _ in range(case.clients)
    ]
    await asyncio.gather(*(client.done for client in asking))
    return sum(client.answers for client in asking) / (time.perf_counter() - began)


@contextmanager
def running() -> Iterator[dict[str, int]]:
    """Yield the ports of the three servers."""
    context = multiprocessing.get_context("spawn")
    ports, served = {}, []
    try:
        for name in (_OURS, _UVICORN, _H11):
            ours, theirs = context.Pipe()
            process = context.Process(target=run, args=(theirs, name), daemon=True)
            process.start()
            theirs.close()
            served.append((ours, process))
            ports[name] = ours.recv()
        yield ports
        for ours, process in served:
            ours.send(None)
            process.join(20)
    finally:
        for _, process in served:
            process.kill()


def measured(rounds: int, seconds: float) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Return a row for each case and server, and the ratio of Tidelens's server to h11."""
    rates: dict[tuple[str, str], list[float]] = {}
    with running() as ports:
        for turn in range(rounds + 1):
            # The first turn warms up.
            for case in _CASES:
                for name in list(ports)[:: 1 if turn % 2 else -1]:
                    rate = asyncio.run(_rate(case, ports[name], seconds))
                    if turn:
                        rates.setdefault((case.name, name), []).append(rate)
    rows, goals = [], []
    for case in _CASES:
        for name in ports:
            pairs = zip(rates[case.name, name], rates[case.name, _H11], strict=True)
            ratios = sorted(rate / h11 for rate, h11 in pairs)
            rows.append(
                {
                    "case": case.name,
                    "parser": name,
                    "to h11": statistics.median(ratios),
                    "least": ratios[0],
                    "most": ratios[-1],
                    "answers_per_s": statistics.median(rates[case.name, name]),
                }
            )
            if name == _OURS:
                goals.append(
                    Goal(f"{case.name}: to h11", statistics.median(ratios), case.goal, "higher")
                )
    return rows, goals


def main() -> None:
    arguments = parser("http_parsers", __doc__ or "").parse_args()
    rounds, seconds = (5, 1.0) if arguments.quick else (15, 3.0)
    rows, goals = measured(rounds, seconds)
    finish("http_parsers", rows, goals, arguments.json)


if __name__ == "__main__":
    main()
