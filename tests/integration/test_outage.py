"""Kafka gone while everything runs: searches go on from memory, the rest waits and resumes."""

import asyncio
from pathlib import Path

import pytest

from contracts.errors import TidelensError
from contracts.events import content_record
from tests.kit import caption, collection
from tests.roles import answering, free_port, of, role
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(150)]


async def found(client: Client, text: str) -> list[str]:
    answer = await client.search({"text": text, "target": "captions", "k": 1, "min_score": 0.9})
    return [hit["id"] for hit in answer["hits"]]


async def test_searches_go_on_and_the_rest_resumes(own_kafka, tmp_path: Path) -> None:
    broker = await own_kafka()
    port = free_port()
    async with collection(broker.bootstrap, space="hash-v1", partitions=2) as kit:
        topic = kit.names.content("captions")
        await kit.log.publish([content_record(topic, caption("before", "calm sea"))])
        async with (
            role(tmp_path, "encode", *of(kit)) as encoder,
            role(tmp_path, "index", *of(kit, "--port", str(port))) as node,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, node)
            async with asyncio.timeout(30):
                while await found(client, "calm sea") != ["before"]:
                    await asyncio.sleep(0.1)
            await broker.kill()
            # Ready still (invariant 8): what it says stands for its offsets; the body tells.
            async with asyncio.timeout(30):
                while (await client.get("/readyz"))["broker"] != "unreachable":
                    await asyncio.sleep(0.2)
            assert await found(client, "calm sea") == ["before"]
            with pytest.raises(TidelensError):
                await client.publish({"target": "captions", "id": "x", "text": "lost"})
            await asyncio.sleep(3)
            assert encoder.process.returncode is None
            assert node.process.returncode is None

            await broker.start()
            async with asyncio.timeout(60):
                while True:
                    try:
                        item = {"target": "captions", "id": "after", "text": "storm over"}
                        await client.publish(item)
                        break
                    except TidelensError:
                        await asyncio.sleep(0.2)
                while await found(client, "storm over") != ["after"]:
                    await asyncio.sleep(0.2)
                while (await client.get("/readyz"))["broker"] != "reachable":
                    await asyncio.sleep(0.2)
            assert await node.stop() == 0
            assert await encoder.stop() == 0
