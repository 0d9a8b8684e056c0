"""Tuning: the effort that an index needs for a recall, measured on queries like the real ones.

Queries are sampled vectors of both targets and the latest real queries: a text asked of pictures is
outside the pictures' distribution and needs more effort than another picture. The exact scores
decide which rows are right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors
from index_store.ann.faiss_index import SCANNED_ROW_MS, AnnIndex, OperatingPoint

K = 10
# The number of rows that a search for 10 nominates (index_store.search.scan).
NOMINATED = 27
# The depths to try, by how coarse the codes are; "fs" (fast scan) is looked for before "PQ".
_DEPTHS = {"SQ": (1, 2), "Flat": (1,), "fs": (1, 2, 4, 8, 16), "PQ": (4, 16, 64)}
# The number of queries that are timed, and of rounds.
_TIMED = 32
_TIMINGS = 3
_EFFORTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
_GOOD_ENOUGH = 0.998
# The number of queries from each source, to measure known points again and for a sample.
_REMEASURED = 64
_SAMPLED = 4
# An effort that costs more than two exact scans is never chosen.
_SCANS = 2
# Float32 sums of 512 products differ by so much when their order does. The scores of the tenth and
# the eleventh of 100,000 rows differ by 20 times as much.
_ROUNDING = 2e-5
_BLOCK_ROWS = 16_384


def recall_thresholds(vectors: Vectors, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the score that puts a row among the best K of each query (q, dim): shape (q, 1)."""
    best = np.full((len(queries), K), -np.inf, np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        here = queries @ vectors[start : start + _BLOCK_ROWS].astype(np.float32).T
        best = np.partition(np.hstack([best, here]), -K, axis=1)[:, -K:]
    wanted = min(K, len(vectors))
    bar: NDArray[np.float32] = np.sort(best, axis=1)[:, -wanted, None] - _ROUNDING
    return bar


@dataclass(frozen=True, slots=True)
class TuningQueries:
    """Queries (q, dim) from several sources, with the scores that right answers reach.

    `bars` (q, 1) are these scores; the queries of each source but the last end at `ends`.
    """

    queries: NDArray[np.float32]
    bars: NDArray[np.float32]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, vectors: Vectors, sources: Sequence[Vectors]) -> "TuningQueries":
        """Return the queries of all `sources` (each (n, dim)), answered from `vectors`."""
        queries = np.concatenate(list(sources)).astype(np.float32)
        ends = np.cumsum([len(some) for some in sources])[:-1]
        return cls(queries, recall_thresholds(vectors, queries), ends)

    def recalls(self, ann: AnnIndex, effort: int, depth: int) -> NDArray[np.float64]:
        """Return the recall of each query: shape (q,).

        Scores decide, since among rows of equal vectors, as of one picture published often, any is
        right.
        """
        scores, _ = ann.search_with(self.queries, NOMINATED, depth, effort)
        wanted = min(K, ann.rows)
        right: NDArray[np.float64] = (scores[:, :wanted] >= self.bars).mean(axis=1)
        return right

    def recall(self, ann: AnnIndex, effort: int, depth: int) -> float:
        """Return the recall of the source of queries with the lowest."""
        found = np.split(self.recalls(ann, effort, depth), self.ends)
        return min(float(some.mean()) for some in found)

    def ms(self, ann: AnnIndex, effort: int, depth: int) -> float:
        """Return the milliseconds that a query takes.

        Queries are asked one by one, as most come; Faiss reads lists in another way for many. The
        fastest round counts, as other work may slow a round down.
        """
        asked = self.queries[:: max(1, len(self.queries) // _TIMED)]
        rounds = []
        for _ in range(_TIMINGS):
            began = perf_counter()
            for n in range(len(asked)):
                ann.search_with(asked[n : n + 1], NOMINATED, depth, effort)
            rounds.append((perf_counter() - began) / len(asked) * 1000)
        return min(rounds)


def measure_points(
    ann: AnnIndex, vectors: Vectors, sources: Sequence[Vectors]
) -> list[OperatingPoint]:
    """Measure operating points; return those worth having, cheapest first.

    `vectors` (n, dim) are the rows of `ann`, `sources` vectors of queries, each (q, dim). Each
    point reaches more recall than those before it. A point's recall is that of the source of
    queries which it serves worst.
    """
    if not sources:
        return []
    trial, points = TuningQueries.of(vectors, sources), list[OperatingPoint]()
    dearer_than_a_scan = _SCANS * SCANNED_ROW_MS * ann.rows
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for effort in [one for one in _EFFORTS if one < ann.effort_max] + [ann.effort_max]:
            here = [
                OperatingPoint(
                    effort, depth, trial.recall(ann, effort, depth), trial.ms(ann, effort, depth)
                )
                for depth in _depths(ann.index_type)
            ]
            points += here
            if here[-1].recall >= _GOOD_ENOUGH or here[0].ms > dearer_than_a_scan:
                break
    finally:
        faiss.omp_set_num_threads(threads)
    return _worth_having(points)


def remeasure_points(
    ann: AnnIndex, vectors: Vectors, sources: Sequence[Vectors]
) -> list[OperatingPoint]:
    """Return the points of `ann` with the recall that they reach on these vectors (n, dim).

    Costs stay as they were. There are fewer queries than in `measure_points`, since searches wait
    for the result: recall is known to two percent.
    """
    if not sources:
        return ann.points
    trial = TuningQueries.of(vectors, [some[:_REMEASURED] for some in sources])
    return [
        replace(point, recall=trial.recall(ann, point.effort, point.depth)) for point in ann.points
    ]


def sample_queries(sources: Sequence[Vectors]) -> list[Vectors]:
    """Return the first queries of each source: every process that reads the files has the same."""
    return [some[:_SAMPLED] for some in sources]


def best_recall(points: Sequence[OperatingPoint]) -> float:
    """Return the highest recall of the points, or 0 without points."""
    return max((point.recall for point in points), default=0.0)


def _depths(index_type: str) -> Sequence[int]:
    for name, depths in _DEPTHS.items():
        if name in index_type.rpartition(",")[2]:
            return depths
    return (1, 4, 16)


def _worth_having(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    kept: list[OperatingPoint] = []
    for point in sorted(points, key=lambda point: point.ms):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return kept
