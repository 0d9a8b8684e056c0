"""The real Apache Kafka for tests: one for the whole run, and separate ones that may be killed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from streams.devbroker.broker import LocalBroker, SaslListener
from tests.kits.run_servers import addresses

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
    """Addresses of the run's broker, and the folder of its files."""

    __test__ = False

    bootstrap: str
    sasl_bootstrap: str
    folder: str
    user: str = "tester"
    password: str = "secret"


async def start_kafka(folder: Path, stack: AsyncExitStack) -> dict[str, str]:
    """Start the run's broker, with a plain and a SASL listener; `stack` stops it."""
    broker = LocalBroker(folder, sasl=SaslListener(), extra=FAST)
    stack.push_async_callback(broker.stop)
    await broker.start()
    return {
        "bootstrap": broker.bootstrap,
        "sasl_bootstrap": broker.sasl_bootstrap,
        "folder": str(folder),
    }


@pytest.fixture(scope="session")
def kafka(run_servers: Path) -> TestKafka:
    """Return the one broker of the whole run, which all of its processes share."""
    return TestKafka(**addresses(run_servers, "kafka"))


@pytest.fixture
async def own_kafka(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[LocalBroker]]]:
    """Return what starts a broker of the test's own, for tests that stop or kill one."""
    async with AsyncExitStack() as stack:

        async def start() -> LocalBroker:
            broker = LocalBroker(tmp_path / "own", heap_mb=256, extra=FAST)
            stack.push_async_callback(broker.stop)
            await broker.start()
            return broker

        yield start
