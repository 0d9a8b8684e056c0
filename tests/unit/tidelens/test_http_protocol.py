"""Hostile and unusual clients at a real socket, each from its own address."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.kits.api_kit import Kit
from tidelens.server.admission import UNCOUNTED_BYTES, ConnectionLimiter, ConnectionLimits
from tidelens.server.lingering import LINGER_S
from tidelens.server.pipelining import PIPELINED_MAX
from tidelens.server.request_size import HEAD_BYTES_MAX, HEADERS_MAX
from tidelens.server.server import listen, serve
from tidelens.server.websocket_protocol import FRAGMENTS_MAX

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
# Long enough that no test meets it by chance, short where the test is about it.
PATIENT = {"header_timeout_s": 60.0, "body_timeout_s": 60.0, "send_timeout_s": 60.0}
HUGE = 64 * 2**20


async def counting(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size of the body, on /large with many bytes, on /stream without end."""
    size = 0
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    body = bytes(HUGE) if scope["path"] == "/large" else b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Clock:
    """The time of a limiter, which can be set forward. If it does not run, a busy machine cannot
    hurry it."""

    def __init__(self, *, runs: bool = True) -> None:
        self.seconds = 0.0
        self._runs = runs

    def __call__(self) -> float:
        return self.seconds + (monotonic() if self._runs else 0.0)


class Served:
    def __init__(self, limiter: ConnectionLimiter, port: int) -> None:
        self.limiter = limiter
        self.port = port
        self.writers: list[asyncio.StreamWriter] = []

    async def client(
        self, address: str = "127.0.0.2"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection that lasts until it, or the test, ends."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(address, 0)
        )
        self.writers.append(writer)
        return reader, writer

    async def answer(self, *sent: bytes) -> bytes:
        """Send the parts, and return all that comes until the server closes."""
        reader, writer = await self.client()
        for part in sent:
            writer.write(part)
            await asyncio.sleep(0.01)
        return await rest(reader)

    async def get(self, address: str = "127.0.0.1") -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(transport=transport, timeout=30) as client:
            return await client.get(f"http://127.0.0.1:{self.port}/")

    async def until_gone(self) -> None:
        async with asyncio.timeout(30):
            while self.limiter.connections or self.limiter.body_bytes:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(
    app: Any = counting, *, clock: Clock | None = None, **limits: Any
) -> AsyncIterator[Served]:
    listener = listen("127.0.0.1", 0)
    now = clock or Clock()
    limiter = ConnectionLimiter(ConnectionLimits(**{**PATIENT, **limits}), now=now)
    task = asyncio.create_task(
        serve(app, listener, frame_bytes_max=2**20, limiter=limiter, check_every_s=0.02)
    )
    try:
        server = Served(limiter, listener.getsockname()[1])
        yield server
    finally:
        for writer in server.writers:
            writer.transport.abort()
        now.seconds += 2 * LINGER_S
        task.cancel()
        await asyncio.wait([task])
        listener.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return everything until the server closes."""
    async with asyncio.timeout(30):
        return await reader.read()


async def whole_answer(reader: asyncio.StreamReader) -> None:
    """Read one answer to its last byte, on a connection that stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    await reader.readexactly(length)


def problem_of(answer: bytes) -> dict[str, Any]:
    members: dict[str, Any] = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    return members


# Time limits


async def test_a_header_that_does_not_come_ends_the_connection() -> None:
    async with served(header_timeout_s=0.1) as server:
        silent, blank, slow = [await server.answer(sent) for sent in (b"", b"\r\n\r\n", GET[:-5])]
        assert silent == b""
        assert problem_of(blank)["detail"] == "header_timeout_s: limit 0.1 s for a whole header"
        assert slow.startswith(b"HTTP/1.1 408")
        assert problem_of(slow)["field"] == "header_timeout_s"
        await server.until_gone()


async def test_an_idle_connection_ends_after_its_own_time_and_a_second_header_in_its_own() -> None:
    clock = Clock(runs=False)
    async with served(clock=clock, header_timeout_s=0.1) as server:
        reader, writer = await server.client()
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n0")).startswith(b"HTTP/1.1 200")
        clock.seconds += 0.15
        server.limiter.check()
        writer.write(GET[:20])
        answer = asyncio.create_task(rest(reader))
        while not answer.done():
            clock.seconds += 0.05
            await asyncio.sleep(0.01)
        assert problem_of(await answer)["field"] == "header_timeout_s"
    async with served(idle_timeout_s=0.1) as server:
        reader, writer = await server.client()
        writer.write(GET)
        assert (await rest(reader)).endswith(b"\r\n0")


async def test_a_body_that_drips_is_refused_and_one_that_moves_is_not() -> None:
    drips = {b"content-length: 30000000": b"x", b"transfer-encoding: chunked": b"1\r\nx\r\n"}
    async with served(body_timeout_s=0.15, bytes_per_s_min=1000) as server:
        for framing, drop in drips.items():
            reader, writer = await server.client()
            writer.write(POST + framing + b"\r\n\r\n")
            answer = asyncio.create_task(rest(reader))
            while not answer.done():
                writer.write(drop)
                await asyncio.sleep(0.02)
            assert (await answer).startswith(b"HTTP/1.1 408")
            problem = problem_of(await answer)
            assert problem["field"] == "body_timeout_s"
            assert problem["detail"] == "body_timeout_s: limit 0.15 s for the next 150 bytes"
        await server.until_gone()
    clock = Clock(runs=False)
    async with served(clock=clock, body_timeout_s=0.15, bytes_per_s_min=1000) as server:
        reader, writer = await server.client()
        writer.write(POST + b"content-length: 200000\r\n\r\n")
        for sent in range(20_000, 200_000, 20_000):
            writer.write(bytes(20_000))
            async with asyncio.timeout(30):
                while server.limiter.body_bytes < sent - UNCOUNTED_BYTES:
                    await asyncio.sleep(0)
            clock.seconds += 0.1
            server.limiter.check()
        writer.write(bytes(20_000))
        assert (await reader.readuntil(b"200000")).startswith(b"HTTP/1.1 200")


async def test_who_does_not_take_an_answer_is_cut_off() -> None:
    async with served(send_timeout_s=0.2) as server:
        _, writer = await server.client()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET.replace(b"/ ", b"/large ", 1))
        async with asyncio.timeout(30):
            while not server.limiter.connections:
                await asyncio.sleep(0.01)
        await server.until_gone()
        writer.transport.abort()
        assert (await server.get()).status_code == 200


async def test_an_answer_that_ends_its_connection_may_take_as_long_as_it_moves() -> None:
    get = GET.replace(b"/ ", b"/large ", 1).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    clock = Clock(runs=False)
    async with served(clock=clock, send_timeout_s=0.5) as server:
        reader, writer = await server.client()
        writer.write(get)
        size = 0
        async with asyncio.timeout(30):
            while piece := await reader.read(2**22):
                size += len(piece)
                # Three times the limit in all.
                clock.seconds += 1.5 * len(piece) / HUGE
                server.limiter.check()
        assert size > HUGE


# Numbers of connections


async def test_a_stranger_with_every_connection_does_not_lock_others_out() -> None:
    async with served(connections_max=40, per_address_max=30) as server:
        strangers = [await server.client(f"127.0.0.{2 + n % 2}") for n in range(60)]
        for _, writer in strangers:
            writer.write(GET[:10])
        for _ in range(5):
            assert (await server.get()).status_code == 200
        assert server.limiter.connections <= 40
        for _, writer in strangers:
            writer.transport.abort()
        await server.until_gone()


async def test_over_the_limit_a_newcomer_is_told_when_to_come_again() -> None:
    async with served(connections_max=2, per_address_max=2) as server:
        busy = [await server.client() for _ in range(2)]
        for reader, writer in busy:
            writer.write(GET.replace(b"/ ", b"/stream ", 1))
            await reader.readuntil(b"\r\n\r\n")
        refused = await server.get()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["code"] == "too_many"
        assert (refused.json()["field"], refused.json()["limit"]) == ("http_connections_max", 2)
        with pytest.raises(InvalidStatus, match="503"):
            await connect(f"ws://127.0.0.1:{server.port}/v1/live", proxy=None)
        same = await server.get("127.0.0.2")
        assert same.json()["field"] == "http_connections_per_address_max"
        busy[0][1].transport.abort()
        async with asyncio.timeout(30):
            while server.limiter.connections > 1:
                await asyncio.sleep(0.01)
        assert (await server.get()).status_code == 200
        busy[1][1].transport.abort()


# Sizes


async def test_bodies_that_never_end_leave_room_for_others() -> None:
    mib = 2**20
    limits = {"bodies_bytes_max": 4 * mib, "bodies_per_address_bytes_max": 3 * mib}
    async with served(**limits) as server:
        strangers = [await server.client(f"127.0.0.{2 + n % 3}") for n in range(12)]
        for _, writer in strangers:
            writer.write(POST + b"content-length: 30000000\r\n\r\n" + bytes(mib))
        answers = [asyncio.create_task(rest(reader)) for reader, _ in strangers]
        async with asyncio.timeout(30):
            while sum(answer.done() for answer in answers) < 8:
                await asyncio.sleep(0.01)
        assert server.limiter.body_bytes <= 4 * mib
        refused = [answer.result() for answer in answers if answer.done()]
        assert {answer[:12] for answer in refused} == {b"HTTP/1.1 503"}
        assert all(b"retry-after: 1" in answer for answer in refused)
        transport = httpx.AsyncHTTPTransport(local_address="127.0.0.1")
        async with httpx.AsyncClient(transport=transport, timeout=30) as client:
            sent = await client.post(f"http://127.0.0.1:{server.port}/", content=bytes(mib))
            assert (sent.status_code, sent.text) == (200, str(mib))
        for _, writer in strangers:
            writer.transport.abort()
        await asyncio.gather(*answers, return_exceptions=True)
        await server.until_gone()


async def test_what_precedes_or_frames_a_body_is_bounded() -> None:
    chunked, long = POST + b"transfer-encoding: chunked\r\n\r\n", b"x" * 4 * HEAD_BYTES_MAX
    too_much = {
        "header": GET[:-2] + b"x: " + long,
        "path": b"GET /" + long,
        "headers": GET[:-2] + b"a:\r\n" * (2 * HEADERS_MAX + 2),
        "chunk extension": chunked + b"1;x=" + long,
        "trailer": chunked + b"0\r\nx:" + long,
    }
    async with served() as server:
        for sent in too_much.values():
            half = len(sent) // 2
            assert (await server.answer(sent[:half], sent[half:])).startswith(b"HTTP/1.1 431")
        await server.until_gone()


async def test_a_client_that_goes_within_its_body_is_no_defect() -> None:
    kit = Kit()
    async with served(kit.app) as server:
        with capture_logs() as logs:
            _, writer = await server.client()
            writer.write(POST.replace(b"/ ", b"/v1/search ", 1) + b"content-length: 9\r\n\r\n{")
            async with asyncio.timeout(30):
                while not server.limiter.connections:
                    await asyncio.sleep(0.01)
            writer.transport.abort()
            await server.until_gone()
            async with asyncio.timeout(30):
                seconds = "tidelens_search_seconds_count"
                while not kit.sample(seconds, {"outcome": "RejectedRequest"}):
                    await asyncio.sleep(0.01)
        assert not logs


# Correct clients, and input that is not HTTP


async def test_an_offer_of_another_protocol_is_passed_over() -> None:
    """Java's HttpClient makes such an offer with its first request."""
    offer = POST + (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAE\r\n"
        b"Content-Length: 5\r\n\r\n"
    )
    async with served() as server:
        reader, writer = await server.client()
        for apart in (False, True, False):
            writer.write(offer if apart else offer + b"hello")
            if apart:
                await asyncio.sleep(0.02)
                writer.write(b"hello")
            assert (await reader.readuntil(b"\r\n5")).startswith(b"HTTP/1.1 200")


async def test_what_is_not_for_us_is_answered_and_closed() -> None:
    tls, http2 = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with served() as server:
        for sent in (tls, http2, b"CONNECT a:1 HTTP/1.1\r\n\r\n"):
            answer = await server.answer(sent)
            assert answer.startswith(b"HTTP/1.1 400")
            assert problem_of(answer)["code"] == "invalid_request"


async def test_an_old_client_gets_no_chunks_that_it_cannot_read() -> None:
    async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one ", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with served(in_pieces) as server:
        head, _, body = (await server.answer(GET.replace(b"1.1", b"1.0"))).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert body == b"one two"
        reader, writer = await server.client()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
    async with served() as server:
        assert (await server.answer(GET.replace(b"1.1", b"1.0"))).endswith(b"\r\n\r\n0")


async def test_requests_sent_ahead_are_answered_in_order_and_a_stream_before_them_ends() -> None:
    async with served() as server:
        reader, writer = await server.client()
        writer.write(GET * 3 + POST + b"content-length: 3\r\n\r\nabc")
        assert (await reader.readuntil(b"\r\n3")).count(b"HTTP/1.1 200") == 4
        writer.write(GET.replace(b"/ ", b"/stream ", 1) + GET)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await server.until_gone()


@pytest.mark.parametrize("pieces", [1, 7])
async def test_however_many_requests_come_at_once_all_are_answered_in_order(pieces: int) -> None:
    most = 0

    async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        waiting = [connection.protocol for connection in server.limiter._admitted]
        most = max(most, *(len(protocol._open) for protocol in waiting))  # type: ignore[attr-defined]
        size = len((await receive())["body"])
        body = scope["path"].encode() + b":%d;" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    sent = b"".join(
        # Bodies hold what looks like the end of a header.
        POST.replace(b"/ ", b"/%d " % n, 1) + b"content-length: 800\r\n\r\n" + b"\r\n\r\n" * 200
        if n % 9 == 0
        else GET.replace(b"/ ", b"/%d " % n, 1)
        for n in range(3000)
    )
    async with served(echoing) as server:
        reader, writer = await server.client()
        size = len(sent) // pieces + 1
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await asyncio.sleep(0)
        for n in range(3000):
            wanted = b"/%d:%d;" % (n, 0 if n % 9 else 800)
            async with asyncio.timeout(30):
                assert wanted in await reader.readuntil(b";")
        # A step of the parser may hold a few more than the bound.
        assert PIPELINED_MAX <= most < 2 * PIPELINED_MAX
        assert server.limiter.body_bytes == 0


async def test_blanks_around_the_value_of_a_header_are_no_part_of_it() -> None:
    seen = {}

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope["headers"])
        await counting(scope, receive, send)

    blank = b"POST / HTTP/1.1\r\nhost: 127.0.0.1 \r\nX-A: \t a b\t \r\nx-none: \r\n"
    async with served(noting) as server:
        reader, writer = await server.client()
        writer.write(blank + b"expect:100-continue \r\ncontent-length: 2 \r\n\r\n")
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ab")
            assert (await reader.readuntil(b"\r\n\r\n2")).startswith(b"HTTP/1.1 200")
        assert (seen[b"host"], seen[b"x-a"], seen[b"x-none"]) == (b"127.0.0.1", b"a b", b"")


# WebSockets


@asynccontextmanager
async def live(**limits: Any) -> AsyncIterator[tuple[Served, Any]]:
    kit = Kit()
    async with served(kit.app, **limits) as server:
        url = f"ws://127.0.0.1:{server.port}/v1/live"
        async with connect(url, max_size=None, compression=None, proxy=None) as socket:
            yield server, socket


async def closed_with(socket: Any) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(30):
            await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_a_frame_that_does_not_end_closes_the_socket() -> None:
    async with live(body_timeout_s=0.1) as (server, socket):
        assert server.limiter.connections == 1
        # A masked text frame of 60,000 bytes, of which two come.
        socket.transport.write(b"\x81\xfe\xea\x60\0\0\0\0xx")
        assert await closed_with(socket) == (
            1008,
            "body_timeout_s: limit 0.1 s for the next 819 bytes",
        )
        await server.until_gone()


async def test_unfinished_frames_count_as_bodies() -> None:
    async with live(bodies_bytes_max=100_000) as (server, socket):
        socket.transport.write(
            b"\x81\xff" + (900_000).to_bytes(8, "big") + bytes(4) + bytes(300_000)
        )
        assert (await closed_with(socket))[0] == 1013
        await server.until_gone()


async def test_fragments_of_a_message_are_bounded() -> None:
    async with live() as (_, socket):
        first, more = b"\x01\x81\0\0\0\0x", b"\x00\x81\0\0\0\0x"
        socket.transport.write(first + more * (FRAGMENTS_MAX + 1))
        assert (await closed_with(socket))[0] == 1009


class Unwritten:
    """A transport that is closing, while what was sent last is on its way."""

    size = 500_000
    aborted = False

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True


async def test_a_socket_that_closes_may_take_as_long_as_its_last_messages_move() -> None:
    async with live(send_timeout_s=1.0, bytes_per_s_min=1000) as (server, _):
        (connection,) = server.limiter._admitted
        protocol: Any = connection.protocol
        kept, transport = protocol.transport, Unwritten()
        protocol.transport = transport
        for second in range(1, 11):
            transport.size -= 2000
            protocol.check(1.1 * second)
            assert not transport.aborted
        protocol.check(14.0)
        assert transport.aborted
        protocol.transport = kept


async def test_a_connection_that_is_gone_leaves_nothing_for_the_garbage_collector() -> None:
    """A collection is so rare in a server that gigabytes would wait for it."""
    async with live() as (server, _):
        clients = [await server.client() for _ in range(3)]
        clients[0][1].write(GET[:-5])
        clients[1][1].write(GET)
        # The whole answer: one cut in the middle leaves a traceback of Starlette's that holds
        # the closed transport, though none of the bytes.
        await whole_answer(clients[1][0])
        async with asyncio.timeout(30):
            while server.limiter.connections < 4:
                await asyncio.sleep(0.01)
        gc.disable()
        try:
            protocols: list[Any] = [connection.protocol for connection in server.limiter._admitted]
            kept = [weakref.ref(each) for p in protocols for each in (p, p.transport)]
            del protocols
            for writer in server.writers:
                writer.transport.abort()
            async with asyncio.timeout(30):
                while sum(ref() is not None for ref in kept) > 2:  # the open WebSocket's
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()
