"""Nothing of an aiokafka client stays open, whenever it was closed or its start cut short."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import client as aiokafka_client
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaError

from contracts.settings import KafkaSettings
from streams.kafka import client_lifecycle
from streams.kafka.connection import KafkaConnection
from streams.kafka.rebootstrap import RebootstrappingClient
from tests.kits.kafka import nothing_open

pytestmark = [pytest.mark.anyio, pytest.mark.broker]


@pytest.fixture
def slow_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection to a broker takes a fifth of a second to begin."""
    create_conn = aiokafka_client.create_conn

    async def slowly(*args, **options):
        await asyncio.sleep(0.2)
        return await create_conn(*args, **options)

    monkeypatch.setattr(aiokafka_client, "create_conn", slowly)


def options(bootstrap: str) -> dict:
    return KafkaConnection(bootstrap, KafkaSettings()).client_options()


@pytest.mark.parametrize("kind", [AIOKafkaClient, RebootstrappingClient])
async def test_what_connects_while_its_client_closes_is_closed_with_it(
    kafka, slow_connecting, kind
) -> None:
    """The produce request of a fenced producer's sender is such a call: nobody waits for it."""
    client = kind(**options(kafka.bootstrap))
    await client_lifecycle.start_client(client)
    node = client.get_random_node()
    groups = (ConnectionGroup.DEFAULT, ConnectionGroup.COORDINATION)
    connecting = [asyncio.create_task(client._get_conn(node, group=group)) for group in groups]
    await asyncio.sleep(0)
    await client_lifecycle.close_kafka_client(client)
    # One more that comes too late is turned away.
    assert await client._get_conn(node) is None
    await asyncio.gather(*connecting)
    del connecting
    await nothing_open()


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", [AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaClient])
async def test_a_start_that_is_cancelled_leaves_nothing_open(
    kafka, monkeypatch: pytest.MonkeyPatch, kind, steps: int
) -> None:
    """The steps are counted from where the client is connected and asks for its metadata."""
    create_conn, connected = aiokafka_client.create_conn, asyncio.Event()

    async def telling(*args, **options):
        connection = await create_conn(*args, **options)
        connected.set()
        return connection

    monkeypatch.setattr(aiokafka_client, "create_conn", telling)
    client = kind(**options(kafka.bootstrap))
    starting = asyncio.create_task(client_lifecycle.start_client(client))
    await connected.wait()
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    if not starting.cancelled():  # it was there sooner
        plain = isinstance(client, AIOKafkaClient)
        await (
            client_lifecycle.close_kafka_client(client)
            if plain
            else client_lifecycle.close_consumer_or_producer(client)
        )
    del client, starting
    await nothing_open()


async def test_of_several_starts_none_goes_on_behind_one_that_failed(
    kafka, slow_connecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    producers = [AIOKafkaProducer(**options(kafka.bootstrap)) for _ in range(3)]

    async def failing() -> None:
        raise KafkaError("no")

    monkeypatch.setattr(producers[1], "start", failing)
    with pytest.raises(KafkaError, match="no"):
        await client_lifecycle.start_all(producers)
    assert all(producer._closed for producer in producers)
    del producers
    await nothing_open()
