"""Every Matcher nominates all that may reach its floor, and hardly anything else."""

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.ports.search import Matcher
from contracts.score import exact_scores, unit
from index_store.search import matcher_numpy, matcher_torch
from index_store.search.matcher_numpy import NumpyMatcher, open_matcher
from index_store.search.matcher_torch import TorchMatcher

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
MATCHERS = [
    pytest.param(lambda: NumpyMatcher(), id="numpy"),
    pytest.param(lambda: TorchMatcher("cpu"), id="torch"),
    pytest.param(lambda: TorchMatcher(), id="cuda", marks=needs_gpu),
]


@pytest.mark.parametrize("make", MATCHERS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40), rows=st.integers(0, 20))
def test_nothing_that_reaches_its_floor_is_left_out(
    make: type[Matcher], seed: int, count: int, rows: int
) -> None:
    dice = np.random.default_rng(seed)
    shape = (count + rows, int(dice.choice([4, 64, 512])))
    drawn = dice.normal(size=shape) + 3 * dice.normal(size=shape[1])
    some = unit(drawn) if len(drawn) else np.empty(shape, np.float16)
    queries, vectors = some[:count], some[count:]
    exact = np.array([exact_scores(vectors, query) for query in queries]).reshape(count, rows)
    # Floors at scores that there are: what reaches its floor and no more must be among them.
    picked = dice.integers(0, max(rows, 1), count)
    floors = exact[np.arange(count), picked] if rows else np.zeros(count)
    of, row = make().nominate(queries.astype(np.float32), floors, vectors)
    nominated = set(zip(of.tolist(), row.tolist(), strict=True))
    assert len(nominated) == len(of)
    reached = set(
        zip(*(side.tolist() for side in np.nonzero(exact >= floors[:, None])), strict=True)
    )
    assert reached <= nominated
    slack = 3e-3
    may = set(zip(*(s.tolist() for s in np.nonzero(exact >= floors[:, None] - slack)), strict=True))
    assert nominated <= may
    assert of.tolist() == sorted(of.tolist()), "pairs come in the order of their queries"


@pytest.mark.parametrize(("module", "make"), [(matcher_numpy, NumpyMatcher), (matcher_torch, None)])
def test_blocks_of_queries(module: object, make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    made = NumpyMatcher() if make else TorchMatcher("cpu")
    some = unit(np.random.default_rng(1).normal(size=(40, 16)))
    of, row = made.nominate(some[:30].astype(np.float32), np.full(30, -2.0), some[30:])
    assert len(of) == len(row) == 300


def test_the_one_for_this_machine() -> None:
    expected = TorchMatcher if faiss.get_num_gpus() else NumpyMatcher
    assert isinstance(open_matcher(), expected)
