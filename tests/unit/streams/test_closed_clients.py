"""A closed producer of aiokafka leaves nothing running, even without a broker."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import BrokerMetadata, PartitionMetadata

from streams.kafka import client_lifecycle

pytestmark = pytest.mark.anyio

PARTITION = KafkaPartition("captions", 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_lifecycle, "CLOSE_S", 0.05)


@pytest.fixture
async def complaints() -> list[str]:
    """Fill with what asyncio says of tasks and futures that nobody looked at."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    return told


def begin(producer: AIOKafkaProducer) -> None:
    """Let its sender run, though it has asked no broker for anything."""
    sender = producer._sender
    sender._sender_task = asyncio.create_task(sender._sender_routine())
    sender._sender_task.add_done_callback(sender._fail_all)


async def taken(producer: AIOKafkaProducer) -> asyncio.Future[Any]:
    """Give the producer a record that it cannot deliver."""
    future: asyncio.Future[Any] = await producer._message_accumulator.add_message(
        PARTITION, b"key", b"value", timeout=1
    )
    return future


async def without_leader() -> tuple[AIOKafkaProducer, asyncio.Future[Any]]:
    producer = AIOKafkaProducer()
    record = await taken(producer)
    begin(producer)
    return producer, record


async def in_flight() -> tuple[AIOKafkaProducer, asyncio.Future[Any]]:
    """The partition has a leader, to whom nobody can connect."""
    producer = AIOKafkaProducer()
    cluster = producer.client.cluster
    cluster._brokers = {1: BrokerMetadata(1, "127.0.0.1", 1, None)}
    cluster._partitions = {"captions": {0: PartitionMetadata("captions", 0, 1, [1], [1], 0)}}
    record = await taken(producer)
    begin(producer)
    return producer, record


async def committing() -> tuple[AIOKafkaProducer, asyncio.Future[Any]]:
    """A transaction waits for its record."""
    producer = AIOKafkaProducer(transactional_id="writer")
    transaction = producer._txn_manager
    transaction.set_pid_and_epoch(1, 0)
    transaction.begin_transaction()
    record = await taken(producer)
    transaction.partition_added(PARTITION)
    transaction.committing_transaction()
    begin(producer)
    return producer, record


async def sender_ended() -> tuple[AIOKafkaProducer, asyncio.Future[Any]]:
    """`stop` waits for nothing then, and is there in time."""
    producer, record = await without_leader()
    await asyncio.sleep(0.01)
    await producer._sender.close()
    return producer, record


def left_behind() -> list[str]:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    names = [getattr(task.get_coro(), "__qualname__", "") for task in tasks]
    return sorted(name for name in names if name.startswith(("Sender", "MessageAccumulator")))


@pytest.mark.parametrize(
    ("held", "running"),
    [
        (without_leader, ["Sender._sender_routine"]),
        (in_flight, ["Sender._send_produce_req", "Sender._sender_routine"]),
        (committing, ["Sender._do_txn_commit", "Sender._sender_routine"]),
        (sender_ended, []),
    ],
)
@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "not asked for"])
async def test_a_producer_that_cannot_deliver_leaves_nothing(
    held: Callable[[], Awaitable[tuple[AIOKafkaProducer, asyncio.Future[Any]]]],
    running: list[str],
    asked: bool,
    complaints: list[str],
) -> None:
    """No task is destroyed with it, and no error is left that nobody looks at."""
    producer, record = await held()
    async with asyncio.timeout(30):
        while left_behind() != running:
            await asyncio.sleep(0)
    await client_lifecycle.close_consumer_or_producer(producer)
    assert left_behind() == []
    if asked:
        with pytest.raises(KafkaConnectionError, match="closed before this was delivered"):
            record.result()
    del producer, record
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
