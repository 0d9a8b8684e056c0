"""Cost of a rebuild, a snapshot and a restore for clients that search meanwhile.

    python -m benchmarks.rebuild [--quick] [--json FILE] [--plot FILE.svg]

One client searches all the time while 1,000 upserts/s are applied: before, during and after a
rebuild of everything. Then a snapshot to disk against a plain copy of as many bytes, and a restore
up to the first answer.
"""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import clip_like
from benchmarks.filled import Filled, queries
from benchmarks.plot import Series, plot
from benchmarks.report import Goal, finish, parser
from contracts.ports.hit import VectorQuery
from contracts.score import unit
from index_store.merge.run import MergeRunner
from index_store.search.searcher import LocalSearcher
from index_store.segment.file_store import SegmentFileStore
from index_store.snapshot.store import SnapshotStore
from index_store.storage.local import LocalBlobStore
from tidelens.process import gc_pauses

_QUIET_S = 15.0
_UPSERTS_PER_S = 1000
_SLICE = 50
# A searcher at rest between queries: latency, not throughput, is measured.
_PAUSE_S = 0.005


class Traffic:
    """A load of searches and upserts until it is stopped; it takes latencies with their times."""

    def __init__(self, filled: Filled, searcher: LocalSearcher, asked: list[VectorQuery]) -> None:
        self._filled = filled
        self._searcher = searcher
        self._asked = asked
        self.began = time.perf_counter()
        self.samples: list[tuple[float, float]] = []
        self.upserts = 0

    async def search(self) -> None:
        number = 0
        while True:
            began = time.perf_counter()
            await self._searcher.search([self._asked[number % len(self._asked)]])
            self.samples.append((began - self.began, (time.perf_counter() - began) * 1000))
            number += 1
            await asyncio.sleep(_PAUSE_S)

    async def upsert(self, rows: int, vectors: Any) -> None:
        due = time.perf_counter()
        dice = np.random.default_rng(5)
        while True:
            ids = [f"i{n}" for n in dice.integers(rows, size=_SLICE)]
            some = vectors[dice.integers(len(vectors), size=_SLICE)]
            for batch in self._filled.batches(ids, some):
                self._filled.index.apply(batch)
            self.upserts += _SLICE
            due += _SLICE / _UPSERTS_PER_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def index_growing(self, rebuilder: MergeRunner) -> None:
        """Merge growing rows when due, as the timer of a node does."""
        while True:
            await asyncio.sleep(1)
            plan = rebuilder.due_growing_merge(self._filled.index, "images")
            if plan is not None:
                await rebuilder.run(self._filled.index, "images", plan)

    def now(self) -> float:
        return time.perf_counter() - self.began

    def between(self, start: float, end: float) -> list[float]:
        return [ms for at, ms in self.samples if start <= at < end]


def _row(phase: str, values: list[float], **more: Any) -> dict[str, Any]:
    p50, p99, worst = np.percentile(values, [50, 99, 100])
    return {
        "phase": phase,
        "searches": len(values),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": worst,
    } | more


async def measure(
    rows: int, folder: Path, figure: Path | None
) -> tuple[list[dict[str, Any]], list[Goal]]:
    images, texts = clip_like.load()
    filled = Filled()
    rate = filled.fill(clip_like.widened(images, rows))
    print(f"filled {rows} rows at {rate:.0f} records/s")
    searcher, asked = LocalSearcher(), queries(texts, 500)
    spill = SegmentFileStore(folder / "segments")
    rebuilder = MergeRunner(spill, recent=searcher.recent_vectors)
    searcher.serve(filled.index)
    searcher.set_ready()
    for one in asked[:200]:
        await searcher.search([one])
    first = await rebuilder.run(filled.index, "images")
    print(f"first build {first.seconds:.1f} s: {first.kind}")
    traffic = Traffic(filled, searcher, asked)
    running = [
        asyncio.create_task(traffic.search()),
        asyncio.create_task(traffic.upsert(rows, unit(images))),
        asyncio.create_task(traffic.index_growing(rebuilder)),
    ]
    await asyncio.sleep(_QUIET_S)
    begun = traffic.now()
    built = await rebuilder.run(filled.index, "images")
    swapped = traffic.now()
    await asyncio.sleep(_QUIET_S)
    # While a snapshot is written.
    snapshots = SnapshotStore(LocalBlobStore(folder / "store"), "bench-v1/0/0/", spill, kept=1)
    snapshot_at = traffic.now()
    await snapshots.write(filled.index)
    snapshot_s = traffic.now() - snapshot_at
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    quiet = _row("quiet", traffic.between(0, begun))
    during = _row("rebuilding", traffic.between(begun, swapped), seconds=built.seconds)
    swap = _row("swap +-1 s", traffic.between(swapped - 1, swapped + 1))
    after = _row("after", traffic.between(swapped, snapshot_at))
    writing = _row("snapshot", traffic.between(snapshot_at, traffic.now()), seconds=snapshot_s)
    stored = [path for path in (folder / "store").rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in stored) / 1e6
    began = time.perf_counter()
    for number, path in enumerate(stored):
        await asyncio.to_thread(shutil.copyfile, path, folder / f"copy-{number}")
    copy_s = time.perf_counter() - began
    # A restore up to the first answer, as a fresh node makes it.
    digests = filled.index.digests()
    began = time.perf_counter()
    elsewhere = SnapshotStore(LocalBlobStore(folder / "store"), "bench-v1/0/0/", spill, kept=1)
    restored = await elsewhere.restore(filled.index.empty_copy())
    assert restored is not None
    fresh = LocalSearcher()
    fresh.serve(restored)
    fresh.set_ready()
    await fresh.search([asked[0]])
    restore_s = time.perf_counter() - began
    print(f"digests: {digests[0]['digest'] is not None}")
    table = [
        quiet,
        during,
        swap,
        after,
        writing,
        {"phase": "copy of the files", "seconds": copy_s, "MB": megabytes},
        {"phase": "restore to the first answer", "seconds": restore_s, "MB": megabytes},
    ]
    allowed = max(1.5 * quiet["p99_ms"], quiet["p99_ms"] + 5)
    goals = [
        Goal("search p99 while rebuilding, ms", during["p99_ms"], allowed, "lower"),
        Goal("search p99 around the swap, ms", swap["p99_ms"], allowed, "lower"),
        Goal(f"restore of {rows} rows to the first answer, s", restore_s, 5.0, "lower"),
        Goal("longest search while a snapshot is written, ms", writing["max_ms"], 20.0, "lower"),
    ]
    if figure is not None:
        line = Series("search latency, ms", [(at, ms) for at, ms in traffic.samples])
        marks = {"rebuild": begun, "swap": swapped, "snapshot": snapshot_at}
        figure.write_text(plot([line], marks, title=f"Rebuild of {rows:,} rows"))
    return table, goals


def main() -> None:
    made = parser("rebuild", __doc__ or "")
    made.add_argument("--rows", type=int)
    made.add_argument("--plot", type=Path)
    arguments = made.parse_args()
    gc_pauses.shorten_pauses()  # as the node does
    rows = arguments.rows or (100_000 if arguments.quick else 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        table, goals = asyncio.run(measure(rows, Path(folder), arguments.plot))
    finish("rebuild", table, goals, arguments.json)


if __name__ == "__main__":
    main()
