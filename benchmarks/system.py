"""A whole Tidelens in processes of its own, for benchmarks that go through the public API."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil

from contracts.errors import TidelensError
from contracts.supervision.children import module_command
from tidelens.client import Client
from tidelens.runtime.run_file import Runtime


@dataclass(frozen=True, slots=True)
class System:
    """A running `tidelens up`; `ready_s` is from its start to the first answered search."""

    client: Client
    brokers: str
    space: str
    process: psutil.Process
    ready_s: float

    def memory_mib(self) -> dict[str, float]:
        """Return the resident memory of each process in MiB, by its role."""
        found: dict[str, float] = {}
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                role = _role(process.cmdline())
                found[role] = found.get(role, 0) + process.memory_info().rss / 2**20
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all processes so far."""
        total = 0.0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total


def _role(command: list[str]) -> str:
    line = " ".join(command)
    for part, role in (
        ("streams.devbroker.guard", "guard"),
        ("kafka.Kafka", "kafka"),
        ("encode", "encoder"),
        ("spawn_main", "query encoder"),
        ("resource_tracker", "resource tracker"),
    ):
        if part in line:
            return role
    return "index and API"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def system(*arguments: str, wait_s: float = 180) -> AsyncIterator[System]:
    """Run `tidelens up` on an empty data directory, ready to search, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="tidelens-bench-") as folder:
        data, port = Path(folder) / "data", free_port()
        began = time.monotonic()
        command = module_command("tidelens", "up", "--port", str(port))
        log = (Path(folder) / "log").open("wb")
        with log:
            process = subprocess.Popen(
                [*command, "--data", str(data), *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "TIDELENS_LOG_FORMAT": "json"},
            )
        try:
            async with Client(f"http://127.0.0.1:{port}") as client:
                await _ready(client, process, Path(folder) / "log", began + wait_s)
                ready_s = time.monotonic() - began
                runtime = Runtime.read(data)
                assert runtime is not None
                yield System(
                    client, runtime.brokers, runtime.space, psutil.Process(process.pid), ready_s
                )
        finally:
            process.send_signal(signal.SIGINT)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_end, process)


async def _ready(
    client: Client, process: "subprocess.Popen[bytes]", log: Path, deadline: float
) -> None:
    while time.monotonic() < deadline:
        try:
            await client.search({"text": "ready", "k": 1})
            return
        except TidelensError:
            if process.poll() is not None:
                raise RuntimeError(f"up ended:\n{log.read_text()[-2000:]}") from None
            await anyio.sleep(0.1)
    raise TimeoutError(f"up was not ready:\n{log.read_text()[-2000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
