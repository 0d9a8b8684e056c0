"""Live subscriptions work over a real socket: Uvicorn, the websockets client, raw frames."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from tests.kits.api_kit import Kit, serving

pytestmark = pytest.mark.anyio


class Served:
    """A kit's app on a free loopback port."""

    def __init__(self, kit: Kit, port: int) -> None:
        self.kit = kit
        self.address = f"127.0.0.1:{port}"

    def connect(self, **options: Any) -> connect:
        url = f"ws://{self.address}/v1/live"
        return connect(url, max_size=None, compression=None, proxy=None, **options)


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[Served]:
    kit = Kit(**settings)
    kit.caption("a", "red cat")
    kit.caption("b", "blue dog")
    async with serving(kit.app, kit.settings) as port:
        yield Served(kit, port)


def subscribe(**query: Any) -> str:
    asked = {"text": "red cat", "target": "captions", "k": 1, **query}
    return orjson.dumps({"op": "subscribe", "sub": "s", "query": asked}).decode()


async def receive(socket: ClientConnection) -> Any:
    async with asyncio.timeout(30):
        return orjson.loads(await socket.recv())


async def closing(socket: ClientConnection) -> int:
    """Return the code with which the server closes."""
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(30):
            while True:
                await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


async def test_snapshot_delta_and_going_away() -> None:
    async with served() as server:
        async with server.connect() as socket:
            await socket.send(subscribe())
            assert (await receive(socket))["type"] == "snapshot"
            server.kit.index.remove("captions", "a")
            delta = await receive(socket)
            assert [c["change"] for c in delta["changes"]] == ["leave", "enter"]
        await server.kit.until("tidelens_live_connections", 0)
        await server.kit.until("tidelens_live_subscriptions", 0)


async def test_a_client_that_vanishes_leaves_nothing_behind() -> None:
    async with served() as server:
        socket = await server.connect()
        await socket.send(subscribe())
        await receive(socket)
        socket.transport.abort()
        await server.kit.until("tidelens_live_connections", 0)
        server.kit.caption("c", "red cat")


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"}]
)
async def test_a_foreign_page_is_answered_403(headers: dict[str, str]) -> None:
    async with served() as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.connect(additional_headers=headers)
        assert refused.value.response.status_code == 403


async def test_over_the_connection_limit_is_429() -> None:
    async with served(connections_max=1) as server, server.connect():
        with pytest.raises(InvalidStatus) as refused:
            await server.connect()
        assert refused.value.response.status_code == 429
        assert orjson.loads(refused.value.response.body)["code"] == "too_many"


async def test_frames_too_large_binary_and_not_utf_8() -> None:
    async with served(frame_bytes_max=5_000) as server:
        async with server.connect() as socket:
            await socket.send(subscribe(text="x" * 6_000))
            assert await closing(socket) == 1009
        async with server.connect() as socket:
            # In pieces, each below the limit.
            await socket.send("x" * 3_000 for _ in range(2))
            assert await closing(socket) == 1009
        async with server.connect() as socket:
            await socket.send(b"\0\1")
            assert await closing(socket) == 1003
        async with server.connect() as socket:
            raw = Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True)
            socket.transport.write(raw)
            assert await closing(socket) == 1007


async def test_a_message_in_pieces_is_one_message() -> None:
    async with served() as server, server.connect() as socket:
        text = subscribe()
        await socket.send([text[:20], text[20:]])
        assert (await receive(socket))["type"] == "snapshot"


async def test_a_client_that_does_not_read_slows_nobody_and_is_let_go() -> None:
    async with served(send_timeout_s=0.3) as server:
        kit = server.kit
        stuck = await server.connect()
        async with server.connect() as brisk:
            for socket in (stuck, brisk):
                await socket.send(subscribe())
                await receive(socket)
            stuck.transport.pause_reading()
            # More than the kernel's buffers take.
            for number in range(100):
                kit.caption("a", "red cat", metadata={"n": number, "ballast": "x" * 200_000})
                delta = await receive(brisk)
                assert delta["changes"][0]["hit"]["metadata"]["n"] == number
            await kit.until("tidelens_live_connections", 1)
        stuck.transport.abort()


async def test_stopping_the_server_closes_the_sockets() -> None:
    async with served() as server:
        socket = await server.connect()
        await socket.send(subscribe())
        await receive(socket)
    assert await closing(socket) in (1001, 1012)
    assert server.kit.sample("tidelens_live_connections") == 0


async def test_a_connection_outlives_the_pools_of_clients() -> None:
    """A client keeps an idle connection: its next request must not meet a server that closes it.

    httpx keeps one for 5 s.
    """
    async with served() as server:
        host, _, port = server.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = f"GET /healthz HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode()
        for pause_s in (0, 6):
            await asyncio.sleep(pause_s)
            writer.write(request)
            async with asyncio.timeout(30):
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_http_over_the_same_port() -> None:
    async with served() as server, httpx.AsyncClient(trust_env=False) as http:
        base = f"http://{server.address}"
        assert (await http.get(f"{base}/healthz")).json() == {"alive": True}
        server.kit.caption("a/b ü%", "green")
        path = "/v1/items/captions/a%2Fb%20%C3%BC%25"
        assert (await http.get(base + path)).json()["id"] == "a/b ü%"
        # Probes alone may come under an unknown Host.
        for asked, status in (("/healthz", 200), ("/v1/status", 403)):
            answer = await http.get(base + asked, headers={"host": "evil.example"})
            assert answer.status_code == status
