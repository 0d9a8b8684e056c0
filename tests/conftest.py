"""Fixtures for every test: one event loop backend, blocking calls in it fail, brokers on demand."""

import functools
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from blockbuster import BlockBuster, blockbuster_ctx

from tidelens.process import blas_threads

blas_threads.wait_asleep()

from tests.kits import index_kit  # noqa: E402  imports numpy
from tests.kits.run_servers import RunServers  # noqa: E402

pytest_plugins = ["tests.kits.broker_fixture", "tests.kits.s3_fixture"]
SERVERS = pytest.StashKey[RunServers]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first: as the last one it kept one of two processes for minutes."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_configure(config: pytest.Config) -> None:
    """Let the first process of the run hold the servers that all of its processes share."""
    if not hasattr(config, "workerinput"):
        # Not at the top: pytest rewrites the assertions of plugins that nobody has imported yet.
        from tests.kits.broker_fixture import start_kafka
        from tests.kits.s3_fixture import start_s3

        folder = Path(tempfile.mkdtemp(prefix="tidelens-tests-"))
        starts = {"kafka": start_kafka, "s3": start_s3}
        config.stash[SERVERS] = RunServers(folder, starts)
        config.add_cleanup(functools.partial(shutil.rmtree, folder, ignore_errors=True))
        config.add_cleanup(config.stash[SERVERS].close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker process of xdist where to ask for the servers."""
    node.workerinput["run_servers"] = str(node.config.stash[SERVERS].path)


@pytest.fixture(scope="session")
def run_servers(pytestconfig: pytest.Config) -> Path:
    """Return the socket where a process asks for the run's servers."""
    if hasattr(pytestconfig, "workerinput"):
        return Path(pytestconfig.workerinput["run_servers"])
    return pytestconfig.stash[SERVERS].path


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def spills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write the files of index parts below a folder that pytest cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_kit, "SPILLS", tmp_path_factory.mktemp("spills"))
        yield


@pytest.fixture(autouse=True, scope="session")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide a node that runs on this machine from the tests, and the tests from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_cached_loggers() -> Iterator[None]:
    """Cache no logger: a cached one hides its lines from `capture_logs` in the next test."""
    with pytest.MonkeyPatch.context() as patch:
        configure = structlog.configure

        def uncached(**given: object) -> None:
            configure(**{**given, "cache_logger_on_first_use": False})  # type: ignore[arg-type]

        patch.setattr(structlog, "configure", uncached)
        yield


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command that runs in the test's own process sets up for its log."""
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers, root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    if structlog.get_config() != before[0]:
        structlog.configure(**before[0])
        structlog.contextvars.clear_contextvars()
        logging.captureWarnings(False)
        root.handlers, root.level = before[1:]
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Make a blocking call (sleep, socket, lock) inside the event loop raise BlockingError."""
    with blockbuster_ctx(
        scanned_modules=["contracts", "index_store", "streams", "consumers", "api", "tidelens"]
    ) as detector:
        yield detector
