"""The installed command's roles as processes, for tests that stop, kill and restart them."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from contracts.errors import TidelensError
from contracts.supervision.children import module_command
from tests.kits.kafka import Collection
from tidelens.client import Client

MODEL = "hash"
# Only bounds what never comes: on a loaded machine `up` took more than 40 s to be ready.
PATIENCE_S = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Role:
    """One `tidelens ROLE` process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(
        cls, folder: Path, role: str, *arguments: str, fault: str = "", **environment: str
    ) -> "Role":
        """Start it with these variables; an empty one is not set at all."""
        log = folder / f"{role}-{time.time_ns()}.log"
        variables = {
            **os.environ,
            "TIDELENS_MODEL": MODEL,
            "TIDELENS_LOG_FORMAT": "json",
            "TIDELENS_ENCODE_METRICS_PORT": "0",
            "TIDELENS_ENCODE_SESSION_MS": "1500",
            "TIDELENS_DATA": str(folder / "data"),
            **environment,
        }
        for name in [name for name, value in environment.items() if not value]:
            del variables[name]
        if fault:
            variables["TIDELENS_FAULT"] = fault
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *module_command("tidelens", role, *arguments),
                stdout=output,
                stderr=output,
                env=variables,
            )
        return cls(process, log)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"still running:\n{self.log.read_text()[-3000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal past asyncio, which may reap a child that is just ending, as code 255."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    @property
    def is_stopped(self) -> bool:
        """Return whether a SIGSTOP, its own or another's, has stopped the process."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)
        return False

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def role(
    folder: Path, name: str, *arguments: str, fault: str = "", **environment: str
) -> AsyncIterator[Role]:
    started = await Role.start(folder, name, *arguments, fault=fault, **environment)
    try:
        yield started
    finally:
        await started.kill()


async def said(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one `tidelens` command."""
    process = await asyncio.create_subprocess_exec(
        *module_command("tidelens", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TIDELENS_MODEL": MODEL, **environment},
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def of(kit: Collection, *more: str) -> list[str]:
    """Return the arguments that point a role at the test's own topics."""
    return ["--brokers", kit.connection.brokers, "--topic-prefix", kit.names.prefix, *more]


async def answering(client: Client, process: Role, timeout_s: float = PATIENCE_S) -> None:
    """Wait until the node is ready to search."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if (await client.get("/v1/status"))["ready"]:
                return
        except TidelensError:
            pass
        ended = process.process.returncode is not None
        if ended or time.monotonic() > deadline:
            raise AssertionError(f"not ready:\n{process.log.read_text()[-3000:]}")
        await asyncio.sleep(0.05)
