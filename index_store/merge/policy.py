"""Decide when segments are merged, and which.

There are two types of merge. A full merge builds one segment of all rows, with a newly trained
index: it is due for the first index, and when much was deleted or has been added since. A growing
merge gives the growing rows a segment of their own, trained like the largest one: it is due when
searches would scan too many rows, also while a full merge runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from index_store.ann import choice
from index_store.segment.manager import SegmentManager
from index_store.segment.sealed import SealedSegment

# A full merge is due when the rows beside the largest segment, or the deleted ones, are more than
# this share of it.
_GROWN_SHARE = 0.5
_DEAD_SHARE = 0.3
# Searching four growing rows that have codes costs no more than scanning one.
_CODED_PER_SCANNED = 4
# A growing merge takes in sealed segments of up to this many times the rows that it has already.
_SIMILAR_SIZE = 2


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A merge of the growing rows and the sealed `segments`, or of all segments if that is None.

    The new index takes over the training of `like`, or is trained on its own rows if that is None.
    """

    reason: str
    segments: Sequence[SealedSegment] | None = None
    like: SealedSegment | None = None


MERGE_ALL = MergePlan("asked for")


def due_merge(
    manager: SegmentManager, index_type: str = "auto", scanned_rows: int = choice.SCANNED_ROWS
) -> MergePlan | None:
    """Return the merge that is due, or None; a full merge goes before a growing one."""
    full = due_full_merge(manager, index_type, scanned_rows)
    return full or due_growing_merge(manager, index_type, scanned_rows)


def due_full_merge(
    manager: SegmentManager, index_type: str = "auto", scanned_rows: int = choice.SCANNED_ROWS
) -> MergePlan | None:
    """Return a merge of all rows if it is due and no other full merge runs."""
    largest = largest_indexed(manager, index_type)
    if largest is None:
        scanned = manager.unindexed_rows
        if scanned <= scanned_rows or manager.is_merging:
            return None
        return MergePlan(f"{scanned} rows without an index")
    mergeable = manager.mergeable_segments
    if largest not in mergeable:
        return None
    sealed = sum(segment.capacity for segment in mergeable)
    dead = sealed - sum(segment.live for segment in mergeable)
    if dead > max(_DEAD_SHARE * sealed, scanned_rows):
        return MergePlan(f"{dead} of {sealed} sealed rows are dead")
    beside = manager.growing_rows + sealed - largest.capacity
    if beside > max(_GROWN_SHARE * largest.capacity, scanned_rows):
        return MergePlan(f"{beside} rows beside a segment of {largest.capacity}")
    return None


def due_growing_merge(
    manager: SegmentManager, index_type: str = "auto", scanned_rows: int = choice.SCANNED_ROWS
) -> MergePlan | None:
    """Return a merge of the growing rows if searches would scan more than `scanned_rows` of them.

    Sealed segments without an index are merged too, and those of a similar size.
    """
    largest = largest_indexed(manager, index_type)
    # No snapshot keeps the files of a segment whose rows were all deleted.
    if largest is None or not largest.live:
        return None
    others = [segment for segment in manager.mergeable_segments if segment is not largest]
    unindexed = [segment for segment in others if segment.ann is None]
    growing = manager.growing_rows + sum(segment.capacity for segment in unindexed)
    coded = manager.coded_rows
    if growing - coded + coded // _CODED_PER_SCANNED < scanned_rows:
        return None
    segments = _with_similar_sizes(unindexed, others, growing)
    return MergePlan(f"{growing} growing rows", segments, largest)


def largest_indexed(manager: SegmentManager, index_type: str) -> SealedSegment | None:
    """Return the largest segment that has an ANN index, or just the largest for `Flat`."""
    return manager.largest(indexed=index_type != "Flat")


def _with_similar_sizes(
    chosen: Sequence[SealedSegment], others: Sequence[SealedSegment], rows: int
) -> Sequence[SealedSegment]:
    """Add to `chosen` the `others` that are not much larger than all before them together.

    `rows` is the number of rows in the merge so far. The sizes of segments grow like powers of two
    this way, and there are never many segments.
    """
    found = list(chosen)
    for segment in sorted(others, key=lambda segment: segment.capacity):
        if segment not in found and segment.capacity <= _SIMILAR_SIZE * rows:
            found.append(segment)
            rows += segment.capacity
    return found
