"""A listener that speaks as much of Kafka's protocol as it takes to name brokers and be let in.

For what no real broker can be made to do quickly: to name addresses that cannot be reached.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.metadata import MetadataResponse_v1

_API_VERSIONS, _METADATA = 18, 3


class NamingBroker:
    """`named` are the brokers that it names, by number, and `asked` counts the times. While it
    `hangs_up`, it takes connections and closes them."""

    def __init__(self) -> None:
        self.named: dict[int, tuple[str, int]] = {}
        self.asked = 0
        self.hangs_up = False
        self.host, self.port = "127.0.0.1", 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["NamingBroker"]:
        """Open one that names itself as broker 1."""
        broker = cls()
        broker._server = await asyncio.start_server(broker._serve, broker.host, 0)
        broker.port = broker._server.sockets[0].getsockname()[1]
        broker.named = {1: (broker.host, broker.port)}
        try:
            yield broker
        finally:
            await broker.stop()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection of every client."""
        for writer in self._serving:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(writer)
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while not self.hangs_up:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                api, _, correlation = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                answer = struct.pack(">i", correlation) + self._answer(api)
                writer.write(struct.pack(">i", len(answer)) + answer)

    def _answer(self, api: int) -> bytes:
        if api == _API_VERSIONS:
            return bytes(
                ApiVersionResponse_v0(0, [(_API_VERSIONS, 0, 0), (_METADATA, 1, 1)]).encode()
            )
        assert api == _METADATA, api
        self.asked += 1
        brokers = [(number, host, port, None) for number, (host, port) in self.named.items()]
        return bytes(MetadataResponse_v1(brokers, 1, []).encode())
