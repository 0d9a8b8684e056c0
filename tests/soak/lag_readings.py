"""Shared by the lag scenarios: `tidelens lag` in another process, and the metrics of a node."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families

from tests.kits.roles import said
from tidelens.client import Client

PATIENCE_S = 90.0


async def read_lag(address: str, *more: str) -> dict[str, Any]:
    """Return what an operator's `tidelens lag --json` says."""
    code, out, error = await said("lag", "--json", "--brokers", address, *more)
    assert code == 0, error
    answer: dict[str, Any] = orjson.loads(out)
    return answer


async def lag_until(
    address: str, reached: Callable[[dict[str, Any]], bool]
) -> tuple[dict[str, Any], float]:
    """Return the first answer that `reached` accepts, and the seconds until it came."""
    began, answer = time.monotonic(), await read_lag(address)
    while not reached(answer):
        assert time.monotonic() - began < PATIENCE_S, answer
        await asyncio.sleep(0.2)
        answer = await read_lag(address)
    return answer, time.monotonic() - began


def members_of(answer: dict[str, Any], group: str) -> set[int | None]:
    return {row["members"] for row in answer["partitions"] if row["group"] == group}


async def metric(port: int, name: str, **labels: str) -> float | None:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


async def published(client: Client, first: int, count: int, *, waited: bool = True) -> None:
    """Publish captions, and wait until the node has them."""
    items = [
        {"target": "captions", "id": f"{n}", "text": f"item {n}"}
        for n in range(first, first + count)
    ]
    for token in await client.publish(items):
        if waited:
            await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 60})


async def captions_of(client: Client) -> int:
    status = await client.get("/v1/status")
    return int(status["items"]["captions"])
