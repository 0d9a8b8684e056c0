"""Fixtures for every test: one event loop backend, blocking calls in it fail, brokers on demand."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

pytest_plugins = ["tests.broker_fixture"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """A blocking call (sleep, socket, lock) inside the event loop raises BlockingError."""
    with blockbuster_ctx(
        scanned_modules=["contracts", "index_store", "streams", "consumers", "api", "tidelens"]
    ) as detector:
        yield detector
