"""Weighted sums of vectors: a sum that cancels up to rounding has no direction, others have one."""

import numpy as np
import pytest

from contracts.errors import RejectedRequest
from contracts.fusion import weighted_sum
from contracts.score import Vectors, unit
from contracts.zero_shot import label_vectors, query_vector

DIM = 512
ONE, OTHER = unit(np.random.default_rng(3).standard_normal((2, DIM)))


def encoded_again(row: Vectors) -> Vectors:
    """Return the vector with another float32 error, as if from another batch."""
    dice = np.random.default_rng(4)
    again = unit(row.astype(np.float64) + dice.normal(0, 1e-5, DIM))
    assert (again != row).any()
    return again


@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ([1.0, -1.0], [ONE, ONE]),
        ([0.1, 0.2, -0.3], [ONE] * 3),
        ([0.1] * 10 + [-1.0], [ONE] * 11),
        ([1e-308, 2e-308, -3e-308], [ONE] * 3),
        ([1e308, 1e308, -1e308, -1e308], [ONE, OTHER, OTHER, ONE]),
        ([1 / 3, 1 / 3, 1 / 3, 0.7, -1.0, -0.7], [ONE, ONE, ONE, OTHER, ONE, OTHER]),
        ([1.0, -1.0], [ONE, encoded_again(ONE)]),
        ([0.0, 0.0], [ONE, OTHER]),
    ],
)
def test_what_cancels_within_rounding_is_refused(weights: list[float], rows: list[Vectors]) -> None:
    with pytest.raises(ValueError, match="cancel out"):
        weighted_sum(weights, rows)


@pytest.mark.parametrize(
    ("weights", "rows", "expected"),
    [
        ([1.0, -0.999], [ONE, ONE], ONE),
        ([0.1, 0.2, -0.3000001], [ONE] * 3, -ONE),
        ([1e308] * 16, [ONE] * 16, ONE),
        ([5e-324], [ONE], ONE),
        ([1e308, -1e308], [ONE, OTHER], unit(ONE.astype(np.float64) - OTHER)),
        ([0.1, 0.2, -0.3, 1e-9], [ONE, ONE, ONE, OTHER], OTHER),
    ],
)
def test_what_is_left_has_its_direction(
    weights: list[float], rows: list[Vectors], expected: Vectors
) -> None:
    found = unit(weighted_sum(weights, rows)).astype(np.float64)
    assert found @ expected.astype(np.float64) > 0.9999


def test_prompts_that_cancel_within_rounding_have_no_vector() -> None:
    against = -encoded_again(ONE)
    with pytest.raises(ValueError, match="prompts cancel out"):
        query_vector(np.stack([ONE, against]))
    with pytest.raises(RejectedRequest, match="label 'b'"):
        label_vectors(["a", "b"], [ONE, OTHER, ONE, against])
