"""The score of two vectors: the float64 dot product of unit vectors that were rounded to float16.

A product of two float16 numbers is a multiple of 2^-48, and the partial sums of two unit vectors
stay below 2. So every intermediate result is exact in the 53 bits of float64, and the score does
not depend on the order of summation, the machine or the BLAS library. Faster ways only nominate
rows; every score that is returned is computed here.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vectors = NDArray[np.float16]
Scores = NDArray[np.float64]

# A float32 product of d-dimensional unit vectors errs by at most about d * 2^-24 (standard bound
# for recursive summation, Higham, "Accuracy and Stability of Numerical Algorithms", ch. 3);
# d = 4096 gives 2.4e-4.
NOMINATION_SLACK = 5e-4


def tie_slack(dim: int) -> float:
    """Return twice the error of a float32 product of `dim` numbers: 6e-5 for 512, 4.9e-4 for 4096.

    A search for ties uses this bound, since NOMINATION_SLACK is too wide for it: the scores of the
    100th and the 120th of 100,000 pictures may be closer than 5e-4.
    """
    return 2 * dim * 2.0**-24


def unit(vectors: ArrayLike) -> Vectors:
    """Return vectors of shape (d,) or (n, d), scaled to length one and rounded to float16.

    Numbers of any finite size are accepted. Raises ValueError for a vector of zeros or one that is
    not finite.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    peaks = np.abs(wide).max(axis=-1, keepdims=True)
    if not np.all(np.isfinite(peaks)) or np.any(peaks == 0):
        raise ValueError("a vector must be finite and not all zeros")
    # Squares of 1e200 overflow and those of 1e-200 are zero. A power of two changes no digit.
    wide = np.ldexp(wide, -np.frexp(peaks)[1])
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    rows: Vectors = (wide / lengths).astype(np.float16)
    return rows


def exact_scores(rows: Vectors, query: Vectors) -> Scores:
    """Return the exact scores, of shape (n,), of `rows` (n, d) against `query` (d,).

    Raises TypeError unless both are float16.
    """
    if rows.dtype != np.float16 or query.dtype != np.float16:
        raise TypeError(f"want float16 vectors, got {rows.dtype} and {query.dtype}")
    result: Scores = rows.astype(np.float64) @ query.astype(np.float64)
    return result


def exact_pair_scores(
    lefts: NDArray[np.float16] | NDArray[np.float32], rights: NDArray[np.float16]
) -> Scores:
    """Return the exact scores, of shape (n,), of each row of `lefts` (n, d) with that of `rights`.

    All numbers must be float16 numbers; float32 holds these exactly.
    """
    result: Scores = np.einsum("ij,ij->i", lefts.astype(np.float64), rights.astype(np.float64))
    return result
