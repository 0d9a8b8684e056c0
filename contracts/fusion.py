"""Weighted sums of unit vectors, and when they have cancelled out.

A sum of vectors that stand against each other may leave nothing but rounding errors, whose
direction is arbitrary. How much of it may be errors is bounded in two steps:

1. *Equal vectors.* Their weights are added up first, in exact arithmetic (`math.fsum`). Each of n
   weights is a decimal number rounded to float64, or was computed so, and errs by at most
   u = 2^-53 of itself; so their sum errs by less than (n + 1) u times the sum of their sizes.
   Weights of 0.1, 0.2 and -0.3 leave 2.8e-17, within 2.7e-16, and count for nothing; 1 and -0.999
   leave 0.001.
2. *Different vectors.* Each is a unit vector rounded to float16, number by number, by at most
   2^-11 of each number (2^-25 of one below 6e-5), and so by about 2^-11 of its length at most.
   What is left of weights w_i errs by at most 2^-11 times the sum of |w_i|; float64's own errors
   in the sum are 2^40 times smaller. Two vectors that differ by less than that are one text
   encoded twice; those of different texts differ by a hundred times as much.
"""

from collections.abc import Sequence
from math import frexp, fsum, ldexp

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors

_FLOAT64_ROUNDING = 2.0**-53
FLOAT16_ROUNDING = 2.0**-11


def weighted_sum(weights: Sequence[float], rows: Sequence[Vectors]) -> NDArray[np.float64]:
    """Add up unit vectors (dim,), each times its weight, to a vector of any length.

    Weights of any finite scale will do: only the sum's direction counts. Raises ValueError where
    what is left is within rounding.
    """
    # Scaling by a power of two changes no digit, and keeps the sum from overflowing.
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
    if is_nothing(total, left):
        raise ValueError("what is left of the weighted vectors is within rounding: they cancel out")
    return total


def is_nothing(total: NDArray[np.float64], weight: float) -> bool:
    """Whether a sum of unit vectors is within rounding; their weights' sizes add up to `weight`."""
    return bool(np.linalg.norm(total) <= FLOAT16_ROUNDING * weight)
