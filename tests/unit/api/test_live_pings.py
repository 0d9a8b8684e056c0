"""A client that sends pings and reads nothing costs one answer, and not one for each."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from time import thread_time

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from tidelens.server.admission import ConnectionLimiter, ConnectionLimits
from tidelens.server.server import listen, serve
from tidelens.server.websocket_protocol import LiveProtocol

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SENT = 8 * 2**20
# The bytes that asyncio lets a transport hold before it says so, and those of one read.
HELD_MAX = 2 * 64 * 1024
# No turn of the loop may take longer (docs/ARCHITECTURE.md, "Serving").
TURN_S = 0.05


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back what comes, one message after the other."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


class Pinged:
    def __init__(self, client: ClientConnection, live: LiveProtocol) -> None:
        self.client = client
        self.live = live

    @property
    def held(self) -> int:
        return self.live.transport.get_write_buffer_size()

    async def ping(self, payload: bytes, count: int) -> None:
        many = Frame(Opcode.PING, payload).serialize(mask=True) * 100
        for _ in range(count // 100):
            self.client.transport.write(many)
            while self.client.transport.get_write_buffer_size() > 2**20:
                await asyncio.sleep(0.001)


@pytest.fixture
async def pinged() -> AsyncIterator[Pinged]:
    listener = listen("127.0.0.1", 0)
    # Patient, so that the client is not sent away for its not reading while the test looks.
    limiter = ConnectionLimiter(ConnectionLimits(send_timeout_s=60))
    serving = asyncio.create_task(serve(echo, listener, frame_bytes_max=2**20, limiter=limiter))
    # The kernel must not hold for the client what the test counts here.
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, listener.getsockname())
    client = await connect("ws://127.0.0.1", sock=sock, compression=None, ping_interval=None)
    (connection,) = limiter._admitted
    assert isinstance(connection.protocol, LiveProtocol)
    yield Pinged(client, connection.protocol)
    client.transport.abort()
    serving.cancel()
    await asyncio.wait([serving])


async def test_what_waits_for_a_client_that_reads_nothing_is_bounded(pinged: Pinged) -> None:
    pinged.client.transport.pause_reading()
    payload = os.urandom(125)
    highest, sending = 0, asyncio.create_task(pinged.ping(payload, SENT // len(payload)))
    while not sending.done():
        highest = max(highest, pinged.held)
        await asyncio.sleep(0.005)
    await pinged.ping(b"the last one", 100)
    while pinged.live.conn.reader.buffer or not pinged.live._pong.endswith(b"the last one"):
        await asyncio.sleep(0.005)
    assert 0 < max(highest, pinged.held) <= HELD_MAX
    # Once it reads again, the latest ping is answered, and messages come as always.
    waiter = asyncio.get_running_loop().create_future()
    pinged.client.pending_pings[b"the last one"] = (waiter, 0.0)
    pinged.client.transport.resume_reading()
    async with asyncio.timeout(30):
        await waiter
        await pinged.client.send("hello")
        assert await pinged.client.recv() == "hello"
    assert pinged.held == 0


async def test_every_ping_of_a_client_that_reads_is_answered(pinged: Pinged) -> None:
    async with asyncio.timeout(30):
        for _ in range(3):
            await (await pinged.client.ping())


async def test_no_turn_is_long_however_many_pings_come_at_once(
    pinged: Pinged, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    received = LiveProtocol.data_received

    def timed(self: LiveProtocol, data: bytes) -> None:
        began = thread_time()
        received(self, data)
        turns.append(thread_time() - began)

    monkeypatch.setattr(LiveProtocol, "data_received", timed)
    gc.collect()
    gc.disable()  # collecting all that pytest holds does not belong to a turn
    try:
        await pinged.ping(b"", 50_000)
        await pinged.client.send("hello")
        async with asyncio.timeout(30):
            assert await pinged.client.recv() == "hello"
    finally:
        gc.enable()
    assert max(turns) < TURN_S
