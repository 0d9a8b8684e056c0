"""A TCP forwarder on loopback with a target that can change: the name of a service that moves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Forwarder:
    """`to` is where new connections go; None: they are closed at once."""

    def __init__(self, to: str | None) -> None:
        self.to = to
        self.address = ""
        self._passing: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, to: str | None) -> AsyncIterator["Forwarder"]:
        forwarder = cls(to)
        server = await asyncio.start_server(forwarder._accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        forwarder.address = f"{host}:{port}"
        try:
            yield forwarder
        finally:
            server.close()
            for task in forwarder._passing:
                task.cancel()
            await asyncio.gather(*forwarder._passing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if self.to is None:
                return
            host, port = self.to.rsplit(":", 1)
            there, back = await asyncio.open_connection(host, int(port))
            with contextlib.closing(back):
                await both_ways(reader, writer, there, back)


async def both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    there: asyncio.StreamReader,
    back: asyncio.StreamWriter,
) -> None:
    """Pass on what comes from either side until one of them ends."""
    passing = [
        asyncio.create_task(_pass(reader, back)),
        asyncio.create_task(_pass(there, writer)),
    ]
    try:
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in passing:
            each.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
