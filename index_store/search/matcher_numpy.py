"""The Matcher on the CPU, a float32 product of numpy, and the choice of the machine's Matcher."""

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.ports.search import Matcher
from contracts.score import NOMINATION_SLACK, Vectors

# Queries are matched in blocks of this many; a product has a score for each of them and new row.
_BLOCK = 4096
# Every float16 number as float32: numpy's conversion takes twice as long as this look-up.
_WIDE = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


class NumpyMatcher:
    """A Matcher that nominates pairs by a float32 product; the caller decides by the exact score.

    It lowers the floors by NOMINATION_SLACK, which is more than the product's rounding error. Each
    product takes at most `block` queries.
    """

    def __init__(self, *, block: int = _BLOCK) -> None:
        self._block = block

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the pairs that may reach their floor, as the port says."""
        wide = _WIDE.take(vectors.view(np.uint16)).T
        found, rows = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        size = self._block
        for start in range(0, len(queries), size):
            scores = queries[start : start + size] @ wide
            bars = (floors[start : start + size] - NOMINATION_SLACK).astype(np.float32)
            # Most queries have no pair: a first pass over the best scores finds those that do.
            near = np.flatnonzero(scores.max(axis=1, initial=-np.inf) >= bars)
            query, row = np.nonzero(scores[near] >= bars[near, None])
            found.append(near[query] + start)
            rows.append(row)
        return np.concatenate(found), np.concatenate(rows)


def open_matcher() -> Matcher:
    """Return a Matcher on the GPU if the machine has one, and otherwise on the CPU."""
    if not faiss.get_num_gpus():
        return NumpyMatcher()
    from index_store.search.matcher_torch import TorchMatcher

    return TorchMatcher()
