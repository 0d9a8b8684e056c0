"""Recall over time while rows come and go, after the runbooks of big-ann's streaming track.

    python -m benchmarks.streaming_recall [--quick] [--json FILE] [--plot FILE.svg]

(Simhadri et al. 2024, "Results of the Big ANN: NeurIPS'23 competition", arXiv:2409.17424.) Each
step puts rows in, takes rows out, lets the node rebuild what is due, and asks text queries, whose
answers are compared with the exact ones of the same view:

    window      the oldest rows leave, so that a fixed number stays
    expiration  a row lives 1, 10 or 100 steps or for good (10 : 2 : 1 : 1)
    clusters    whole clusters of similar rows come one after another, and leave in another order
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import clip_like
from benchmarks.filled import DIM, Filled, queries
from benchmarks.plot import Series, plot
from benchmarks.report import Goal, finish, parser
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors
from index_store.merge.run import MergeRunner
from index_store.search.searcher import LocalSearcher
from index_store.segment.file_store import SegmentFileStore

_TARGET = 0.95
_QUERIES = 200
_STEPS = 100
# Of a row: steps and how often.
_LIVES = ((1, 10), (10, 2), (100, 1), (10**9, 1))
_CLUSTERS = 40

# Rows that come and rows that go, by number.
Numbers = NDArray[np.int64]
Step = tuple[Numbers, Numbers]


def window(rows: Vectors) -> Iterator[Step]:
    """A third of all rows stays."""
    size, kept = len(rows) // _STEPS, len(rows) // 3
    for step in range(_STEPS):
        end = (step + 1) * size
        gone = np.arange(max(0, end - size - kept), max(0, end - kept))
        yield np.arange(step * size, end), gone


def expiration(rows: Vectors) -> Iterator[Step]:
    dice, size = np.random.default_rng(4), len(rows) // _STEPS
    lives, often = np.array(_LIVES).T
    ends = np.arange(_STEPS).repeat(size) + dice.choice(
        lives, p=often / often.sum(), size=_STEPS * size
    )
    for step in range(_STEPS):
        yield np.arange(step * size, (step + 1) * size), np.flatnonzero(ends == step)


def clusters(rows: Vectors) -> Iterator[Step]:
    """Yield a cluster a step; from the middle on, one of the first leaves with each that comes."""
    wide = rows.astype(np.float32)
    means = faiss.Kmeans(DIM, _CLUSTERS, seed=1, spherical=True, max_points_per_centroid=256)
    means.train(wide)
    _, found = means.index.search(wide, 1)
    order = np.random.default_rng(6).permutation(_CLUSTERS // 2).tolist()
    for cluster in range(_CLUSTERS):
        leaves = order[cluster - _CLUSTERS // 2] if cluster >= _CLUSTERS // 2 else -1
        yield np.flatnonzero(found == cluster), np.flatnonzero(found == leaves)


RUNBOOKS: dict[str, Callable[[Vectors], Iterator[Step]]] = {
    "window": window,
    "expiration": expiration,
    "clusters": clusters,
}


async def recall(searcher: LocalSearcher, asked: Sequence[VectorQuery]) -> float:
    shares = []
    every = await searcher.search([replace(query, exact=True) for query in asked])
    for query, exact in zip(asked, every, strict=True):
        [answer] = await searcher.search([query])
        right = {hit.id for hit in exact.hits}
        shares.append(len(right & {hit.id for hit in answer.hits}) / max(1, len(right)))
    return float(np.mean(shares))


async def run(name: str, rows: Vectors, asked: list[VectorQuery], folder: Path) -> dict[str, Any]:
    filled, searcher = Filled(), LocalSearcher(target_recall=_TARGET)
    rebuilder = MergeRunner(
        SegmentFileStore(folder / name), recent=searcher.recent_vectors, threads=2
    )
    searcher.serve(filled.index)
    searcher.set_ready()
    dice, found, rebuilds = np.random.default_rng(8), [], 0
    for came, gone in RUNBOOKS[name](rows):
        for batch in filled.batches([f"i{n}" for n in came.tolist()], rows[came]):
            filled.index.apply(batch)
        for n in gone.tolist():
            filled.index.apply(filled.delete(f"i{n}"))
        # The timer's work. A node searches meanwhile; here, before and after are the same step.
        plan = rebuilder.due_merge(filled.index, "images")
        if plan is not None:
            await rebuilder.run(filled.index, "images", plan)
            rebuilds += 1
        some = [asked[n] for n in dice.choice(len(asked), _QUERIES, replace=False)]
        found.append(await recall(searcher, some))
    segments = filled.index.segments_of("images").sealed_segments
    return {
        "runbook": name,
        "rows": len(rows),
        "live_at_end": filled.index.count("images"),
        "steps": len(found),
        "rebuilds": rebuilds,
        "segments": len(segments),
        "lowest": min(found),
        "mean": float(np.mean(found)),
        "last": found[-1],
        "over_time": [round(one, 4) for one in found],
    }


def main() -> None:
    made = parser("streaming_recall", __doc__ or "")
    made.add_argument("--rows", type=int)
    made.add_argument("--plot", type=Path)
    made.add_argument("--runbooks", default=",".join(RUNBOOKS))
    arguments = made.parse_args()
    count = arguments.rows or (60_000 if arguments.quick else 300_000)
    images, texts = clip_like.load()
    rows = np.concatenate(list(clip_like.widened(images, count)))
    asked, table = queries(texts, len(texts)), []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.runbooks.split(","):
            table.append(asyncio.run(run(name, rows, asked, Path(folder))))
            shown = {key: value for key, value in table[-1].items() if key != "over_time"}
            print(shown, flush=True)
    if arguments.plot is not None:
        lines = [
            Series(row["runbook"], [(float(n), one) for n, one in enumerate(row["over_time"])])
            for row in table
        ]
        title = f"recall@10 by step, target {_TARGET}, {count:,} rows in all"
        arguments.plot.write_text(plot(lines, {}, title=title, bottom=0.9))
    goals = [
        Goal(f"{row['runbook']}: lowest recall@10", row["lowest"], _TARGET - 0.02, "higher")
        for row in table
    ]
    finish("streaming_recall", table, goals, arguments.json)


if __name__ == "__main__":
    main()
