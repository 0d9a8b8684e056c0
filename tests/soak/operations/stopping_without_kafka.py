"""Roles are stopped while Kafka is gone, or hangs.

Each ends with 0 within five seconds, nothing of it is left, and every line of its log is JSON.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import orjson
import psutil

from contracts.errors import TidelensError
from contracts.events.content_event import content_record
from streams.devbroker.broker import LocalBroker
from tests.kits.kafka import Collection, caption, collection
from tests.kits.roles import Role, answering, free_port, of
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

# How long a role may take.
STOP_S = 5.0
# Long enough that clients of Kafka have noticed, and try again.
_GONE_S = 20.0


async def run(ground: Ground) -> Outcome:
    reported, longest_s = [], 0.0
    for fault in ("killed", "paused"):
        broker = await ground.broker(fault)
        async with (
            collection(broker.bootstrap) as kit,
            _running(ground, kit) as (roles, port),
            _gone(broker, fault),
            _publishing(port),
        ):
            for role in roles:
                name = role.log.name.partition("-")[0]
                said, took_s = await _stopped(role)
                reported.append(f"exit code: {name}, Kafka {fault}: {said}")
                longest_s = max(longest_s, took_s)
    return Outcome(reported, longest_s, 0)


@asynccontextmanager
async def _running(ground: Ground, kit: Collection) -> AsyncIterator[tuple[list[Role], int]]:
    """Run all three roles, and yield them with the port of the `index` node."""
    port, topic = free_port(), kit.names.content("captions")
    await kit.log.publish([content_record(topic, caption("before", "calm sea"))])
    roles = [
        await ground.role("encode", *of(kit)),
        await ground.role("index", *of(kit, "--port", str(port))),
        await ground.role(
            "up", *of(kit, "--port", str(free_port())), TIDELENS_DATA=str(ground.folder / "up")
        ),
    ]
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, roles[1])
        query = {"text": "calm sea", "target": "captions", "min_score": 0.9}
        async with asyncio.timeout(60):
            while not (await client.search(query))["hits"]:
                await asyncio.sleep(0.1)
        async with asyncio.timeout(60):
            # Before its first encoder has worked it ends with that one.
            while not all(
                f'"event": "{event}"' in roles[2].log.read_text() for event in ("up", "encoding")
            ):
                await asyncio.sleep(0.1)
    yield roles, port


@asynccontextmanager
async def _gone(broker: LocalBroker, fault: str) -> AsyncIterator[None]:
    assert broker.pid is not None
    if fault == "killed":
        await broker.kill()
    else:
        os.kill(broker.pid, signal.SIGSTOP)
    await asyncio.sleep(_GONE_S)
    try:
        yield
    finally:
        if fault == "paused":
            os.kill(broker.pid, signal.SIGCONT)


@asynccontextmanager
async def _publishing(port: int) -> AsyncIterator[None]:
    """Keep a request open that waits for Kafka when the node is stopped."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        item = {"target": "captions", "id": "x", "text": "lost"}
        asking = asyncio.create_task(http.post(f"http://127.0.0.1:{port}/v1/items", json=item))
        await asyncio.sleep(0.2)
        yield
        with suppress(TidelensError):
            assert (await asking).status_code in (503, 504)


async def _stopped(role: Role) -> tuple[str, float]:
    """Stop it, and return how that went and how long it took. Raises AssertionError."""
    tail = role.log.read_text()[-2000:]
    assert role.process.returncode is None, f"{role.log.name} ended before it was asked: {tail}"
    children = psutil.Process(role.process.pid).children(recursive=True)
    began = time.monotonic()
    role.signal(signal.SIGTERM)
    code = await role.ended(60)
    took_s = time.monotonic() - began
    lines = role.log.read_text().splitlines()
    plain = [line for line in lines if not _is_json(line)]
    await asyncio.sleep(0.5)
    left = [child for child in children if _runs(child)]
    said = f"{code} after {took_s:.1f} s, {len(lines)} lines, {len(plain)} of them not JSON"
    assert (code, plain, left) == (0, [], []), (said, plain[:3], left)
    assert took_s <= STOP_S, said
    return said, took_s


def _runs(child: psutil.Process) -> bool:
    """Return whether it runs; one whose parent is gone may be a zombie that nobody has reaped."""
    with suppress(psutil.NoSuchProcess):
        return bool(child.status() != psutil.STATUS_ZOMBIE)
    return False


def _is_json(line: str) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
