"""Shared by the scenarios about the processes of `up`: which they are, and that searches go on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil

from contracts.errors import TidelensError
from tests.kits.roles import Role
from tidelens.client import Client
from tidelens.runtime.run_file import Runtime

TEXTS = ["a black cat", "a white dog", "a red bicycle"]
ENDED = "a process ended and is started again"
PATIENCE_S = 120


class Watched:
    """One `up`, its processes by role, and what it says of them."""

    def __init__(self, up: Role, client: Client, data: Path) -> None:
        self.up = up
        self.client = client
        self._data = data

    async def parts(self) -> dict[str, dict[str, Any]]:
        ready = await self.client.get("/readyz")
        assert ready["ready"], ready
        return {part["role"]: part for part in ready["parts"]}

    async def until(self, role: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until what /readyz says of a part is so, and return it."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(part := (await self.parts())[role]):
                await asyncio.sleep(0.02)
        return part

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.up.process.pid)
        return [parent, *parent.children(recursive=True)]

    def process(self, role: str) -> psutil.Process:
        """Return the process that has this role now: encode, broker, guard or query."""
        runtime = Runtime.read(self._data)
        assert runtime is not None
        if role == "query":
            [query] = [
                child
                for child in psutil.Process(runtime.pid).children()
                # One that was just killed has no command line until its parent has seen its end.
                if child.status() != psutil.STATUS_ZOMBIE
                and "--multiprocessing-fork" in child.cmdline()
            ]
            return query
        if role == "encode":
            [pid] = [pid for name, pid in runtime.children.items() if name.startswith("encode ")]
            return psutil.Process(pid)
        java = psutil.Process(runtime.children["kafka"])
        guard = java.parent()
        assert guard is not None
        return guard if role == "guard" else java

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log's lines of one event; every line of the log must be JSON."""
        lines = [orjson.loads(line) for line in self.up.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def publish(self, name: str, text: str) -> None:
        """Publish a caption, and wait until it is searchable."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    item = {"target": "captions", "id": name, "text": text}
                    [token] = await self.client.publish(item)
                    break
                except TidelensError:  # Kafka was away a moment ago
                    await asyncio.sleep(0.2)
        await self.client.search({"text": TEXTS[0], "k": 1, "wait_for": token, "timeout_s": 60})


@asynccontextmanager
async def searching(client: Client) -> AsyncIterator[list[float]]:
    """Search all the while, and yield the seconds that each search took; a failure is raised."""
    took: list[float] = []

    async def search() -> None:
        while True:
            for n, text in enumerate(TEXTS):
                began = time.monotonic()
                answer = await client.search({"text": text, "target": "captions", "k": 1})
                assert answer["hits"][0]["id"] == str(n)
                took.append(time.monotonic() - began)
                await asyncio.sleep(0.02)

    running = asyncio.create_task(search())
    try:
        yield took
    finally:
        failed = running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert not failed


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until nothing of them is left."""
    async with asyncio.timeout(PATIENCE_S):
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            await asyncio.sleep(0.05)
