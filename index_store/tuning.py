"""How much effort an index needs for a recall: measured, on queries like those that come.

Queries are sampled vectors of both targets, since texts asked of pictures are out of the pictures'
distribution and need more effort than a picture's neighbours. Truth is the exact score's.
"""

from collections.abc import Sequence
from time import perf_counter

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors, exact_scores
from index_store.ann import Ann, Operating

K = 10
# What a search for 10 nominates (index_store.scan).
_NOMINATED = 27
# By how coarse the codes are; "fs" (fast scan) is looked for before "PQ".
_DEPTHS = {"SQ": (1, 2), "Flat": (1,), "fs": (2, 4, 8, 16), "PQ": (4, 16, 64)}
_EFFORTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
_GOOD_ENOUGH = 0.998
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


def measure(ann: Ann, vectors: Vectors, kinds: Sequence[Vectors]) -> list[Operating]:
    """Operating points worth having, cheapest first: each reaches more than those before.

    A point's recall is that of the kind of queries which it serves worst.
    """
    if not kinds:
        return []
    queries = np.concatenate(list(kinds))
    ends = np.cumsum([len(some) for some in kinds])[:-1]
    wanted, wide = truth(vectors, queries), queries.astype(np.float32)
    points: list[Operating] = []
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for effort in [one for one in _EFFORTS if one < ann.effort_max] + [ann.effort_max]:
            points += [
                _point(ann, vectors, queries, wide, wanted, ends, effort, depth)
                for depth in _depths(ann.kind)
            ]
            if points[-1].recall >= _GOOD_ENOUGH:
                break
    finally:
        faiss.omp_set_num_threads(threads)
    return _worth_having(points)


def _point(
    ann: Ann,
    vectors: Vectors,
    narrow: Vectors,
    wide: NDArray[np.float32],
    wanted: NDArray[np.int64],
    ends: NDArray[np.int64],
    effort: int,
    depth: int,
) -> Operating:
    began = perf_counter()
    _, found = ann.search_with(wide, _NOMINATED * depth, None, effort)
    # The re-score costs as much as the index does, so it counts.
    best = [_best(vectors, query, nominees) for query, nominees in zip(narrow, found, strict=True)]
    ms = (perf_counter() - began) / len(wide) * 1000
    hits = [len(np.intersect1d(*pair)) / wanted.shape[1] for pair in zip(best, wanted, strict=True)]
    recall = min(float(np.mean(some)) for some in np.split(np.array(hits), ends))
    return Operating(effort, depth, recall, ms)


def _best(vectors: Vectors, query: Vectors, nominees: NDArray[np.int64]) -> NDArray[np.int64]:
    nominees = nominees[nominees >= 0]
    scores = exact_scores(vectors[nominees], query)
    return nominees[np.argsort(-scores)[:K]]


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
