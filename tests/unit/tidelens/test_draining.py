"""A server that stops: nobody waits for an answer that never comes, and none is a bare text."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.app import background, close_live
from tests.kits.api_kit import Kit
from tidelens.process.signals import finish_until
from tidelens.server.admission import LEAVING_MAX
from tidelens.server.draining import DrainLimits
from tidelens.server.server import listen, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

GET = b"GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
LARGE = 4 * 2**20
HURRIED = DrainLimits(answer_s=0.3)


class App:
    """Answers at once, never, after `go`, in pieces, or not before the whole body came."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        try:
            await getattr(self, scope["path"][1:])(receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def quick(self, receive: Receive, send: Send) -> None:
        await answer(send, b"done")

    async def never(self, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def soon(self, receive: Receive, send: Send) -> None:
        await self.go.wait()
        await answer(send, b"done")

    async def large(self, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * LARGE)

    async def upload(self, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer(send, b"done")

    async def live(self, receive: Receive, send: Send) -> None:
        """Leave a WebSocket without an answer to its handshake."""
        await asyncio.Event().wait()

    async def failing(self, receive: Receive, send: Send) -> None:
        await receive()
        raise RuntimeError("a defect of ours")


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    def __init__(self, app: Any, **more: Any) -> None:
        more = {"drain_limits": HURRIED, **more}
        self.listener = listen("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]
        self.answered = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.app = app
        self.task = asyncio.create_task(
            serve(app, self.listener, frame_bytes_max=2**20, answered=self.answered, **more)
        )

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, sent: bytes) -> asyncio.StreamReader:
        """Return once the app has the request, where it comes that far."""
        reader, writer = await self.connect()
        before = self.app.begun
        writer.write(sent)
        while self.app.begun == before:
            await asyncio.sleep(0.005)
        return reader


@asynccontextmanager
async def serving(app: Any = None, **more: Any) -> AsyncIterator[Server]:
    server = Server(app or App(), **more)
    try:
        yield server
    finally:
        for writer in server.writers:
            writer.transport.abort()
        await server.stop()


def head_and_problem(answered: bytes) -> tuple[bytes, dict[str, Any]]:
    head, _, body = answered.partition(b"\r\n\r\n")
    return head.lower(), orjson.loads(body)


def is_refused(answered: bytes) -> bool:
    head, document = head_and_problem(answered)
    assert head.startswith(b"http/1.1 503")
    for header in (b"retry-after: 1", b"content-type: application/problem+json"):
        assert header in head.split(b"\r\n")
    assert b"connection: close" in head
    return bool((document["code"], document["status"]) == ("stopping", 503))


async def test_what_waits_is_refused_and_what_is_nearly_done_is_answered() -> None:
    app = App()
    async with serving(app, on_stop=app.go.set) as server:
        never, soon = [await server.ask(GET % path) for path in (b"/never", b"/soon")]
        stopping = asyncio.create_task(server.stop())
        assert is_refused(await never.read())
        done = await soon.read()
        assert done.startswith(b"HTTP/1.1 200") and done.endswith(b"done")
        assert b"connection: close" in done
        await stopping
        # Nobody goes on working for a client that was refused.
        assert server.app.cancelled == 1


async def test_everybody_who_waits_is_told_however_many_they_are() -> None:
    async with serving() as server:
        asked = [await server.ask(GET % b"/never") for _ in range(2 * LEAVING_MAX)]
        await server.stop()
        assert all([is_refused(await reader.read()) for reader in asked])


async def test_heads_and_bodies_under_way_are_refused_at_once() -> None:
    async with serving() as server:
        post = b"POST /upload HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000000\r\n\r\nhalf"
        upload = await server.ask(post)
        head, writer = await server.connect()
        writer.write((GET % b"/quick")[:9])
        idle, _ = await server.connect()
        await server.ask(GET % b"/quick")  # the others were read before this one
        stopping = asyncio.create_task(server.stop())
        assert is_refused(await upload.read())
        assert is_refused(await head.read())
        assert await idle.read() == b""
        for writer in server.writers:
            writer.close()
        await stopping


async def test_the_first_of_several_requests_on_a_connection_is_answered() -> None:
    async with serving() as server:
        reader = await server.ask(GET % b"/never" + GET % b"/quick")
        await server.stop()
        assert is_refused(await reader.read())
        assert server.app.begun == 1


async def test_an_answer_that_was_begun_flows_to_its_end() -> None:
    async with serving() as server:
        reader = await server.ask(GET % b"/large" + GET % b"/quick")
        await reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.create_task(server.stop())
        await server.answered.wait()
        assert await reader.readexactly(LARGE) == b"x" * LARGE
        # The next request on that connection comes too late.
        assert is_refused(await reader.read())
        await stopping


async def test_who_waits_to_be_accepted_is_refused() -> None:
    async with serving() as server:
        await server.ask(GET % b"/quick")
        # Nothing more is accepted before the server stops.
        server.task.get_loop().remove_reader(server.listener)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(GET % b"/quick")
            await server.stop()
            assert is_refused(await asyncio.to_thread(client.recv, 65536))


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async with serving(drain_limits=replace(HURRIED, flush_s=0.1)) as server:
        reader = await server.ask(GET % b"/large")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await server.stop()
        assert server.task.cancelled()


async def test_a_socket_that_is_not_let_in_is_told_why() -> None:
    async with serving() as server:
        url = f"ws://127.0.0.1:{server.port}"
        with pytest.raises(InvalidStatus) as failed:
            await connect(f"{url}/failing", proxy=None)
        response = failed.value.response
        assert (response.status_code, orjson.loads(response.body)["code"]) == (500, "internal")
        connecting = asyncio.create_task(connect(f"{url}/live", proxy=None).__aenter__())
        while server.app.begun < 2:
            await asyncio.sleep(0.005)
        await server.stop()
        with pytest.raises(InvalidStatus) as refused:
            await connecting
        response = refused.value.response
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert orjson.loads(response.body)["code"] == "stopping"


async def test_the_whole_api_while_everything_waits() -> None:
    """Every type of request is open: a search with `wait_for`, a publish, two live streams."""
    kit = Kit()
    kit.caption("a", "red cat")
    ahead = {
        "space": "hash-v1",
        "epoch": "epoch-1",
        "offsets": {"images": [9, 9], "captions": [9, 9]},
    }
    search = {"text": "red cat", "target": "captions", "wait_for": ahead}
    stopped = asyncio.Event()

    async def stuck(*_: Any) -> None:
        await stopped.wait()

    kit.log.publish = stuck  # type: ignore[method-assign,assignment]

    def post(path: bytes, body: Any) -> bytes:
        data = orjson.dumps(body)
        head = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        return head % path + b"content-length: %d\r\n\r\n" % len(data) + data

    live = [asyncio.create_task(run()) for run in background(kit.app).values()]
    counted = App()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        counted.begun += 1
        await kit.app(scope, receive, send)

    app.begun = 0  # type: ignore[attr-defined]
    async with serving(app, on_stop=lambda: close_live(kit.app)) as server:
        server.app = counted
        waiting = await server.ask(post(b"/v1/search", search))
        item = {"target": "captions", "id": "b", "text": "blue dog"}
        publishing = await server.ask(post(b"/v1/items", item))
        events = await server.ask(GET % b"/v1/live?q=red+cat&target=captions")
        await events.readuntil(b"event: snapshot")
        async with connect(f"ws://127.0.0.1:{server.port}/v1/live", proxy=None) as client:
            await client.send(
                orjson.dumps({"op": "subscribe", "sub": "s", "query": {"text": "red cat"}}).decode()
            )
            await client.recv()
            await server.stop()
            assert is_refused(await waiting.read())
            assert is_refused(await publishing.read())
            # Ended as a stream ends, after which a browser asks again.
            assert (await events.read()).endswith(b"0\r\n\r\n")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
    for task in live:
        task.cancel()
    await asyncio.wait(live)


async def test_what_answers_stands_until_all_is_answered() -> None:
    answered, ended = asyncio.Event(), asyncio.Event()

    async def node() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(finish_until(node(), answered))
    await asyncio.sleep(0)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not ended.is_set()
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()

    async def failing() -> None:
        raise RuntimeError("a defect of ours")

    with pytest.raises(RuntimeError, match="of ours"):
        await finish_until(failing(), answered)
