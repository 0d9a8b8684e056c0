"""The Matcher on numpy: one float32 product, which only nominates. And which Matcher to use."""

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.ports.search import Matcher
from contracts.score import NOMINATION_SLACK, Vectors

# Queries of one block: bounds the product's memory to block x new rows.
_BLOCK = 4096
# Every float16 number as float32: numpy takes twice as long to convert as to look up.
_WIDE = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


class NumpyMatcher:
    """Nominates with slack above float32's error; the exact score decides elsewhere."""

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        wide = _WIDE.take(vectors.view(np.uint16)).T
        found, rows = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for start in range(0, len(queries), _BLOCK):
            scores = queries[start : start + _BLOCK] @ wide
            bars = (floors[start : start + _BLOCK] - NOMINATION_SLACK).astype(np.float32)
            # Most queries have no pair: one pass tells which.
            near = np.flatnonzero(scores.max(axis=1, initial=-np.inf) >= bars)
            query, row = np.nonzero(scores[near] >= bars[near, None])
            found.append(near[query] + start)
            rows.append(row)
        return np.concatenate(found), np.concatenate(rows)


def open_matcher() -> Matcher:
    """On a GPU where there is one."""
    if not faiss.get_num_gpus():
        return NumpyMatcher()
    from index_store.search.matcher_torch import TorchMatcher

    return TorchMatcher()
