"""Attack a running node while a well-behaved client measures what it notices.

    python -m tests.soak.hostile [--seconds 20] [--only NAME] [--url URL] [--pictures FOLDER]
                                 [--json FILE]

Each attack (tests/faults/hostile_attacks.py) comes from loopback addresses of its own. The requests
of the client (tests/kits/well_behaved_client.py) must take at most twice the time of before, or 50
ms more. The memory of the node and its children, without the broker, must stay within a tenth of
what it was. The exit code is 1 if a goal is missed.
"""

import argparse
import asyncio
import base64
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.report import Goal, finish
from tests.faults import hostile_attacks
from tests.faults.hostile_pictures import KINDS as PICTURE_KINDS
from tests.faults.hostile_pictures import bomb, plain
from tests.kits.raw_http import ask
from tests.kits.roles import Role, free_port
from tests.kits.well_behaved_client import KINDS, WellBehaved, percentiles

_MIB = 2**20
_SEEDS = 2_000
_START_S = 180.0
_CALM_S = 120.0
_WARM_S = 20.0


@dataclass(frozen=True, slots=True)
class Noticed:
    """The results of one attack."""

    rows: Sequence[dict[str, Any]]
    goals: Sequence[Goal]


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[tuple[int, Role]]:
    """Run `tidelens up` with the starter model, and yield its port and process."""
    port = free_port()
    role = await Role.start(folder, "up", "--port", str(port), TIDELENS_MODEL="starter")
    try:
        async with asyncio.timeout(_START_S):
            while not await _ready(port):
                if role.process.returncode is not None:
                    raise SystemExit(f"the node ended:\n{role.log.read_text()[-3000:]}")
                await asyncio.sleep(0.5)
        yield port, role
    finally:
        await role.stop()


async def _ready(port: int) -> bool:
    try:
        return (await ask(port, "GET", "/readyz")).status == 200
    except (OSError, EOFError):
        return False


async def memory_mib(port: int) -> dict[str, float]:
    """Return the resident memory of the node and its children, by role, without Kafka's."""
    text = (await ask(port, "GET", "/metrics")).body.decode()
    used = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "process_resident_memory_bytes":
                used["node"] = sample.value / _MIB
            elif sample.name == "tidelens_child_memory_bytes":
                used[sample.labels["role"]] = sample.value / _MIB
    used.pop("broker", None)
    return used


async def seeded(port: int) -> None:
    """Publish captions and a picture, and query both once, so that all processes are up."""
    captions = [
        {"target": "captions", "id": f"seed-{n}", "text": f"seed {n}", "metadata": {"seed": True}}
        for n in range(_SEEDS)
    ]
    picture = base64.b64encode(plain("PNG", 320, 240)).decode()
    for items in (captions[:1000], captions[1000:], [_picture("picture", picture)]):
        published = await ask(port, "POST", "/v1/items", items)
        if published.status != 200:
            raise SystemExit(f"cannot publish: {published.body!r}")
    for query in ({"image": picture}, {"text": "warm", "target": "captions", "k": 1000}):
        await ask(port, "POST", "/v1/search", query)
    async with asyncio.timeout(_START_S):
        for target, wanted in (("captions", _SEEDS), ("images", 1)):
            while ((await _status(port))["items"] or {}).get(target, 0) < wanted:
                await asyncio.sleep(0.5)


def _picture(item_id: str, image: str) -> dict[str, Any]:
    return {"target": "images", "id": item_id, "image": image}


async def _status(port: int) -> Any:
    return (await ask(port, "GET", "/v1/status")).json()


class Soak:
    """A node, a client that behaves well, and one attack after another."""

    def __init__(self, port: int, seconds: float, folder: Path) -> None:
        self._port = port
        self._seconds = seconds
        self._folder = folder
        self._client = WellBehaved(port)

    async def run(self, names: Sequence[str]) -> list[Noticed]:
        asking = asyncio.create_task(self._client.run())
        try:
            await asyncio.sleep(_WARM_S)
            noticed = []
            for name in names:
                noticed.append(await self._attacked(name))
                if asking.done():
                    asking.result()
            return noticed
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    async def _attacked(self, name: str) -> Noticed:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, name, self._port, self._seconds, str(self._folder))
        process = context.Process(target=hostile_attacks.run, args=arguments, daemon=True)
        process.start()
        theirs.close()
        try:
            await asyncio.to_thread(ours.recv)
            before, memory_before, _ = await self._measured()
            ours.send(True)
            during, peak, failures = await self._measured()
            counts = await asyncio.to_thread(ours.recv)
        finally:
            process.kill()
        memory_after, calm_s = await self._calm(memory_before)
        print(f"{name}: strangers got {counts}; failures of the client {failures}", flush=True)
        rows, goals = [], []
        for kind in KINDS:
            for p, was, now in zip(
                ("p50", "p99"), percentiles(before[kind]), percentiles(during[kind]), strict=True
            ):
                rows.append(
                    {
                        "attack": name,
                        "what": f"{kind} {p}, ms",
                        "before": was,
                        "during": now,
                        "asked": len(during[kind]),
                    }
                )
                bound = max(2 * was, was + 50)
                goals.append(Goal(f"{name}: {kind} {p}, ms", now, bound, "lower"))
        rows += [
            {
                "attack": name,
                "what": f"memory of {role}, MiB",
                "before": memory_before.get(role, 0.0),
                "during": peak.get(role, 0.0),
                "after": memory_after.get(role, 0.0),
                "after_s": calm_s,
            }
            for role in sorted({*memory_before, *peak, *memory_after})
        ]
        bound = 1.1 * sum(memory_before.values())
        after = sum(memory_after.values())
        goals.append(Goal(f"{name}: memory after, MiB", after, bound, "lower"))
        failed = sum(failures.values())
        goals.append(Goal(f"{name}: failed requests", failed, 0, "lower"))
        return Noticed(rows, goals)

    async def _measured(self) -> tuple[dict[str, list[float]], dict[str, float], dict[str, int]]:
        """Measure one period: times and failures by request type, the most memory by role."""
        self._client.take()
        self._client.failures.clear()
        until, most = time.monotonic() + self._seconds, dict[str, float]()
        while time.monotonic() < until:
            for role, size in (await self._memory()).items():
                most[role] = max(most.get(role, 0.0), size)
            await asyncio.sleep(min(2.0, max(0.1, until - time.monotonic())))
        taken, failures = self._client.take(), dict(self._client.failures)
        return {kind: taken.get(kind, []) for kind in KINDS}, most, failures

    async def _memory(self) -> dict[str, float]:
        try:
            return await memory_mib(self._port)
        except (OSError, EOFError, TimeoutError):
            return {}

    async def _calm(self, before: dict[str, float]) -> tuple[dict[str, float], float]:
        """Wait until the memory is near what it was, or for a while; return it and the seconds."""
        began, wanted = time.monotonic(), 1.02 * sum(before.values())
        while True:
            memory, passed = await self._memory(), time.monotonic() - began
            if 0 < sum(memory.values()) <= wanted or passed > _CALM_S:
                return memory, passed
            await asyncio.sleep(2)


async def soak(arguments: argparse.Namespace, folder: Path) -> list[Noticed]:
    names = arguments.only or list(hostile_attacks.ATTACKS)
    pictures = arguments.pictures or folder / "pictures"
    pictures.mkdir(exist_ok=True)
    if any("bombs" in name for name in names):
        for kind in PICTURE_KINDS:
            path = pictures / f"{kind}.bin"
            if not path.exists():
                path.write_bytes(await asyncio.to_thread(bomb, kind))
    if arguments.url:
        port = urlsplit(arguments.url).port or 80
        await seeded(port)
        return await Soak(port, arguments.seconds, pictures).run(names)
    async with node(folder) as (port, role):
        await seeded(port)
        noticed = await Soak(port, arguments.seconds, pictures).run(names)
        lines = role.log.read_bytes().count(b"\n")
        print(f"log: {lines} lines, {role.log.stat().st_size / _MIB:.1f} MiB")
        return noticed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each period")
    parser.add_argument("--only", action="append", choices=list(hostile_attacks.ATTACKS))
    parser.add_argument("--url", help="of a running node on this machine; otherwise one is started")
    parser.add_argument("--pictures", type=Path, help="a folder that keeps them for the next run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    # Asked to stop, it stops its node too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        noticed = asyncio.run(soak(arguments, Path(folder)))
    goals = [goal for each in noticed for goal in each.goals]
    finish("hostile", [row for each in noticed for row in each.rows], goals, arguments.json)
    sys.exit(0 if all(goal.met for goal in goals) else 1)


if __name__ == "__main__":
    main()
