"""Somebody resets the offsets of an index node's group, or the broker forgets them.

The node is where it was and serves on. It reports its own position at once, and commits it again,
so that other processes see it too, although no record comes.
"""

import time

from contracts.events.record import TopicPartition
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from contracts.topics import TARGETS, Names
from streams.groups.deletion import deleted_group
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from tests.kits.roles import answering, free_port
from tests.soak.lag_readings import captions_of, lag_until, metric, published, read_lag
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 200
_NAMES = Names("tidelens.", "hash-v1")
_GROUP = _NAMES.index_group("0", "0")
_TOPIC = _NAMES.embeddings("captions")
_PARTITIONS = 4


async def run(ground: Ground) -> Outcome:
    address, port = (await ground.broker()).bootstrap, free_port()
    node = await ground.role("up", "--brokers", address, "--port", str(port))
    connection = KafkaConnection(address, KafkaSettings())
    reported, slowest = [], 0.0
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        await published(client, 0, _ITEMS)
        await lag_until(address, lambda answer: _lag_of(answer) == 0)
        for how in ("reset", "forgotten"):
            await (_reset(connection) if how == "reset" else _forget(connection))
            began = time.monotonic()
            seen = _lag_of(await read_lag(address))
            own = _lag_of(await client.get("/v1/lag"))
            shown = await metric(port, "tidelens_lag_records", role="index", topic=_TOPIC)
            assert (own, shown) == (0, 0)
            await lag_until(address, lambda answer: _lag_of(answer) == 0)
            slowest = max(slowest, time.monotonic() - began)
            reported.append(f"lag: {seen} records right after they were {how}; /v1/lag: {own}")
        found = await captions_of(client)
    return Outcome(reported, slowest, _ITEMS - found)


def _lag_of(answer: dict[str, object]) -> int | None:
    """Return None while the group does not exist."""
    rows = answer["partitions"]
    assert isinstance(rows, list)
    records = [row["records"] for row in rows if row["group"] == _GROUP]
    return sum(records) if records else None


async def _reset(connection: KafkaConnection) -> None:
    """Do what `kafka-consumer-groups.sh --reset-offsets --to-earliest` does."""
    start = {
        TopicPartition(_NAMES.embeddings(target), number): 0
        for target in TARGETS
        for number in range(_PARTITIONS)
    }
    opened = KafkaEventLog.open(
        connection, partition_of=partitioner("murmur2"), record_bytes_max=900_000
    )
    async with opened as event_log:
        await event_log.commit(_GROUP, start)


async def _forget(connection: KafkaConnection) -> None:
    """Do what the broker does a week after the last commit."""
    async with connection.client() as client:
        await deleted_group(client, _GROUP)
