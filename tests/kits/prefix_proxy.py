"""A reverse proxy in front of a node, as nginx is: under a prefix, which it keeps or strips."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from tests.faults.forwarder import both_ways


@asynccontextmanager
async def proxy(node_port: int, prefix: str, *, strips: bool) -> AsyncIterator[int]:
    """Forward what is below `prefix` to the node, and answer 404 to all else; yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if path != prefix.encode() and not path.startswith(f"{prefix}/".encode()):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                return
            if strips:
                path = path.removeprefix(prefix.encode()) or b"/"
            await _forward(node_port, b" ".join((method, path, rest)), reader, writer)

    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_closing(writer, serve(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _closing(writer: asyncio.StreamWriter, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _forward(
    node_port: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    back_reader, back_writer = await asyncio.open_connection("127.0.0.1", node_port)
    if b"upgrade: websocket" not in head.lower():
        # One request for each connection, since each request has a path of its own.
        head = head.replace(b"Connection: keep-alive", b"Connection: close")
        head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    back_writer.write(head)
    await _closing(back_writer, both_ways(reader, writer, back_reader, back_writer))
