"""Measure one system of benchmarks.index_search in a process of its own.

The command is `python -m benchmarks.searching NAME ROWS`.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks import clip_like
from benchmarks.contender import FIELDS, TARGETS, Contender
from benchmarks.contenders import make
from contracts.score import Vectors, unit
from tidelens.process import gc_pauses

_SECONDS = 4.0
_UPSERTS_PER_S = 1000
_SLICE = 50


def truth(rows: Vectors, queries: Vectors) -> NDArray[np.int64]:
    """Return the numbers of the best ten rows (or of all) for each query."""
    wide, count = queries.astype(np.float32), min(10, len(rows))
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), 16_384):
        here = wide @ rows[start : start + 16_384].astype(np.float32).T
        row_numbers = np.broadcast_to(np.arange(start, start + here.shape[1]), here.shape)
        scores, numbers = np.hstack([scores, here]), np.hstack([numbers, row_numbers])
        best = np.argpartition(scores, -count, axis=1)[:, -count:]
        scores = np.take_along_axis(scores, best, axis=1)
        numbers = np.take_along_axis(numbers, best, axis=1)
    return numbers


def recall(system: Contender, queries: Vectors, right: NDArray[np.int64]) -> float:
    found = [system.search(query) for query in queries]
    return float(
        np.mean([len({*f} & {*r}) / len(r) for f, r in zip(found, right.tolist(), strict=True)])
    )


def rate(search: Callable[[Vectors], object], queries: Vectors, clients: int) -> dict[str, float]:
    """Return QPS, and p50 and p99 in milliseconds."""
    until = time.perf_counter() + _SECONDS

    def client(number: int) -> list[float]:
        taken: list[float] = []
        while (began := time.perf_counter()) < until:
            search(queries[(number + len(taken) * clients) % len(queries)])
            taken.append(time.perf_counter() - began)
        return taken

    with ThreadPoolExecutor(clients) as pool:
        taken = [one for some in pool.map(client, range(clients)) for one in some]
    p50, p99 = np.percentile(taken, [50, 99]) * 1000
    return {"qps": len(taken) / _SECONDS, "p50": p50, "p99": p99}


async def async_rate(system: Any, queries: Vectors, clients: int) -> dict[str, float]:
    until = time.perf_counter() + _SECONDS
    taken: list[float] = []

    async def client(number: int) -> None:
        n = number
        while (began := time.perf_counter()) < until:
            await system.search_async(queries[n % len(queries)])
            taken.append(time.perf_counter() - began)
            n += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    p50, p99 = np.percentile(taken, [50, 99]) * 1000
    return {"qps": len(taken) / _SECONDS, "p50": p50, "p99": p99}


class Ingest:
    """A thread that makes 1,000 upserts/s of rows that exist, or as many as the system can."""

    def __init__(self, system: Contender, rows: Vectors) -> None:
        self._system = system
        self._rows = rows
        self._stop = threading.Event()
        self.done = 0
        self.rate = 0.0

    def __call__(self) -> None:
        dice, due = np.random.default_rng(3), time.perf_counter()
        began = due
        while not self._stop.is_set():
            ids = np.unique(dice.integers(len(self._rows), size=_SLICE))
            try:
                self._system.upsert(ids, self._rows[(ids + 7) % len(self._rows)])
            except Exception as error:
                # The row says 0 upserts/s, which is what the system then does.
                print(f"upsert failed: {error}", file=sys.stderr)
                self.rate = 0.0
                return
            self.done += len(ids)
            due += len(ids) / _UPSERTS_PER_S
            self._stop.wait(max(0.0, due - time.perf_counter()))
        self.rate = self.done / (time.perf_counter() - began)

    def stop(self) -> None:
        self._stop.set()


def filtered(system: Contender, rows: Vectors, asked: Vectors) -> dict[str, float]:
    """Return QPS of one client and recall, with filters that admit half of the rows or less."""
    found: dict[str, float] = {}
    for field, modulus in FIELDS.items() if system.filters else ():
        # Row n has n modulo this in the field.
        right = truth(rows[::modulus], asked) * modulus
        system.condition = field
        [one] = system.rates(asked, rate, async_rate, clients=(1,))
        found |= {f"qps_{field}": one["qps"], f"recall_{field}": recall(system, asked, right)}
    system.condition = None
    return found


def measure(name: str, count: int) -> list[dict[str, Any]]:
    images, texts = clip_like.load()
    rows = np.concatenate(list(clip_like.widened(images, count)))
    queries = unit(texts)
    asked = queries[:300]
    right = truth(rows, asked)
    before = psutil.Process().memory_info().rss
    system = make(name)
    gc_pauses.shorten_pauses()  # as the node does
    began = time.perf_counter()
    system.build(rows, asked)
    build_s = time.perf_counter() - began
    table = []
    for target in TARGETS:
        system.tune(target, lambda: recall(system, asked, right))
        found = recall(system, asked, right)
        one, many = system.rates(asked, rate, async_rate)
        table.append(
            {
                "system": name,
                "rows": count,
                "target": target,
                "recall": found,
                "qps_1": one["qps"],
                "p50_1": one["p50"],
                "p99_1": one["p99"],
                "qps_8": many["qps"],
                "p99_8": many["p99"],
                "build_s": build_s,
            }
            | filtered(system, rows, asked)
        )
    memory = psutil.Process().memory_info().rss - before
    system.delete(np.arange(0, count, 10))
    for row in table:
        system.tune(row["target"], None)
        ingest = Ingest(system, rows)
        under = system.rate_under(ingest, asked, rate, async_rate)
        row |= {
            "qps_ingest": under["qps"],
            "p99_ingest": under["p99"],
            "upserts_per_s": ingest.rate,
            "memory_MB": memory / 1e6,
        }
    return table


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
