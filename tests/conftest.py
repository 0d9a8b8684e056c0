"""Fixtures for every test: one event loop backend, blocking calls in it fail, brokers on demand."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from tidelens import spinning

spinning.wait_asleep()

from tests import index_kit  # noqa: E402  imports numpy

pytest_plugins = ["tests.broker_fixture", "tests.s3_fixture"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: as the last one it kept one of two processes for five minutes."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def spills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files of index parts go where pytest cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_kit, "SPILLS", tmp_path_factory.mktemp("spills"))
        yield


@pytest.fixture(autouse=True, scope="session")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A node that runs on this machine is none of our business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """A blocking call (sleep, socket, lock) inside the event loop raises BlockingError."""
    with blockbuster_ctx(
        scanned_modules=["contracts", "index_store", "streams", "consumers", "api", "tidelens"]
    ) as detector:
        yield detector
