"""Answers of S3 that end before their body does are requested again, and then raise OSError."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from index_store.storage import s3 as module
from index_store.storage.s3 import S3BlobStore
from tests.faults.fake_s3 import answer, point_to

pytestmark = pytest.mark.anyio

BODY = bytes(range(256)) * 512


class HalfServer:
    """A server of one blob, `BODY`, that sends only half of it in the first `halves` answers."""

    def __init__(self) -> None:
        self.halves = 0
        self.gets = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await self._answers(reader, writer)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"list-type=2" in head:
                listing = b"<ListBucketResult><Name>bucket</Name></ListBucketResult>"
                writer.write(answer("200 OK", listing))
            else:
                writer.write(answer("200 OK", BODY, ETag='"x"').removesuffix(BODY))
                self.gets += 1
                half = self.gets <= self.halves
                writer.write(BODY[: len(BODY) // 2] if half else BODY)
                if half:
                    return
            await writer.drain()


@pytest.fixture
async def server(
    monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[HalfServer]:
    half = HalfServer()
    listening = await asyncio.start_server(half.answer, "127.0.0.1", 0)
    point_to(listening.sockets[0].getsockname()[1], monkeypatch, no_blocking_calls)
    yield half
    listening.close()


@pytest.mark.parametrize("halves", [0, 1, module._BODY_ATTEMPTS - 1])
async def test_half_an_answer_is_asked_for_again(
    halves: int, server: HalfServer, tmp_path: Path
) -> None:
    async with S3BlobStore.open("bucket", "", attempts=1) as store:
        server.halves = halves
        assert await store.read("a/blob") == BODY
        assert server.gets == halves + 1
        server.halves += server.gets
        path = await store.local("a/blob", tmp_path)
        assert path.read_bytes() == BODY
        assert [found.name for found in tmp_path.iterdir()] == ["blob"]


async def test_a_server_that_always_cuts_off_is_told_and_leaves_nothing(
    server: HalfServer, tmp_path: Path
) -> None:
    server.halves = 1000
    async with S3BlobStore.open("bucket", "", attempts=1) as store:
        with pytest.raises(OSError, match="s3://bucket/a/blob: "):
            await store.read("a/blob")
        assert server.gets == module._BODY_ATTEMPTS
        with pytest.raises(OSError, match="s3://bucket/a/blob: "):
            await store.local("a/blob", tmp_path)
    assert list(tmp_path.iterdir()) == []
