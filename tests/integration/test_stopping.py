"""A role that is asked to stop again and again, until it is gone, ends as if asked once."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from tests.kits.kafka import collection
from tests.kits.roles import PATIENCE_S, Role, answering, free_port, of, role
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(400)]


async def logged(process: Role, event: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while event not in process.log.read_text():
            assert process.process.returncode is None, process.log.read_text()[-3000:]
            await asyncio.sleep(0.05)


async def hurried(process: Role) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while process.process.returncode is None:
            process.signal(signal.SIGTERM)
            await asyncio.sleep(0.005)
    return process.process.returncode


async def test_an_encoder(kafka, tmp_path: Path) -> None:
    async with collection(kafka.bootstrap) as kit, role(tmp_path, "encode", *of(kit)) as encoder:
        await logged(encoder, '"encoding"')
        assert await hurried(encoder) == 0, encoder.log.read_text()[-3000:]
        assert "encoder stopped" in encoder.log.read_text()


async def test_an_index(kafka, tmp_path: Path) -> None:
    async with collection(kafka.bootstrap) as kit:
        port = str(free_port())
        async with (
            role(tmp_path, "index", *of(kit, "--port", port)) as index,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, index)
            # A request that waits is refused at once and may try again; it was cancelled into a
            # bare 500.
            token = {"topic": kit.names.content("captions"), "partition": 0, "offset": 10**9}
            query = {"text": "red cat", "target": "captions", "wait_for": token}
            async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
                url = f"http://127.0.0.1:{port}/v1/search"
                asking = asyncio.create_task(http.post(url, json=query))
                await asyncio.sleep(0.5)
                assert await hurried(index) == 0, index.log.read_text()[-3000:]
                refused = await asking
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["code"] == "stopping"
