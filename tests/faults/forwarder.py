"""A TCP forwarder on loopback with a target that can change: the name of a service that moves."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Forwarder:
    """Passes connections on to `to`; where that is None, they are closed at once."""

    def __init__(self, to: str | None) -> None:
        self.to = to
        self._passing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        # It holds the port while nobody listens there.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        port: int = self._port.getsockname()[1]
        return port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @classmethod
    @asynccontextmanager
    async def open(cls, to: str | None) -> AsyncIterator["Forwarder"]:
        forwarder = cls(to)
        with forwarder._port:
            await forwarder.listen()
            try:
                yield forwarder
            finally:
                await forwarder.refuse()

    async def listen(self) -> None:
        """Accept connections, unless it does already."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, reuse_port=True
            )

    async def refuse(self) -> None:
        """Refuse new connections and cut the open ones, as a server does that is killed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

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
