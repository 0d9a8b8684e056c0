"""Weighted sums of unit vectors, and a test whether a sum has cancelled out.

A sum of vectors that point against each other may consist of rounding errors alone, whose direction
is arbitrary. The size of the errors is bounded in two steps:

1. *Equal vectors.* Their weights are added first, in exact arithmetic (`math.fsum`). Each of n
   weights is a decimal number that was rounded to float64, so its error is at most u = 2^-53 of
   itself, and the error of the sum is less than (n + 1) u times the sum of the absolute weights.
   The weights 0.1, 0.2 and -0.3 leave 2.8e-17, which is within the bound of 2.7e-16 and counts as
   zero; 1 and -0.999 leave 0.001.
2. *Different vectors.* Each is a unit vector whose numbers were rounded to float16, by at most
   2^-11 of each number (2^-25 for one below 6e-5), so by about 2^-11 of its length. The error of a
   sum with weights w_i is at most 2^-11 times the sum of |w_i|; the errors of float64 are 2^40
   times smaller. Two vectors that differ by less are the same text encoded twice; the vectors of
   different texts differ by a hundred times as much.
"""

from collections.abc import Sequence
from math import frexp, fsum, ldexp

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors

_FLOAT64_ROUNDING = 2.0**-53
FLOAT16_ROUNDING = 2.0**-11


def weighted_sum(weights: Sequence[float], rows: Sequence[Vectors]) -> NDArray[np.float64]:
    """Return the sum of unit vectors of shape (dim,), each multiplied by its weight.

    Weights may have any finite scale, since only the direction of the sum matters. Raises
    ValueError where the sum is within its rounding error.
    """
    # Scaling by a power of two changes no digit and prevents an overflow.
    _, exponent = frexp(max(map(abs, weights), default=0.0))
    alike: dict[bytes, tuple[Vectors, list[float]]] = {}
    for weight, row in zip(weights, rows, strict=True):
        alike.setdefault(row.tobytes(), (row, []))[1].append(ldexp(weight, -exponent))
    total, left = np.zeros(len(rows[0])), 0.0
    for row, of_row in alike.values():
        weight = fsum(of_row)
        if abs(weight) > (len(of_row) + 1) * _FLOAT64_ROUNDING * fsum(map(abs, of_row)):
            total += weight * row.astype(np.float64)
            left += abs(weight)
    if has_cancelled(total, left):
        raise ValueError("the weighted vectors cancel out: their sum is within its rounding error")
    return total


def has_cancelled(total: NDArray[np.float64], weight: float) -> bool:
    """Return whether a sum of unit vectors is within its rounding error.

    `weight` is the sum of their absolute weights.
    """
    return bool(np.linalg.norm(total) <= FLOAT16_ROUNDING * weight)
