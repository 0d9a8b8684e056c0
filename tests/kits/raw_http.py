"""HTTP by hand, from a loopback address of one's choice: a library's own work would be measured."""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import orjson

JSON = "content-type: application/json\r\n"
# Bounds what never comes.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    if body:
        head += f"{JSON}content-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Link:
    """One connection; requests on it follow one another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, address: str = "127.0.0.1") -> "Link":
        return cls(
            *await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0), limit=2**20)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask. Raises OSError or EOFError if the server closes first, TimeoutError in the end."""
        data = b"" if body is None else orjson.dumps(body)
        async with asyncio.timeout(PATIENCE_S):
            self.writer.write(request(method, path, data))
            return await self.answer()

    async def answer(self) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if fields.get(b"transfer-encoding") == b"chunked":
            return Answer(status, await self._chunks())
        return Answer(status, await self.reader.readexactly(int(fields.get(b"content-length", 0))))

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self.reader.readline()).partition(b";")[0], 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body


async def ask(
    port: int, method: str, path: str, body: Any = None, *, address: str = "127.0.0.1"
) -> Answer:
    """Ask on a new connection, as a new client does."""
    async with await Link.open(port, address) as link:
        return await link.ask(method, path, body)
