"""The states of a merge: each step is allowed from some states only."""

import re
from collections.abc import Callable

import pytest

from contracts.wrong_step import WrongStep
from index_store.index import Index
from index_store.segment.pending_merge import MergeState, PendingMerge
from tests.kits.index_kit import built, filled, new_spill, vectors

pytestmark = pytest.mark.anyio

Step = Callable[[Index, PendingMerge], object]


def commit(index: Index, merge: PendingMerge) -> None:
    index.commit_merge("images", merge, None)


def abort(index: Index, merge: PendingMerge) -> None:
    index.abort_merge("images", merge)


def release(index: Index, merge: PendingMerge) -> None:
    merge.release()


async def test_a_merge_goes_from_building_to_released() -> None:
    index = filled(vectors(20))
    merge = index.begin_merge("images")
    assert merge.state is MergeState.BUILDING
    segment = await built(index, "images", merge, new_spill(), "Flat")
    assert segment is not None
    for _ in range(2):
        index.apply_missed_deletes("images", merge, segment)
        assert merge.state is MergeState.CATCHING_UP
    index.commit_merge("images", merge, segment)
    assert merge.state is MergeState.COMMITTED
    merge.release()
    assert merge.state is MergeState.RELEASED
    assert index.segments_of("images").sealed_segments == [segment]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([release], "merge: want COMMITTED, got BUILDING"),
        ([commit, commit], "merge: want BUILDING or CATCHING_UP, got COMMITTED"),
        ([commit, abort], "merge: want BUILDING or CATCHING_UP, got COMMITTED"),
        ([commit, release, release], "merge: want COMMITTED, got RELEASED"),
        ([abort, commit], "merge: want BUILDING or CATCHING_UP, got ABORTED"),
        ([abort, abort], "merge: want BUILDING or CATCHING_UP, got ABORTED"),
        ([abort, release], "merge: want COMMITTED, got ABORTED"),
    ],
)
def test_a_step_out_of_order_says_what_was_expected(steps: list[Step], message: str) -> None:
    index = filled(vectors(20))
    merge = index.begin_merge("images")
    *legal, illegal = steps
    for step in legal:
        step(index, merge)
    rows = len(index.segments_of("images"))
    with pytest.raises(WrongStep, match=f"^{re.escape(message)}$"):
        illegal(index, merge)
    assert len(index.segments_of("images")) == rows
