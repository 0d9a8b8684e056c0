"""The order of an answer that other tests compare with."""

from tests.oracles.rank_order import rank_order


def test_ties_go_by_id() -> None:
    assert rank_order([0.5, 0.9, 0.5], ["b", "z", "a"]) == [1, 2, 0]
