"""A merge under way: the rows that it began with, and how far it has come.

`SegmentManager` (index_store.segment.manager) takes the steps:

| State                 | Step                                                       | Next        |
|-----------------------|------------------------------------------------------------|-------------|
|                       | `begin_merge`: the merge takes its segments                | BUILDING    |
| BUILDING, CATCHING_UP | `apply_missed_deletes`: the new segment follows the old    | CATCHING_UP |
| BUILDING, CATCHING_UP | `commit_merge`: the new segment replaces the old           | COMMITTED   |
| BUILDING, CATCHING_UP | `abort_merge`: everything stays as it is                   | ABORTED     |
| COMMITTED             | `release`: the memory of the old segments is given back    | RELEASED    |

A merge of rows that were all deleted has no new segment and is committed while BUILDING. A step
that is not in the table raises WrongStep.
"""

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.wrong_step import require_state
from index_store.segment.growing import GrowingSegment
from index_store.segment.id_lookup import GrowingIdMap
from index_store.segment.reader import SegmentReader
from index_store.segment.sealed import SealedSegment


class MergeState(enum.Enum):
    """The state of a merge."""

    BUILDING = "building"
    CATCHING_UP = "catching up"
    COMMITTED = "committed"
    ABORTED = "aborted"
    RELEASED = "released"


# The states from which each state may be reached.
_UNDER_WAY = (MergeState.BUILDING, MergeState.CATCHING_UP)
_BEFORE = {
    MergeState.CATCHING_UP: _UNDER_WAY,
    MergeState.COMMITTED: _UNDER_WAY,
    MergeState.ABORTED: _UNDER_WAY,
    MergeState.RELEASED: (MergeState.COMMITTED,),
}


@dataclass(slots=True, eq=False)
class PendingMerge:
    """The segments that one merge replaces, and readers of their live rows when it began.

    Until it is committed or aborted, its growing segments take no more rows and are not compacted.
    Several merges may be pending at once, each with segments of its own: rows that come in while a
    large segment is built are indexed by a smaller merge meanwhile.

    `growing_segments` are keyed by their numbers in the manager. `ids` maps the ids of their rows.
    `alive` holds a bitmap for each reader: the rows that were live when the new segment was last
    compared with it.
    """

    readers: list[SegmentReader]
    growing_segments: dict[int, GrowingSegment]
    sealed_segments: list[SealedSegment]
    ids: GrowingIdMap
    alive: list[NDArray[np.uint8]]
    state: MergeState = MergeState.BUILDING

    def require_step(self, state: MergeState) -> None:
        """Raise WrongStep unless the merge may go to `state` now."""
        require_state("merge", self.state, *_BEFORE[state])

    def move_to(self, state: MergeState) -> None:
        """Take a step of the table above. Raises WrongStep."""
        self.require_step(state)
        self.state = state

    def release(self) -> None:
        """Give back the memory of what a committed merge has replaced. Call it in a thread.

        The objects go one by one, because each holds the interpreter while its memory is freed.
        """
        self.move_to(MergeState.RELEASED)
        self.readers.clear()
        self.alive.clear()
        shards = list(self.ids.shards())
        self.ids = GrowingIdMap()
        while self.growing_segments:
            self.growing_segments.popitem()
        while self.sealed_segments:
            self.sealed_segments.pop()
        while shards:
            shards.pop()
