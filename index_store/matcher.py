"""The Matcher on numpy: one float32 product, which only nominates."""

import numpy as np
from numpy.typing import NDArray

from contracts.score import NOMINATION_SLACK, Vectors

# Queries of one block: bounds the product's memory to block x new rows.
_BLOCK = 4096


class NumpyMatcher:
    """Nominates with slack above float32's error; the exact score decides elsewhere."""

    def nominate(
        self, queries: Vectors, floors: NDArray[np.float64], vectors: Vectors
    ) -> NDArray[np.intp]:
        wide = vectors.astype(np.float32).T
        found = []
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK].astype(np.float32)
            best = (block @ wide).max(axis=1, initial=-np.inf)
            floor = floors[start : start + _BLOCK] - NOMINATION_SLACK
            found.append(np.flatnonzero(best >= floor) + start)
        return np.concatenate(found) if found else np.empty(0, np.intp)
