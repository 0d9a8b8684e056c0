"""Kafka gone while everything runs: searches go on from memory, the rest waits and resumes."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from contracts.errors import TidelensError
from contracts.events.content_event import content_record
from streams.devbroker.broker import LocalBroker
from tests.faults.forwarder import Forwarder
from tests.kits.broker_fixture import FAST
from tests.kits.kafka import caption, collection
from tests.kits.roles import Role, answering, free_port, of, role
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(150)]


async def found(client: Client, text: str) -> list[str]:
    answer = await client.search({"text": text, "target": "captions", "k": 1, "min_score": 0.9})
    return [hit["id"] for hit in answer["hits"]]


async def reaches(client: Client, state: str) -> None:
    """Wait until the node says so of the broker."""
    async with asyncio.timeout(30):
        while (await client.get("/readyz"))["broker"] != state:
            await asyncio.sleep(0.2)


async def looked_for_the_broker(encoder: Role, times: int) -> None:
    """Wait until the encoder has looked for its broker in vain, and has gone on, so many times."""
    async with asyncio.timeout(60):
        while encoder.log.read_text().count("put off until the broker answers") < times:
            await asyncio.sleep(0.05)


async def published(client: Client, item_id: str, text: str) -> None:
    """Publish as soon as that goes, and wait until it is found."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.publish({"target": "captions", "id": item_id, "text": text})
                break
            except TidelensError:
                await asyncio.sleep(0.2)
        while await found(client, text) != [item_id]:
            await asyncio.sleep(0.2)


async def test_searches_go_on_and_the_rest_resumes(own_kafka, tmp_path: Path) -> None:
    """The broker comes back at the same address, or where only the bootstrap name leads."""
    broker = await own_kafka()
    port = free_port()
    async with AsyncExitStack() as stack:
        name = await stack.enter_async_context(Forwarder.open(broker.bootstrap))
        kit = await stack.enter_async_context(
            collection(name.address, space="hash-v1", partitions=2)
        )
        topic = kit.names.content("captions")
        await kit.log.publish([content_record(topic, caption("before", "calm sea"))])
        async with (
            role(tmp_path, "encode", *of(kit)) as encoder,
            role(tmp_path, "index", *of(kit, "--port", str(port))) as node,
            role(tmp_path, "encode", *of(kit)) as leaving_encoder,
            role(
                tmp_path,
                "index",
                *of(kit, "--port", str(free_port())),
                TIDELENS_DATA=str(tmp_path / "2"),
            ) as leaving_node,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, node)
            async with asyncio.timeout(30):
                while await found(client, "calm sea") != ["before"]:
                    await asyncio.sleep(0.1)
            await broker.kill()
            # It is still ready (invariant 8): its answers stand for its offsets; the body says why.
            await reaches(client, "unreachable")
            assert await found(client, "calm sea") == ["before"]
            with pytest.raises(TidelensError):
                await client.publish({"target": "captions", "id": "x", "text": "lost"})
            for waiting in (encoder, leaving_encoder):
                await looked_for_the_broker(waiting, 2)
            assert encoder.process.returncode is None
            assert node.process.returncode is None
            stopped = await asyncio.gather(leaving_encoder.stop(), leaving_node.stop())
            assert stopped == [0, 0]
            await broker.start()
            await published(client, "after", "storm over")
            await reaches(client, "reachable")

            await broker.kill()
            moved = LocalBroker(tmp_path / "own", port=free_port(), heap_mb=256, extra=FAST)
            stack.push_async_callback(moved.stop)
            name.to = await moved.start()
            await published(client, "moved", "another harbour")
            await reaches(client, "reachable")
            assert await node.stop() == 0
            assert await encoder.stop() == 0
            # Every line about an outage is JSON.
            for each in (encoder, node, leaving_encoder, leaving_node):
                for line in each.log.read_text().splitlines():
                    assert orjson.loads(line)["event"]
