"""The one score: the float64 dot product of two unit vectors rounded to float16.

Why float16 inputs and a float64 sum: a product of two float16 numbers is a multiple of 2^-48, and
the partial sums of two unit vectors stay below 2, so every intermediate is exact in float64's 53
bits and the result does not depend on summation order, machine or BLAS. Faster paths only
nominate; whatever is returned is scored here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vectors = NDArray[np.float16]
Scores = NDArray[np.float64]

# A float32 product of d-dimensional unit vectors errs by at most about d * 2^-24 (standard bound
# for recursive summation, Higham, "Accuracy and Stability of Numerical Algorithms", ch. 3);
# d = 4096 gives 2.4e-4.
NOMINATION_SLACK = 5e-4


def slack_of(dim: int) -> float:
    """Return twice the error of a float32 product of `dim` numbers: 6e-5 for 512, 4.9e-4 for 4096.

    Where ties are looked for, NOMINATION_SLACK would be too wide: the scores of the 100th and the
    120th of 100,000 pictures may be closer than 5e-4.
    """
    return 2 * dim * 2.0**-24


def unit(vectors: ArrayLike) -> Vectors:
    """Scale rows to length one and round to float16.

    Shape (d,) or (n, d) is kept, and any finite scale will do. Raises ValueError on a zero or
    non-finite row.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    peaks = np.abs(wide).max(axis=-1, keepdims=True)
    if not np.all(np.isfinite(peaks)) or np.any(peaks == 0):
        raise ValueError("a vector must be finite and not all zeros")
    # Squares of 1e200 overflow and those of 1e-200 vanish. A power of two changes no digit.
    wide = np.ldexp(wide, -np.frexp(peaks)[1])
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    rows: Vectors = (wide / lengths).astype(np.float16)
    return rows


def exact_scores(rows: Vectors, query: Vectors) -> Scores:
    """Scores of `rows` (n, d) against `query` (d,), both float16: shape (n,), exact."""
    if rows.dtype != np.float16 or query.dtype != np.float16:
        raise TypeError(f"scores are of float16 vectors, got {rows.dtype} and {query.dtype}")
    result: Scores = rows.astype(np.float64) @ query.astype(np.float64)
    return result


def ranking(scores: Scores, ids: Sequence[str]) -> list[int]:
    """Positions in answer order: score descending, then id ascending."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
