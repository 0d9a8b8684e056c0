"""`tidelens doctor` at a cluster whose brokers are not where it says; the rest needs a real one."""

import socket
from collections.abc import AsyncIterator

import pytest

from contracts.settings import KafkaSettings, Settings
from tests.faults.naming_broker import NamingBroker
from tidelens.cli.doctor import kafka
from tidelens.cli.doctor.finding import Finding

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bootstrap() -> AsyncIterator[NamingBroker]:
    async with NamingBroker.open() as broker:
        yield broker


def nobody() -> tuple[str, int]:
    """Return an address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "127.0.0.1", int(server.getsockname()[1])


async def told(brokers: str) -> list[Finding]:
    # Without a model nothing has a name, so that brokers alone are tried.
    return list(await kafka.broker(Settings(brokers=brokers, model="./none"), KafkaSettings()))


async def test_each_broker_that_is_not_where_it_is_advertised_is_a_failed_line(
    bootstrap: NamingBroker,
) -> None:
    (one, other) = bootstrap.named[2], bootstrap.named[3] = nobody(), nobody()
    first, *rest = await told(bootstrap.address)
    assert (first.state, first.detail) == ("ok", f"{bootstrap.address} answers (as set)")
    assert [finding.state for finding in rest] == ["failed", "failed"]
    for number, (host, port), finding in zip((2, 3), (one, other), rest, strict=True):
        assert finding.detail == (
            f"broker {number} cannot be reached at {host}:{port} (connection refused), the address "
            f"that the Kafka at {bootstrap.address} names for it"
        )
        assert finding.fix is not None
        assert finding.fix.startswith(f"set advertised.listeners of broker {number} ")


async def test_a_name_that_does_not_resolve_is_told_as_one(bootstrap: NamingBroker) -> None:
    bootstrap.named = {1: ("kafka-0.invalid", 9092)}
    _, failed = await told(bootstrap.address)
    assert "kafka-0.invalid:9092 (no such host name)" in failed.detail


async def test_a_name_that_cannot_be_one_is_told_too(bootstrap: NamingBroker) -> None:
    bootstrap.named = {1: ("a..b", 9092)}
    _, failed = await told(bootstrap.address)
    assert "a..b:9092 (not a host name)" in failed.detail


async def test_all_that_are_reached_are_one_line(bootstrap: NamingBroker) -> None:
    _, reached = await told(bootstrap.address)
    assert (reached.state, reached.detail) == (
        "ok",
        f"1 reached as advertised: {bootstrap.address}",
    )


async def test_a_bootstrap_address_that_is_silent_beside_one_that_answers_is_a_warning(
    bootstrap: NamingBroker,
) -> None:
    host, port = nobody()
    _, silent, _ = await told(f"{host}:{port},{bootstrap.address}")
    assert silent.state == "warning"
    assert silent.detail.startswith(f"the bootstrap address {host}:{port} does not answer (conn")
