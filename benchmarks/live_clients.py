"""The clients of benchmarks.live_latency: thousands of WebSockets in one process, cheap to read.

No asyncio and no JSON: frames come from an epoll loop, and of a message only the stamps are looked
at, so that the server is what is measured. A client's own time counts into the latency.
"""

import re
import select
import socket
import time
from array import array
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import orjson

from benchmarks.live_load import Load

_STAMP = re.compile(rb'"stamp":(\d+)')
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_OPENED_AT_ONCE = 50
_UPGRADE = (
    b"GET /v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(slots=True)
class Seen:
    """The messages of one phase, with a sample for each change that each client has seen."""

    cpu_s: float = 0.0
    messages: int = 0
    bytes: int = 0
    stamps_ns: "array[int]" = field(default_factory=lambda: array("q"))
    latencies_ns: "array[int]" = field(default_factory=lambda: array("q"))


class _Client:
    __slots__ = ("newest", "rest", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.rest = b""
        self.newest = 0


class Clients:
    """All connections, each with one subscription."""

    def __init__(self, port: int, load: Load) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._seen = Seen()
        queries = load.queries().tolist()
        for start in range(0, load.connections, _OPENED_AT_ONCE):
            self._open(port, start, queries[start : start + _OPENED_AT_ONCE])
        while self._seen.messages < load.connections:
            self.poll(1.0)

    def _open(self, port: int, start: int, queries: list[list[float]]) -> None:
        opened = [socket.create_connection(("127.0.0.1", port)) for _ in queries]
        for one in opened:
            one.sendall(_UPGRADE)
        for number, (one, query) in enumerate(zip(opened, queries, strict=True), start):
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += one.recv(4096)
            if not answer.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(f"want 101, got {answer[:60]!r}")
            asked = {"op": "subscribe", "sub": str(number), "query": {"vector": query}}
            one.sendall(_frame(_TEXT, orjson.dumps(asked)))
            one.setblocking(False)
            self._clients[one.fileno()] = _Client(one)
            self._epoll.register(one.fileno(), select.EPOLLIN)

    def watch(self, file: int) -> None:
        """Let `poll` return when there is something to read there, too."""
        self._epoll.register(file, select.EPOLLIN)

    def poll(self, timeout_s: float) -> bool:
        """Take what has come; whether the watched file has something."""
        watched = False
        for number, _ in self._epoll.poll(timeout_s):
            client = self._clients.get(number)
            if client is None:
                watched = True
                continue
            data = client.socket.recv(65536)
            self._take(client, data, time.monotonic_ns())
        return watched

    def since(self) -> Seen:
        """Return what came since the last call."""
        seen, self._seen = self._seen, Seen()
        return seen

    def _take(self, client: _Client, data: bytes, now: int) -> None:
        if not data:
            raise ConnectionError("the server hung up")
        data = client.rest + data if client.rest else data
        at, end = 0, len(data)
        while at + 2 <= end:
            # Frames of a server are whole messages, and are not masked (RFC 6455, 5.1).
            body, size = at + 2, data[at + 1]
            if size >= 126:
                wide = 2 if size == 126 else 8
                body += wide
                size = int.from_bytes(data[at + 2 : body])
            if body + size > end:
                break
            match data[at] & 15:
                case 1:
                    self._message(client, data, body, body + size, now)
                case 8:
                    raise ConnectionError(f"closed by the server: {data[body : body + size]!r}")
                case 9:
                    client.socket.send(_frame(_PONG, data[body : body + size]))
            at = body + size
        client.rest = data[at:]

    def _message(self, client: _Client, data: bytes, start: int, end: int, now: int) -> None:
        seen, newest = self._seen, client.newest
        seen.messages += 1
        seen.bytes += end - start
        # A hit that only moved brings the stamp of an earlier change.
        for found in _STAMP.finditer(data, start, end):
            stamp = int(found[1])
            if stamp > newest:
                seen.stamps_ns.append(stamp)
                seen.latencies_ns.append(now - stamp)
                client.newest = max(client.newest, stamp)


def _frame(opcode: int, body: bytes) -> bytes:
    """Return a frame, masked as a client's must be, with a mask of zeros."""
    size = len(body)
    long = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([0x80 | opcode]) + long + bytes(4) + body


def run(pipe: Connection, port: int, load: Load) -> None:
    """Report when all clients have their lists, then on each request what came since the last.

    A `True` of the other side is a request, and a `False` is the end.
    """
    clients = Clients(port, load)
    clients.watch(pipe.fileno())
    cpu = time.process_time()
    pipe.send(None)
    while True:
        if clients.poll(1.0):
            if not pipe.recv():
                return
            seen = clients.since()
            seen.cpu_s, cpu = time.process_time() - cpu, time.process_time()
            pipe.send(seen)
