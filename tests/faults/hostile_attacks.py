"""Attacks on a node, each from loopback addresses of its own, in a process of its own.

An attack ends with its time, is bounded in what it opens and sends, and counts the answers it got.
"""

import asyncio
import base64
import contextlib
import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.kits.raw_http import Link, ask, request

HALF_OPEN_MAX = 20_000
BODIES = 60


@dataclass
class Attack:
    """An attack: its target, its end, and what came of it."""

    port: int
    until: float
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def together(self, workers: int, once: Callable[[int], Awaitable[None]]) -> None:
        """Run `once` again and again until the end, in `workers` tasks, and count its results."""

        async def work(number: int) -> None:
            while self.goes_on:
                try:
                    await once(number)
                except (OSError, EOFError, TimeoutError, WebSocketException) as error:
                    self.counts[type(error).__name__] += 1
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(max(0.0, self.until - time.monotonic()) + 5):
            await asyncio.gather(*(work(number) for number in range(workers)))

    async def post(self, path: str, body: Any, address: str) -> bytes:
        answer = await ask(self.port, "POST", path, body, address=address)
        code = "" if answer.status == 200 else f" {answer.json().get('code')}"
        self.counts[f"{answer.status}{code}"] += 1
        return answer.body

    def bombs(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.folder.glob("*.bin"))]


async def nothing(attack: Attack) -> None:
    """Wait without attacking, which shows what the machine alone does to a well-behaved client."""
    await asyncio.sleep(max(0.0, attack.until - time.monotonic()))


async def query_bombs(attack: Attack) -> None:
    """Send pictures of 49 megapixels in a few kilobytes, eight at a time, as queries."""
    bodies = [{"image": base64.b64encode(bomb).decode()} for bomb in attack.bombs()]

    async def once(number: int) -> None:
        body = bodies[(number + sum(attack.counts.values())) % len(bodies)]
        await attack.post("/v1/search", body, "127.0.0.2")

    await attack.together(8, once)


async def huge_answers(attack: Attack) -> None:
    """Send 64 queries for 1,000 vectors each, and then as many as the node admits."""
    query = {"text": "x", "target": "captions", "k": 1000, "include": ["vector"]}
    most = 64

    async def once(number: int) -> None:
        nonlocal most
        body = await attack.post("/v1/search", [query] * (64 if number == 0 else most), "127.0.0.3")
        if number and not body.startswith(b"["):
            most = max(1, most // 2)

    await attack.together(4, once)


async def huge_live_answers(attack: Attack) -> None:
    """Open 20 sockets with ten subscriptions to 1,000 vectors each; half of them do not read."""
    query = {"target": "captions", "k": 1000, "include": ["vector"]}

    async def once(number: int) -> None:
        url = f"ws://127.0.0.1:{attack.port}/v1/live"
        async with connect(
            url, max_size=None, compression=None, proxy=None, local_addr=("127.0.0.4", 0)
        ) as socket:
            for sub in range(10):
                asked = {**query, "text": f"{number} {sub}"}
                message = {"op": "subscribe", "sub": str(sub), "query": asked}
                await socket.send(orjson.dumps(message).decode())
            if number % 2:
                await asyncio.sleep(max(0.0, min(5.0, attack.until - time.monotonic())))
                socket.transport.abort()
                return
            async with asyncio.timeout(5):
                for _ in range(10):
                    received = orjson.loads(await socket.recv())
                    attack.counts[f"{received['type']} {received.get('code', '')}".strip()] += 1

    await attack.together(20, once)


async def slow_readers(attack: Attack) -> None:
    """Run 100 clients that ask for 1,000 items and never read the answer."""
    body = orjson.dumps({"text": "x", "target": "captions", "k": 1000})

    async def once(number: int) -> None:
        async with await Link.open(attack.port, f"127.0.0.{32 + number % 4}") as link:
            link.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(10):
                link.writer.write(request("POST", "/v1/search", body))
            attack.counts["asked"] += 1
            await asyncio.sleep(max(0.0, min(15.0, attack.until - time.monotonic())))

    await attack.together(100, once)


async def half_open(attack: Attack) -> None:
    """Open 20,000 connections with half a header, and open them again when they are closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = min(HALF_OPEN_MAX, hard - 500)

    async def once(number: int) -> None:
        await asyncio.sleep(number / 4000)
        async with await Link.open(attack.port, f"127.0.0.{64 + number % 8}") as link:
            attack.counts["opened"] += 1
            link.writer.write(request("GET", "/healthz")[:-2])
            async with asyncio.timeout(max(0.0, attack.until - time.monotonic())):
                answer = await link.reader.read(1000)
                attack.counts[answer[9:12].decode() or "closed"] += 1

    await attack.together(most, once)


async def endless_bodies(attack: Attack) -> None:
    """Send 60 bodies of 30 MB that never end, and send them again when they are refused."""
    size = 30_000_000
    head = request("POST", "/v1/search", b"{}").partition(b"content-length")[0]
    head += f"content-length: {size}\r\n\r\n".encode()
    piece = b" " * 100_000

    async def once(number: int) -> None:
        async with await Link.open(attack.port, f"127.0.0.{96 + number % 4}") as link:
            attack.counts["begun"] += 1
            link.writer.write(head)
            with contextlib.suppress(OSError):
                for _ in range(size // len(piece) - 1):
                    link.writer.write(piece)
                    await link.writer.drain()
            async with asyncio.timeout(max(0.0, attack.until - time.monotonic())):
                answer = await link.reader.read(1000)
                attack.counts[answer[9:12].decode() or "closed"] += 1
            await asyncio.sleep(0.5)

    await attack.together(BODIES, once)


async def metadata_names(attack: Attack) -> None:
    """Publish captions with 1,100 names of metadata, and others with 100 names of their own."""
    made = 0

    async def once(number: int) -> None:
        nonlocal made
        names = 1100 if number == 0 else 100
        items = []
        for _ in range(20):
            made += 1
            metadata = {f"n{made}_{n}": n for n in range(names)}
            items.append(
                {
                    "target": "captions",
                    "id": f"names-{made % 60}",
                    "text": "x",
                    "metadata": metadata,
                }
            )
        await attack.post("/v1/items", items, "127.0.0.5")
        await asyncio.sleep(0.2)

    await attack.together(2, once)


async def content_bombs(attack: Attack) -> None:
    """Publish about a hundred bombs as content, of every type."""
    bombs = attack.bombs()

    async def once(number: int) -> None:
        place = sum(attack.counts.values())
        if place >= 100:
            await asyncio.sleep(0.5)
            return
        bomb = bombs[place % len(bombs)] + b"%d" % place
        image = base64.b64encode(bomb).decode()
        item = {"target": "images", "id": f"bomb-{place}", "image": image}
        await attack.post("/v1/items", [item], "127.0.0.6")

    await attack.together(2, once)


async def references(attack: Attack) -> None:
    """References to four names of one stranger's domain, none of which ever answers."""
    made = 0

    async def once(number: int) -> None:
        nonlocal made
        made += 1
        if made > 400:
            await asyncio.sleep(0.5)
            return
        ref = f"https://{'abcd'[made % 4]}.stranger.example/{made}.png"
        item = {
            "target": "images",
            "id": f"reference-{made}",
            "image": {"ref": ref, "sha256": f"{made:064x}"},
        }
        await attack.post("/v1/items", [item], "127.0.0.7")

    await attack.together(4, once)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "nothing": nothing,
    "query bombs": query_bombs,
    "huge answers": huge_answers,
    "huge live answers": huge_live_answers,
    "slow readers": slow_readers,
    "half-open": half_open,
    "endless bodies": endless_bodies,
    "metadata names": metadata_names,
    "references": references,
    "content bombs": content_bombs,
}


def run(pipe: Connection, name: str, port: int, seconds: float, folder: str) -> None:
    """Report that it is ready, wait for the start, attack, and send what came of it."""
    # Another machine's work in truth: it must not take the processor from the node and the client.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    attack = Attack(port, 0.0, Path(folder))
    attack.bombs()
    pipe.send(True)
    pipe.recv()
    attack.until = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        asyncio.run(_run(attack, name))
    pipe.send(dict(attack.counts))


async def _run(attack: Attack, name: str) -> None:
    await ATTACKS[name](attack)
