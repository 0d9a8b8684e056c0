"""Every Matcher nominates all pairs that reach their floor, and few others."""

from collections.abc import Callable

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.ports.search import Matcher
from contracts.score import exact_scores, unit
from index_store.search.matcher_numpy import NumpyMatcher, open_matcher


def on_the_processor() -> Matcher:
    """Return a TorchMatcher on the CPU. Torch is imported only here, since most tests need none."""
    from index_store.search.matcher_torch import TorchMatcher

    return TorchMatcher("cpu")


def on_the_gpu() -> Matcher:
    import torch

    from index_store.search.matcher_torch import TorchMatcher

    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return TorchMatcher()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(NumpyMatcher, id="numpy"),
        pytest.param(on_the_processor, id="torch", marks=pytest.mark.model),
        pytest.param(on_the_gpu, id="cuda", marks=pytest.mark.model),
    ],
)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40), rows=st.integers(0, 20))
def test_nothing_that_reaches_its_floor_is_left_out(
    make: Callable[[], Matcher], seed: int, count: int, rows: int
) -> None:
    dice = np.random.default_rng(seed)
    shape = (count + rows, int(dice.choice([4, 64, 512])))
    drawn = dice.normal(size=shape) + 3 * dice.normal(size=shape[1])
    some = unit(drawn) if len(drawn) else np.empty(shape, np.float16)
    queries, vectors = some[:count], some[count:]
    exact = np.array([exact_scores(vectors, query) for query in queries]).reshape(count, rows)
    # Each floor is the exact score of some pair, which must be nominated although it only just
    # reaches the floor.
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


def test_blocks_of_queries() -> None:
    nominates_all(NumpyMatcher(block=7))


@pytest.mark.model
def test_blocks_of_queries_in_torch() -> None:
    from index_store.search.matcher_torch import TorchMatcher

    nominates_all(TorchMatcher("cpu", block=7))


def nominates_all(made: Matcher) -> None:
    some = unit(np.random.default_rng(1).normal(size=(40, 16)))
    of, row = made.nominate(some[:30].astype(np.float32), np.full(30, -2.0), some[30:])
    assert len(of) == len(row) == 300


def test_the_one_for_this_machine() -> None:
    if faiss.get_num_gpus():
        from index_store.search.matcher_torch import TorchMatcher

        assert isinstance(open_matcher(), TorchMatcher)
    else:
        assert isinstance(open_matcher(), NumpyMatcher)
