"""The real Apache Kafka for tests: one for the whole run, and separate ones that may be killed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from streams.devbroker.broker import LocalBroker, SaslListener

# Compaction at once and cheap internal topics, so that tests need not wait.
FAST = {
    "log.cleaner.backoff.ms": "200",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.min.session.timeout.ms": "1000",
    "log.segment.delete.delay.ms": "100",
    "log.initial.task.delay.ms": "500",
}


@dataclass(frozen=True)
class TestKafka:
    """Addresses of the run's broker."""

    __test__ = False

    bootstrap: str
    sasl_bootstrap: str
    user: str = "tester"
    password: str = "secret"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestKafka]:
    """One broker for the whole run, with a plain and a SASL listener."""
    broker = LocalBroker(tmp_path_factory.mktemp("kafka"), sasl=SaslListener(), extra=FAST)
    # Its own loop, since tests have one each; the guardian needs none between start and stop.
    with asyncio.Runner() as runner:
        runner.run(broker.start())
        yield TestKafka(broker.bootstrap, broker.sasl_bootstrap)
        runner.run(broker.stop())


@pytest.fixture
async def own_kafka(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[LocalBroker]]]:
    """Starts brokers of the test's own, for those that stop or kill one."""
    async with AsyncExitStack() as stack:

        async def start() -> LocalBroker:
            broker = LocalBroker(tmp_path / "own", heap_mb=256, extra=FAST)
            stack.push_async_callback(broker.stop)
            await broker.start()
            return broker

        yield start
