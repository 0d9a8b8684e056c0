"""The recall that tuning measures: which rows count as right answers, and for which queries."""

import faiss
import numpy as np
import pytest

from contracts.score import Vectors, unit
from index_store.ann import flat, tuning
from index_store.ann.faiss_index import AnnIndex


def distinct(count: int) -> Vectors:
    return unit(np.random.default_rng(3).standard_normal((count, 16)))


def indexed(rows: Vectors) -> AnnIndex:
    index = faiss.index_factory(rows.shape[1], "IVF4,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(rows.astype(np.float32))
    index.add(rows.astype(np.float32))
    return AnnIndex("IVF4,SQ8", index, [], flat.flat_index(rows))


def test_of_equal_rows_any_is_right() -> None:
    """A picture was published fifty times, and any ten of the fifty rows are a right answer."""
    rows = np.repeat(distinct(40), 50, axis=0)
    queries = distinct(40)
    trial = tuning.TuningQueries.of(rows, [queries])
    assert trial.recall(indexed(rows), effort=4, depth=4) == 1


def test_recall_is_that_of_a_brute_force_count() -> None:
    rows, queries = distinct(3000), unit(np.random.default_rng(4).standard_normal((60, 16)))
    ann = indexed(rows)
    scores = queries.astype(np.float32) @ rows.astype(np.float32).T
    right = np.argsort(-scores, axis=1)[:, : tuning.K]
    _, found = ann.search_with(queries.astype(np.float32), tuning.NOMINATED, 1, 1)
    counted = np.mean([np.isin(r, f[: tuning.K]).mean() for r, f in zip(right, found, strict=True)])
    recall = tuning.TuningQueries.of(rows, [queries]).recall(ann, effort=1, depth=1)
    assert recall == pytest.approx(counted, abs=0.002)
    assert 0.2 < recall < 0.95


def test_the_kind_of_queries_that_is_served_worst_counts() -> None:
    rows = distinct(3000)
    easy, hard = rows[:50], unit(np.random.default_rng(4).standard_normal((50, 16)))
    ann = indexed(rows)
    both = tuning.TuningQueries.of(rows, [easy, hard]).recall(ann, effort=1, depth=1)
    each = [
        tuning.TuningQueries.of(rows, [some]).recall(ann, effort=1, depth=1)
        for some in (easy, hard)
    ]
    assert both == min(each)
    assert each[0] != each[1]


def test_fewer_rows_than_are_counted() -> None:
    rows = distinct(7)
    bars = tuning.recall_thresholds(rows, rows.astype(np.float32))
    worst = (rows.astype(np.float32) @ rows.astype(np.float32).T).min(axis=1)
    np.testing.assert_allclose(bars[:, 0], worst, atol=1e-4)
