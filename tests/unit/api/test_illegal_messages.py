"""All that a client may send, in every state, gets the documented error or close code.

Autobahn's test suite, the WebSocket conformance client on PyPI, needs Python 2; so the frames that
RFC 6455 forbids are written here, byte by byte.
"""

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.kits.api_kit import Closed, Kit, Socket, serving
from tests.oracles.logged_index import LoggedIndex

pytestmark = pytest.mark.anyio

QUERY = {"text": "red cat", "target": "captions", "k": 2}


def kit_with_log(**settings: Any) -> Kit:
    index = LoggedIndex()
    kit = Kit(index=index, **settings)
    index.log = kit.log
    kit.caption("a", "red cat")
    return kit


async def fresh(_: Kit, __: Socket) -> None:
    """Nothing was subscribed to."""


async def opening(kit: Kit, socket: Socket) -> None:
    """It waits for a state that never comes."""
    offsets = {"images": [9, 9], "captions": [9, 9]}
    later = {"space": "hash-v1", "epoch": "epoch-1", "offsets": offsets}
    socket.subscribe("s", **QUERY, wait_for=later)
    await asyncio.sleep(0)


async def live(_: Kit, socket: Socket) -> None:
    socket.subscribe("s", **QUERY)
    assert (await socket.receive())["type"] == "snapshot"


async def following(_: Kit, socket: Socket) -> None:
    """Bring the connection into mode `matches`."""
    socket.send(op="subscribe", sub="s", mode="matches", query=QUERY)
    assert (await socket.receive())["type"] == "resumed"


async def ended(kit: Kit, socket: Socket) -> None:
    await live(kit, socket)
    socket.send(op="unsubscribe", sub="s")


STATES: list[Callable[[Kit, Socket], Awaitable[None]]] = [fresh, opening, live, following, ended]
HOLDING = (opening, live, following)


def subscribe(**members: Any) -> dict[str, Any]:
    return {"op": "subscribe", "sub": "t", "query": QUERY, **members}


ILLEGAL: list[tuple[Any, str]] = [
    ("", "invalid_json"),
    ("{", "invalid_json"),
    ("[" * 5000, "invalid_json"),
    ('{"op": "ping"} {"op": "ping"}', "invalid_json"),
    ("null", "invalid_request"),
    ("[]", "invalid_request"),
    ("3", "invalid_request"),
    ('"ping"', "invalid_request"),
    ({}, "invalid_request"),
    ({"op": "snapshot"}, "invalid_request"),
    ({"op": "PING"}, "invalid_request"),
    ({"op": "ping", "sub": "s"}, "invalid_request"),
    ({"op": "unsubscribe"}, "invalid_request"),
    ({"op": "unsubscribe", "sub": 3}, "invalid_request"),
    ({"op": "unsubscribe", "sub": "nobody"}, "unknown_sub"),
    (subscribe(sub=""), "invalid_request"),
    (subscribe(sub="x" * 65), "invalid_request"),
    (subscribe(sub=None), "invalid_request"),
    (subscribe(mode="bottom"), "invalid_request"),
    (subscribe(query=None), "invalid_request"),
    (subscribe(query={}), "invalid_request"),
    (subscribe(query={**QUERY, "k": 0}), "invalid_request"),
    (subscribe(query={**QUERY, "k": 10**30}), "invalid_request"),
    (subscribe(query={**QUERY, "k": 10**6}), "too_many"),
    (subscribe(query={**QUERY, "k": True}), "invalid_request"),
    (subscribe(query={**QUERY, "offset": 1}), "invalid_request"),
    (subscribe(query={**QUERY, "filter": {"eq": {}}}), "invalid_filter"),
    (subscribe(query={**QUERY, "timeout_s": 0}), "invalid_request"),
    (subscribe(query={"vector": [0.0] * 64}), "zero_vector"),
    (subscribe(query={"vector": [1.0] * 3}), "wrong_dimension"),
    (subscribe(query={"id": "nobody", "of": "captions"}), "item_not_found"),
    (subscribe(query={"image": "no base64"}), "invalid_base64"),
    (subscribe(throttle_ms=-1), "invalid_request"),
    (subscribe(throttle_ms=10**9), "invalid_request"),
    (subscribe(min_change=-0.1), "invalid_request"),
    (subscribe(mode="matches", throttle_ms=1), "invalid_request"),
    (subscribe(mode="matches", query={**QUERY, "collapse": "item"}), "invalid_request"),
    (subscribe(cursor=""), "invalid_cursor"),
    (subscribe(cursor="none"), "invalid_cursor"),
    (subscribe(cursor="x" * 300_000), "invalid_cursor"),
    (subscribe(more=1), "invalid_request"),
]


@pytest.mark.parametrize("state", STATES)
async def test_an_illegal_message_is_told_and_nothing_else_suffers(
    state: Callable[[Kit, Socket], Awaitable[None]],
) -> None:
    kit = kit_with_log()
    async with kit.live() as socket:
        await socket.accepted()
        await state(kit, socket)
        for message, code in ILLEGAL:
            text = message if isinstance(message, str) else json.dumps(message)
            socket.send_text(text)
            error = await socket.receive()
            assert (error["type"], error["code"]) == ("error", code), (text[:200], error)
        if state in HOLDING:
            socket.subscribe("s", **QUERY)
            error = await socket.receive()
            assert (error["code"], error["sub"]) == ("duplicate_sub", "s")
        else:
            socket.send(op="unsubscribe", sub="s")
            assert (await socket.receive())["code"] == "unknown_sub"
        socket.send(op="ping")
        assert await socket.receive() == {"type": "pong"}
        # What was there goes on.
        assert kit.sample("tidelens_live_subscriptions") == (state in (live, following))
        kit.caption("b", "red cat")
        if state is live:
            assert (await socket.receive())["type"] == "delta"
        if state is following:
            assert (await socket.receive())["type"] == "match"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda some: (
        st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["op", "sub", "query", "mode", "cursor", "throttle_ms", "text", "k", "target", "filter", "fuse"]
)
NEARLY = st.builds(
    lambda message, name, value, inside: json.dumps(
        {**message, "query": {**message["query"], name: value}}
        if inside
        else {**message, name: value}
    ),
    st.just(subscribe()),
    NAMES,
    JSON,
    st.booleans(),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(NEARLY | st.text(max_size=30), min_size=1, max_size=6))
def test_any_text_is_answered_and_the_connection_goes_on(texts: list[str]) -> None:
    async def run() -> None:
        kit = kit_with_log()
        async with kit.live() as socket:
            await socket.accepted()
            for text in texts:
                socket.send_text(text)
            socket.send(op="ping")
            while (await socket.receive())["type"] != "pong":
                pass

    with capture_logs() as logs:
        asyncio.run(run())
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_a_frame_of_the_wrong_kind_or_size_closes() -> None:
    for state in STATES:
        for frame, code in (({"bytes": b"\0"}, 1003), ({"text": "x" * 6000}, 1009)):
            kit = kit_with_log(frame_bytes_max=5000)
            async with kit.live() as socket:
                await socket.accepted()
                await state(kit, socket)
                socket._in.put_nowait({"type": "websocket.receive", **frame})
                with pytest.raises(Closed) as closed:
                    await socket.receive()
                assert closed.value.code == code
            assert kit.sample("tidelens_live_subscriptions") == 0


class Raw:
    """A socket on which any bytes may be written, past a proper handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def frame(
        self, first: int, payload: bytes = b"", *, mask: bool = True, length: int | None = None
    ) -> None:
        """`first` is FIN, the reserved bits and the opcode."""
        size = len(payload) if length is None else length
        short = size if size < 126 else 126 if size < 2**16 else 127
        head = bytes([first, short | (0x80 if mask else 0)])
        if short == 126:
            head += struct.pack(">H", size)
        elif short == 127:
            head += struct.pack(">Q", size)
        self.writer.write(head + (b"\0\0\0\0" if mask else b"") + payload)

    async def closed_with(self) -> int | None:
        """Return the close code, or None if the connection just ends."""
        async with asyncio.timeout(30):
            try:
                while True:
                    first, second = await self.reader.readexactly(2)
                    size = second & 0x7F
                    if size == 126:
                        [size] = struct.unpack(">H", await self.reader.readexactly(2))
                    payload = await self.reader.readexactly(size)
                    if first & 0x0F == 8:
                        return int(struct.unpack(">H", payload[:2])[0]) if payload else None
            except (asyncio.IncompleteReadError, ConnectionError):
                return None


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
    lines = (
        "GET /v1/live HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    )
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in answer
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
        assert b"permessage-deflate" not in answer
        yield Raw(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


FIN, TEXT, BINARY, CLOSE, PING = 0x80, 1, 2, 8, 9
# The codes of RFC 6455: 1002 for frames that the protocol forbids, 1007 for text that is not
# UTF-8.
FORBIDDEN: dict[str, tuple[list[tuple[int, bytes]], int]] = {
    "reserved bit": ([(FIN | 0x40 | TEXT, b"{}")], 1002),
    "reserved opcode": ([(FIN | 3, b"")], 1002),
    "reserved control opcode": ([(FIN | 11, b"")], 1002),
    "control frame in pieces": ([(PING, b"")], 1002),
    "control frame too long": ([(FIN | PING, b"x" * 126)], 1002),
    "continuation of nothing": ([(FIN | 0, b"x")], 1002),
    "text within a text": ([(TEXT, b"{"), (FIN | TEXT, b"}")], 1002),
    "no UTF-8": ([(FIN | TEXT, b"\xc3\x28")], 1007),
    "no UTF-8 over two pieces": ([(TEXT, b"\xc3"), (FIN | 0, b"\x28")], 1007),
    "cut off UTF-8": ([(FIN | TEXT, b"\xe2\x82")], 1007),
    "surrogates": ([(FIN | TEXT, b"\xed\xa0\x80")], 1007),
    "a close of one byte": ([(FIN | CLOSE, b"x")], 1002),
    "a close code that is none": ([(FIN | CLOSE, struct.pack(">H", 999))], 1002),
    "a reserved close code": ([(FIN | CLOSE, struct.pack(">H", 1005))], 1002),
    "a close reason that is no UTF-8": ([(FIN | CLOSE, struct.pack(">H", 1000) + b"\xff")], 1007),
    "binary in pieces": ([(BINARY, b"x"), (FIN | 0, b"y")], 1003),
}


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_what_the_protocol_forbids(name: str) -> None:
    frames, code = FORBIDDEN[name]
    kit = kit_with_log()
    async with serving(kit.app, kit.settings) as port, raw(port) as socket:
        socket.frame(FIN | TEXT, orjson.dumps(subscribe()))
        for first, payload in frames:
            socket.frame(first, payload)
        assert await socket.closed_with() == code
        await kit.until("tidelens_live_connections", 0)


async def test_frames_that_are_not_masked_or_never_end() -> None:
    kit = kit_with_log(frame_bytes_max=5000)
    async with serving(kit.app, kit.settings) as port:
        async with raw(port) as socket:
            socket.frame(FIN | TEXT, b"{}", mask=False)
            assert await socket.closed_with() == 1002
        async with raw(port) as socket:
            # Refused by its length: nobody waits for the bytes.
            socket.frame(FIN | TEXT, b"", length=2**62)
            assert await socket.closed_with() == 1009
        async with raw(port) as socket:
            socket.frame(TEXT, b"x" * 2000)
            for _ in range(3):
                socket.frame(0, b"x" * 2000)
            assert await socket.closed_with() == 1009
        async with raw(port) as socket:
            # Pieces of nothing, without end: an answer still comes in between.
            socket.frame(TEXT, b"")
            for _ in range(1000):
                socket.frame(0, b"")
            socket.frame(FIN | PING, b"there?")
            async with asyncio.timeout(30):
                assert await socket.reader.readexactly(8) == b"\x8a\x06there?"
        async with raw(port) as socket:
            # With reserved bits set: other noise may be the beginning of a frame.
            socket.writer.write(b"\xff" + os.urandom(63))
            assert await socket.closed_with() == 1002


async def test_more_messages_than_it_reads_answers_of() -> None:
    """It is not read from until it reads itself, and closed when it does not."""
    kit = kit_with_log(send_timeout_s=0.2)
    async with kit.live() as socket:
        await socket.accepted()
        socket.reading.clear()
        for _ in range(1000):
            socket.send(op="ping")
        await asyncio.sleep(0.3)
        assert socket._in.qsize() > 900
        socket.reading.set()
        with pytest.raises(Closed) as closed:
            while True:
                await socket.receive()
        assert closed.value.code == 1013
