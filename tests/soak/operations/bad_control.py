"""The control topic has bad records while a node starts again.

First it has nothing but bad ones, as compaction may leave it; then bad ones after a good one. The
node starts each time and answers every item, and one command repairs the topic.
"""

import time
from dataclasses import replace

from contracts.events.control_record import ACTIVE, CANDIDATE, ActiveSpace, SpaceRef
from contracts.events.record import OutRecord
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from contracts.testing.encoder import HashEncoder
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from tests.kits.roles import answering, free_port, said
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 100
_TOPIC = "tidelens.control"
_HERE = SpaceRef.of(HashEncoder().space, "hash")


def _bad() -> list[OutRecord]:
    gone = replace(_HERE, space="no-such-space")
    # The topics of this space are there, and nobody has its model.
    lost = SpaceRef(_HERE.space, "/no/such/model", _HERE.fingerprint)
    return [
        OutRecord(_TOPIC, ACTIVE, b"not json", partition=0),
        OutRecord(_TOPIC, ACTIVE, b"[" * 500_000, partition=0),
        OutRecord(_TOPIC, ACTIVE, None, partition=0),
        OutRecord(_TOPIC, CANDIDATE, b"{}", partition=0),
        ActiveSpace(_HERE, None, 1e17).record(_TOPIC),
        ActiveSpace(lost, None, 1.0).record(_TOPIC),
        ActiveSpace(gone, None, 1.0).record(_TOPIC),
    ]


async def run(ground: Ground) -> Outcome:
    broker = await ground.broker()
    address = broker.bootstrap
    port = free_port()
    arguments = ("--brokers", address, "--port", str(port))
    variables = {"TIDELENS_DATA": str(ground.folder / "data")}
    reported, counted, slowest = [], [], 0.0
    async with Client(f"http://127.0.0.1:{port}") as client:
        node = await ground.role("up", *arguments)
        await answering(client, node)
        items = [{"target": "captions", "id": f"{n}", "text": f"item {n}"} for n in range(_ITEMS)]
        for token in await client.publish(items):
            await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})
        # The second time a good record stands before them, and one bad one less can be read.
        for repair, bad in ((("--model", "hash"), _bad()), ((), _bad()[:5])):
            await _write(address, bad)
            assert await node.stop() == 0
            began = time.monotonic()
            node = await ground.role("up", *arguments)
            await answering(client, node)
            slowest = max(slowest, time.monotonic() - began)
            status = await client.get("/v1/status")
            counted.append(status["items"]["captions"])
            reported += [
                f"status: offset {one['offset']} {one['fault']}"
                for one in status["control"]["refused"]
            ]
            code, shown, _ = await said("control", "show", **variables)
            assert code == 1, shown
            code, _, error = await said("control", "repair", *repair, **variables)
            assert code == 0, error
            code, shown, _ = await said("control", "show", **variables)
            assert code == 0, shown
            reported.append(f"control show: {shown.splitlines()[0]}")
        assert await node.stop() == 0
    return Outcome(reported, slowest, _ITEMS - min(counted))


async def _write(address: str, records: list[OutRecord]) -> None:
    connection = KafkaConnection(address, KafkaSettings())
    opened = KafkaEventLog.open(
        connection, partition_of=partitioner("murmur2"), record_bytes_max=900_000
    )
    async with opened as event_log:
        await event_log.publish(records)
