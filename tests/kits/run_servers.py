"""Servers that a test run starts once, when the first of its processes asks for one: Kafka and S3.

They live in pytest's first process, in a thread with an event loop, so that they outlive the worker
process that asked first. The processes ask over a socket: a line with a name goes in, a line of
JSON with addresses comes out. Topic prefixes and buckets keep the tests apart.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

Start = Callable[[Path, AsyncExitStack], Awaitable[dict[str, Any]]]
# This only bounds what never comes: on a loaded machine a start took more than 60 s.
_READY_S = 180


class RunServers:
    """The servers of one run, in a thread; `close` ends them and the thread."""

    def __init__(self, folder: Path, starts: dict[str, Start]) -> None:
        self.path = folder / "asked"
        self._folder = folder
        self._starts = starts
        self._running: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._ending = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._listening.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as self._stack:
            server = await asyncio.start_unix_server(self._answer, self.path)
            self._listening.set()
            async with server:
                await self._ending.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = (await reader.readline()).decode().strip()
        try:
            answer = await self._started(name)
        except Exception as error:
            answer = {"error": f"{name} did not start: {error!r}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def _started(self, name: str) -> dict[str, Any]:
        if name not in self._running:
            folder = self._folder / name
            folder.mkdir()
            self._running[name] = asyncio.ensure_future(self._starts[name](folder, self._stack))
        return await asyncio.shield(self._running[name])


def addresses(path: Path, name: str) -> dict[str, Any]:
    """Start a server of the run, or wait until it has started; return its addresses."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_READY_S)
        asking.connect(str(path))
        asking.sendall(name.encode() + b"\n")
        with asking.makefile("rb") as answered:
            answer: dict[str, Any] = json.loads(answered.readline())
    assert "error" not in answer, answer["error"]
    return answer
