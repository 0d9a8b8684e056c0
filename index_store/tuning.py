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
from index_store.ann import Ann, Operating
from index_store.flat import Flat
from index_store.parts import SCANNED_ROW_MS

K = 10
# What a search for 10 nominates (index_store.scan).
NOMINATED = 27
# By how coarse the codes are; "fs" (fast scan) is looked for before "PQ".
_DEPTHS = {"SQ": (1, 2), "Flat": (1,), "fs": (1, 2, 4, 8, 16), "PQ": (4, 16, 64)}
# Queries whose time is taken, and how often.
_TIMED = 32
_TIMINGS = 3
_EFFORTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
_GOOD_ENOUGH = 0.998
# Queries of each kind in a sample.
_SAMPLED = 4
# An effort that costs more than a few exact scans is nobody's choice.
_SCANS = 4
_BLOCK_ROWS = 16_384


def truth(vectors: Vectors, queries: Vectors) -> NDArray[np.int64]:
    """The best K rows of each query by float32 scores: shape (q, K).

    Float32 suffices: recall counts rows, and near ties exchange only equals.
    """
    wide = queries.astype(np.float32)
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS].astype(np.float32)
        here = wide @ block.T
        scores = np.hstack([scores, here])
        places = np.arange(start, start + len(block))
        numbers = np.hstack([numbers, np.broadcast_to(places, here.shape)])
        best = np.argsort(-scores, axis=1)[:, :K]
        scores = np.take_along_axis(scores, best, axis=1)
        numbers = np.take_along_axis(numbers, best, axis=1)
    return numbers


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries (q, dim) with their right answers (q, K); those of each kind end at `ends`."""

    queries: NDArray[np.float32]
    wanted: NDArray[np.int64]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, vectors: Vectors, kinds: Sequence[Vectors]) -> "Trial":
        queries = np.concatenate(list(kinds))
        ends = np.cumsum([len(some) for some in kinds])[:-1]
        return cls(queries.astype(np.float32), truth(vectors, queries), ends)

    def recall(self, ann: Ann, effort: int, depth: int) -> float:
        """Of the kind of queries that is served worst."""
        _, found = ann.search_with(self.queries, NOMINATED, depth, effort)
        hits = [
            len(np.intersect1d(*pair)) / self.wanted.shape[1]
            for pair in zip(found[:, :K], self.wanted, strict=True)
        ]
        return min(float(np.mean(some)) for some in np.split(np.array(hits), self.ends))

    def ms(self, ann: Ann, effort: int, depth: int) -> float:
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


def measure(ann: Ann, vectors: Vectors, kinds: Sequence[Vectors]) -> list[Operating]:
    """Operating points worth having, cheapest first: each reaches more than those before.

    A point's recall is that of the kind of queries which it serves worst.
    """
    if not kinds:
        return []
    trial, points = Trial.of(vectors, kinds), list[Operating]()
    dearer_than_a_scan = _SCANS * SCANNED_ROW_MS * ann.rows
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for effort in [one for one in _EFFORTS if one < ann.effort_max] + [ann.effort_max]:
            here = [
                Operating(
                    effort, depth, trial.recall(ann, effort, depth), trial.ms(ann, effort, depth)
                )
                for depth in _depths(ann.kind)
            ]
            points += here
            if here[-1].recall >= _GOOD_ENOUGH or here[0].ms > dearer_than_a_scan:
                break
    finally:
        faiss.omp_set_num_threads(threads)
    return _worth_having(points)


def measured_anew(ann: Ann, vectors: Vectors, kinds: Sequence[Vectors]) -> list[Operating]:
    """The points of `ann`, with the recall that they reach on these vectors; costs as they were."""
    if not kinds:
        return ann.points
    trial = Trial.of(vectors, kinds)
    return [
        replace(point, recall=trial.recall(ann, point.effort, point.depth)) for point in ann.points
    ]


def sample(ann: Ann, rows: Flat, kinds: Sequence[Vectors]) -> float:
    """Recall of a few queries at the last point: the same for whoever opens the same files."""
    some = np.concatenate([kind[:_SAMPLED] for kind in kinds]).astype(np.float32)
    point = ann.points[-1]
    _, right = rows.search(some, min(K, ann.rows))
    _, found = ann.search_with(some, NOMINATED, point.depth, point.effort)
    return float(np.mean([np.isin(*pair).mean() for pair in zip(right, found[:, :K], strict=True)]))


def best(points: Sequence[Operating]) -> float:
    """The highest recall of any; 0 where none was measured."""
    return max((point.recall for point in points), default=0.0)


def _depths(kind: str) -> Sequence[int]:
    for name, depths in _DEPTHS.items():
        if name in kind.rpartition(",")[2]:
            return depths
    return (1, 4, 16)


def _worth_having(points: Sequence[Operating]) -> list[Operating]:
    kept: list[Operating] = []
    for point in sorted(points, key=lambda point: point.ms):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return kept
