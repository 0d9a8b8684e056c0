"""How much effort an index needs for a recall: measured, on queries like those that come.

Queries are sampled vectors of both targets, since texts asked of pictures are out of the pictures'
distribution and need more effort than a picture's neighbours. Truth is the exact score's.
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
# What a search for 10 nominates (index_store.search.scan).
NOMINATED = 27
# By how coarse the codes are; "fs" (fast scan) is looked for before "PQ".
_DEPTHS = {"SQ": (1, 2), "Flat": (1,), "fs": (1, 2, 4, 8, 16), "PQ": (4, 16, 64)}
# Queries whose time is taken, and how often.
_TIMED = 32
_TIMINGS = 3
_EFFORTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
_GOOD_ENOUGH = 0.998
# Queries of each kind, to measure a known tuning anew and in a sample.
_REMEASURED = 64
_SAMPLED = 4
# An effort that costs more than two exact scans is nobody's choice.
_SCANS = 2
# Float32 sums of 512 products in another order differ by so much; the tenth and the eleventh of
# 100,000 rows by 20 times as much.
_ROUNDING = 2e-5
_BLOCK_ROWS = 16_384


def recall_thresholds(vectors: Vectors, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a row has to score to be among the best K of each query (q, dim): shape (q, 1)."""
    best = np.full((len(queries), K), -np.inf, np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        here = queries @ vectors[start : start + _BLOCK_ROWS].astype(np.float32).T
        best = np.partition(np.hstack([best, here]), -K, axis=1)[:, -K:]
    wanted = min(K, len(vectors))
    bar: NDArray[np.float32] = np.sort(best, axis=1)[:, -wanted, None] - _ROUNDING
    return bar


@dataclass(frozen=True, slots=True)
class TuningQueries:
    """Queries (q, dim) with what is right for them; those of each kind end at `ends`."""

    queries: NDArray[np.float32]
    bars: NDArray[np.float32]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, vectors: Vectors, kinds: Sequence[Vectors]) -> "TuningQueries":
        queries = np.concatenate(list(kinds)).astype(np.float32)
        ends = np.cumsum([len(some) for some in kinds])[:-1]
        return cls(queries, recall_thresholds(vectors, queries), ends)

    def recalls(self, ann: AnnIndex, effort: int, depth: int) -> NDArray[np.float64]:
        """Of each query: by scores, since among equal rows (the same picture, published often)
        any is right."""
        scores, _ = ann.search_with(self.queries, NOMINATED, depth, effort)
        wanted = min(K, ann.rows)
        right: NDArray[np.float64] = (scores[:, :wanted] >= self.bars).mean(axis=1)
        return right

    def recall(self, ann: AnnIndex, effort: int, depth: int) -> float:
        """Of the kind of queries that is served worst."""
        found = np.split(self.recalls(ann, effort, depth), self.ends)
        return min(float(some.mean()) for some in found)

    def ms(self, ann: AnnIndex, effort: int, depth: int) -> float:
        """Of a query. One by one, as they mostly come: Faiss reads lists in another way for many.
        The least of some rounds counts, whatever else runs."""
        asked = self.queries[:: max(1, len(self.queries) // _TIMED)]
        rounds = []
        for _ in range(_TIMINGS):
            began = perf_counter()
            for n in range(len(asked)):
                ann.search_with(asked[n : n + 1], NOMINATED, depth, effort)
            rounds.append((perf_counter() - began) / len(asked) * 1000)
        return min(rounds)


def measure_points(
    ann: AnnIndex, vectors: Vectors, kinds: Sequence[Vectors]
) -> list[OperatingPoint]:
    """Operating points worth having, cheapest first: each reaches more than those before.

    A point's recall is that of the kind of queries which it serves worst.
    """
    if not kinds:
        return []
    trial, points = TuningQueries.of(vectors, kinds), list[OperatingPoint]()
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
    ann: AnnIndex, vectors: Vectors, kinds: Sequence[Vectors]
) -> list[OperatingPoint]:
    """The points of `ann`, with the recall that they reach on these vectors; costs as they were.

    On fewer queries, since searches wait for it: known to two percent.
    """
    if not kinds:
        return ann.points
    trial = TuningQueries.of(vectors, [some[:_REMEASURED] for some in kinds])
    return [
        replace(point, recall=trial.recall(ann, point.effort, point.depth)) for point in ann.points
    ]


def sample_queries(kinds: Sequence[Vectors]) -> list[Vectors]:
    """A few queries of each kind, on which whoever opens the same files finds the same."""
    return [some[:_SAMPLED] for some in kinds]


def best_recall(points: Sequence[OperatingPoint]) -> float:
    """The highest recall of any; 0 where none was measured."""
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
