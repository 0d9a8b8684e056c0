"""Brokers that move are found again, and those with unreachable addresses are named."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import ConnectionGroup

from contracts.errors import BrokerUnavailable
from contracts.settings import KafkaSettings
from streams.kafka.client_lifecycle import close_kafka_client, start_client
from streams.kafka.connection import KafkaConnection
from streams.kafka.rebootstrap import CONNECT_S, BrokerUnreached, RebootstrappingClient
from tests.faults.naming_broker import NamingBroker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
async def bootstrap() -> AsyncIterator[NamingBroker]:
    async with NamingBroker.open() as broker:
        yield broker


@pytest.fixture
def nobody() -> tuple[str, int]:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "127.0.0.1", int(server.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """Yield an address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "127.0.0.1", int(server.getsockname()[1])


@asynccontextmanager
async def client(
    bootstrap: NamingBroker, *, pause_min_s: float = 0.02, connect_s: float = CONNECT_S
) -> AsyncIterator[RebootstrappingClient]:
    client = RebootstrappingClient(
        bootstrap_servers=bootstrap.address,
        connect_s=connect_s,
        pause_min_s=pause_min_s,
        pause_max_s=0.1,
    )
    await start_client(client)
    try:
        yield client
    finally:
        await close_kafka_client(client)


def named(broker: NamingBroker) -> tuple[str, int]:
    return broker.host, broker.port


async def test_every_client_of_ours_is_one_that_finds_its_brokers_again() -> None:
    consumer, producer, admin = AIOKafkaConsumer(), AIOKafkaProducer(), AIOKafkaAdminClient()
    for inner in (consumer._client, producer.client, admin._client):
        assert type(inner) is RebootstrappingClient
    await consumer.stop()
    await producer.stop()
    await admin.close()


async def test_brokers_at_other_addresses_are_found_by_the_bootstrap_name(
    bootstrap: NamingBroker,
) -> None:
    async with NamingBroker.open() as new, NamingBroker.open() as old:
        bootstrap.named = {1: named(old)}
        async with client(bootstrap) as moving:
            connection = await moving._get_conn(1)
            bootstrap.named = {1: named(new)}
            await old.stop()
            while connection is None or connection.port != new.port:
                await moving.force_metadata_update()
                connection = await moving._get_conn(1)


async def test_an_idle_client_finds_them_too(bootstrap: NamingBroker, nobody) -> None:
    """Nobody asks it for anything: the next record is not to wait for a search of brokers."""
    async with NamingBroker.open() as old:
        bootstrap.named = {1: named(old)}
        async with client(bootstrap) as idle:
            assert await idle.ready(1)
            bootstrap.named = {1: nobody}
            await old.stop()
            while not isinstance(
                RebootstrappingClient.unreached_reason(bootstrap.address), BrokerUnreached
            ):
                await asyncio.sleep(0.01)
            bootstrap.named = {1: named(bootstrap)}
            while RebootstrappingClient.unreached_reason(bootstrap.address) is not None:
                await asyncio.sleep(0.01)
            assert await idle.ready(1)


async def test_a_connection_to_a_former_address_is_closed(bootstrap: NamingBroker, nobody) -> None:
    """It may only look alive, as that to a machine which lost its power does."""
    async with NamingBroker.open() as old:
        bootstrap.named = {1: nobody, 2: named(old)}
        async with client(bootstrap) as moving:
            before = await moving._get_conn(2)
            bootstrap.named = {1: nobody, 2: named(bootstrap)}
            assert await moving._rebootstrap(moving.cluster, set())
            assert not before.connected()
            assert (await moving._get_conn(2)).port == bootstrap.port


async def test_the_bootstrap_addresses_are_asked_with_pauses(
    bootstrap: NamingBroker, nobody
) -> None:
    bootstrap.named = {1: nobody}
    async with client(bootstrap, pause_min_s=60.0) as unlucky:
        assert bootstrap.asked == 1
        for _ in range(20):
            await unlucky.force_metadata_update()
        assert bootstrap.asked == 2


async def test_a_broker_that_is_not_reached_is_named_until_it_is(
    bootstrap: NamingBroker, nobody
) -> None:
    bootstrap.named |= {2: nobody}
    connection = KafkaConnection(bootstrap.address, KafkaSettings())
    async with client(bootstrap) as ours:
        assert RebootstrappingClient.unreached_reason(bootstrap.address) is None
        with pytest.raises(BrokerUnreached) as unreached:
            await ours.send(2, object())
        assert (unreached.value.host, unreached.value.port) == nobody
        assert RebootstrappingClient.unreached_reason(bootstrap.address) is not None
        assert RebootstrappingClient.unreached_reason(bootstrap.address, for_s=60) is None
        await connection.require_reached()
        bootstrap.named |= {2: named(bootstrap)}
        while RebootstrappingClient.unreached_reason(bootstrap.address) is not None:
            await ours.force_metadata_update()


async def test_reachability_is_that_of_the_clients_at_work(
    bootstrap: NamingBroker, nobody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh client would be let in here."""
    monkeypatch.setattr("streams.kafka.connection.PATIENCE_S", 0.0)
    bootstrap.named |= {2: nobody}
    connection = KafkaConnection(bootstrap.address, KafkaSettings())
    async with client(bootstrap) as ours:
        await connection.require_reached()
        assert not await ours.ready(2)
        with pytest.raises(BrokerUnavailable, match=f"broker 2 .* {nobody[0]}:{nobody[1]} "):
            await connection.require_reached()
    # Nobody asks a client that is closed.
    await connection.require_reached()


async def test_a_connection_that_failed_once_is_tried_again_beside_one_that_stands(
    bootstrap: NamingBroker, nobody
) -> None:
    """Nobody may ever ask for it again, as when the coordinator is another broker by now."""
    async with client(bootstrap) as ours:
        assert await ours.ready(1)
        ours.cluster._brokers[1] = ours.cluster.broker_metadata(1)._replace(port=nobody[1])
        assert not await ours.ready(1, group=ConnectionGroup.COORDINATION)
        assert RebootstrappingClient.unreached_reason(bootstrap.address) is not None
        while RebootstrappingClient.unreached_reason(bootstrap.address) is not None:
            await ours.force_metadata_update()
        assert await ours.ready(1, group=ConnectionGroup.COORDINATION)


async def test_an_error_names_what_was_not_reached(bootstrap: NamingBroker, nobody) -> None:
    bootstrap.named |= {2: nobody}
    connection = KafkaConnection(bootstrap.address, KafkaSettings())
    async with client(bootstrap) as ours:
        with pytest.raises(BrokerUnavailable) as told:
            async with connection.errors_translated():
                await ours.send(2, object())
        with pytest.raises(BrokerUnavailable, match=r"advertised\.listeners"):
            async with connection.errors_translated():
                raise TimeoutError
    assert str(told.value) == (
        f"broker 2 cannot be reached at {nobody[0]}:{nobody[1]} (connection refused), the address "
        f"that the Kafka at {bootstrap.address} names for it; set advertised.listeners of broker 2 "
        f"to an address that this machine reaches, or make {nobody[0]}:{nobody[1]} reachable"
    )


async def test_an_address_that_is_silent_is_given_up(bootstrap: NamingBroker, silent) -> None:
    """Plain aiokafka would make this and every connection wait for 40 seconds."""
    bootstrap.named |= {2: silent}
    async with client(bootstrap, connect_s=0.05) as ours:
        assert not await ours.ready(2)
        while not await ours.ready(1):
            pass  # a busy machine may take longer for the one that answers, too


async def test_an_address_that_is_silent_holds_up_no_connection_to_another_broker(
    bootstrap: NamingBroker, silent
) -> None:
    bootstrap.named |= {2: silent}
    async with client(bootstrap) as ours:
        waiting = asyncio.create_task(ours.ready(2))
        await asyncio.sleep(0)
        assert await ours.ready(1)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_connection_that_is_made_while_its_client_closes_is_closed(
    bootstrap: NamingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(bootstrap) as ours:
        connect, go = ours._connect, asyncio.Event()
        made = []

        async def late(*address, **more):
            await go.wait()
            made.append(await connect(*address, **more))
            return made[0]

        monkeypatch.setattr(ours, "_connect", late)
        connecting = asyncio.create_task(ours.ready(1))
        await asyncio.sleep(0)
        await ours.close()
        go.set()
        assert not await connecting
        assert not made[0].connected()


async def test_the_check_before_the_start_names_an_address_that_is_not_reached(
    bootstrap: NamingBroker, nobody
) -> None:
    bootstrap.named = {1: nobody, 2: nobody}
    with pytest.raises(BrokerUnavailable, match=rf"at {nobody[0]}:{nobody[1]} .*advertised\.list"):
        await KafkaConnection(bootstrap.address, KafkaSettings()).require_reachable()


async def test_one_broker_that_is_reached_is_enough_to_start(
    bootstrap: NamingBroker, nobody
) -> None:
    async with NamingBroker.open() as other:
        bootstrap.named = {1: nobody, 2: named(other)}
        await KafkaConnection(bootstrap.address, KafkaSettings()).require_reachable()


async def test_while_even_the_bootstrap_address_is_away_nobody_is_blamed_for_another(
    bootstrap: NamingBroker, nobody
) -> None:
    """The advice on advertised.listeners would be wrong if a broker was merely stopped."""
    bootstrap.named = {1: nobody}
    connection = KafkaConnection(bootstrap.address, KafkaSettings())
    async with client(bootstrap) as ours:
        assert not await ours.ready(1)
        await bootstrap.stop()
        error = RebootstrappingClient.unreached_reason(bootstrap.address)
        while isinstance(error, BrokerUnreached):
            await ours.force_metadata_update()
            error = RebootstrappingClient.unreached_reason(bootstrap.address)
        with pytest.raises(BrokerUnavailable, match=f"no Kafka broker at {bootstrap.address} "):
            async with connection.errors_translated():
                await ours.send(1, object())


async def test_asking_for_reach_lets_clients_try_at_once(
    bootstrap: NamingBroker, nobody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node must not say for seconds that its broker is away when it is back."""
    monkeypatch.setattr("streams.kafka.connection.PATIENCE_S", 0.0)
    monkeypatch.setattr("streams.kafka.connection._TRY_AGAIN_S", 20.0)
    bootstrap.named |= {2: nobody}
    connection = KafkaConnection(bootstrap.address, KafkaSettings())
    async with client(bootstrap, pause_min_s=60.0) as ours:
        assert not await ours.ready(2)
        with pytest.raises(BrokerUnavailable):
            await connection.require_reached()
        bootstrap.named |= {2: named(bootstrap)}
        await connection.require_reached()


async def test_a_broker_that_let_us_in_and_hangs_up_now_is_no_matter_of_the_protocol(
    bootstrap: NamingBroker,
) -> None:
    """Do as a forwarder or a balancer does while nothing is behind it."""
    connection = KafkaConnection(bootstrap.address, KafkaSettings())
    async with client(bootstrap) as ours:
        assert await ours.ready(1)
        bootstrap.hangs_up = True
        bootstrap.hang_up()
        while RebootstrappingClient.unreached_reason(bootstrap.address) is None:
            await asyncio.sleep(0.01)
        with pytest.raises(BrokerUnavailable, match=r"\(the connection was lost\)"):
            async with connection.errors_translated():
                raise TimeoutError
