"""Partitions are added to a content topic and to its embeddings while `up` runs.

Items that are published before, between and after a restart are all found, nothing is in the
added partitions, and the node says what is wrong and which command gives more partitions.
"""

import asyncio
import time
from typing import Any

from aiokafka.admin import NewPartitions

from contracts.settings import KafkaSettings
from streams.kafka.connection import KafkaConnection
from tests.kits.roles import answering, free_port
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 200
_TOPICS = ("tidelens.captions", "tidelens.embeddings.hash-v1.captions")


async def run(ground: Ground) -> Outcome:
    broker = await ground.broker()
    port = free_port()
    arguments = ("--brokers", broker.bootstrap, "--port", str(port))
    environment = {"TIDELENS_PARTITIONS": "2"}
    node = await ground.role("up", *arguments, **environment)
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        await _publish(client, 0)
        async with KafkaConnection(broker.bootstrap, KafkaSettings()).admin() as admin:
            await admin.create_partitions({topic: NewPartitions(5) for topic in _TOPICS})
        began = time.monotonic()
        warned = await _topics(client)
        warned_s = time.monotonic() - began
        await _publish(client, 1)
        await node.stop()
        again = await ground.role("up", *arguments, **environment)
        await answering(client, again)
        await _publish(client, 2)
        await _publish(client, 0)  # an update stays where its item is
        found = (await client.get("/v1/status"))["items"]["captions"]
        still = await _topics(client)
    reported = [f"readyz: {line}" for line in still["warnings"]]
    reported += [f"readyz: {still['advice']}", f"warned after {warned_s:.0f} s"]
    strays = sum(", 0 records lie" not in line for line in warned["warnings"] + still["warnings"])
    return Outcome(reported, None, abs(3 * _ITEMS - found) + strays)


async def _publish(client: Client, first: int) -> None:
    """Publish captions, and wait until the node has them."""
    items = [
        {"target": "captions", "id": f"{first}-{n}", "text": f"item {first} {n}"}
        for n in range(_ITEMS)
    ]
    tokens = await client.publish(items)
    assert {token["partition"] for token in tokens} == {0, 1}
    for token in tokens[-20:]:
        await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})


async def _topics(client: Client) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            state: dict[str, Any] = (await client.get("/readyz"))["topics"]
            if len(state["warnings"]) == len(_TOPICS):
                return state
            await asyncio.sleep(0.2)
