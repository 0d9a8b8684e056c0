"""The exact score is the same number in any order of summation."""

import numpy as np
import pytest

from contracts.score import NOMINATION_SLACK, exact_pair_scores, exact_scores, unit


def vectors(count: int, dim: int = 512) -> np.ndarray:
    return unit(np.random.default_rng(7).standard_normal((count, dim)))


def test_any_order_of_summation_gives_the_same_bits() -> None:
    rows, query = vectors(200), vectors(1)[0]
    order = np.random.default_rng(1).permutation(512)
    one = exact_scores(rows, query)
    assert np.array_equal(one, exact_scores(rows[:, order], query[order]))
    assert np.array_equal(one, [float(exact_scores(row[None], query)[0]) for row in rows])
    wide, narrow = rows.astype(np.float64), query.astype(np.float64)
    assert np.array_equal(one, np.stack([wide @ narrow, wide @ narrow], axis=1)[:, 0])
    assert np.array_equal(one, [sum((row * narrow).tolist()) for row in wide])


def test_the_slack_is_above_the_error_of_float32() -> None:
    rows = vectors(500, 2048)
    queries = vectors(20, 2048)
    exact = np.stack([exact_scores(rows, query) for query in queries], axis=1)
    fast = rows.astype(np.float32) @ queries.astype(np.float32).T
    assert np.abs(exact - fast).max() < NOMINATION_SLACK / 10


def test_units_are_units_to_rounding() -> None:
    assert np.allclose(np.linalg.norm(vectors(100).astype(np.float64), axis=1), 1, atol=2e-4)


@pytest.mark.parametrize("bad", [np.zeros(4), np.array([np.nan, 1.0]), np.array([np.inf, 1.0])])
def test_no_unit_of_nothing(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        unit(bad)


@pytest.mark.parametrize("scale", [5e-324, 1e-320, 1e-200, 1.0, 1e200, 1e308])
def test_any_finite_scale_is_taken(scale: float) -> None:
    signs = np.array([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]])
    assert unit(scale * signs).tolist() == [[0.5, -0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 0.0]]
    assert unit([scale, 0.0]).tolist() == [1.0, 0.0]


def test_a_scale_changes_no_bit() -> None:
    rows = np.random.default_rng(2).standard_normal((50, 512))
    for exponent in (-900, -3, 800):
        assert np.array_equal(unit(np.ldexp(rows, exponent)), unit(rows))


def test_scores_are_of_float16_only() -> None:
    with pytest.raises(TypeError, match="float16"):
        exact_scores(np.ones((1, 2), np.float32), np.ones(2, np.float16))


def test_the_scores_of_pairs_are_those_of_one_query_each_to_the_last_bit() -> None:
    random = np.random.default_rng(3)
    queries, rows = (unit(random.standard_normal((20, 512))) for _ in range(2))
    single = [exact_scores(row[None], query)[0] for query, row in zip(queries, rows, strict=True)]
    assert exact_pair_scores(queries.astype(np.float32), rows).tolist() == single
    assert exact_pair_scores(queries, rows).tolist() == single
