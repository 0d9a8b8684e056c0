"""The segments of one target: what the writer changes, and where each live id stands.

A live id is in one row: of a growing segment, found through a map of ids, or of a sealed segment,
found through sorted hashes. index_store.segment.pending_merge has the steps of a merge.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index_store.ann.growing_codes import RowQuantizer
from index_store.digest import Hashes
from index_store.metadata.bitmaps import row_numbers
from index_store.segment.growing import GROWING_SEGMENT_ROWS, GrowingSegment
from index_store.segment.id_lookup import GrowingIdMap, hashes_of
from index_store.segment.pending_merge import MergeState, PendingMerge
from index_store.segment.reader import SegmentReader
from index_store.segment.rows import Rows
from index_store.segment.sealed import SealedSegment

# An address is one int: the number of a growing segment, and below it so many bits for a row.
_ROW_BITS = 24
_ROW_MASK = (1 << _ROW_BITS) - 1
# A growing segment with codes has so many times the usual rows, since a search pays for each
# segment by itself, and codes are cheap to scan.
_CODED_SIZE = 2

Segment = GrowingSegment | SealedSegment


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """Rows that were taken out, in no particular order.

    `partitions` (n,) are those of the embeddings topic, `hashes` (n, 4) their shares of the digest.
    """

    ids: list[str]
    partitions: NDArray[np.int32]
    hashes: Hashes


@dataclass(slots=True)
class _LocatedRows:
    """The live rows of some ids, by the segment that holds them."""

    ids: list[str] = field(default_factory=list)
    rows: list[tuple[Segment, list[int]]] = field(default_factory=list)


class SegmentManager:
    """The growing and sealed segments of one target. One thread writes, any thread reads `readers`.

    Vectors have `dim` numbers; a growing segment holds `growing_segment_rows` rows. New rows get
    codes only while `is_searched`, because making codes would slow a replay down.
    """

    def __init__(self, dim: int, growing_segment_rows: int = GROWING_SEGMENT_ROWS) -> None:
        self._dim = dim
        self._growing_segment_rows = growing_segment_rows
        self._next = 0
        self.is_searched = False
        self.growing_segments: dict[int, GrowingSegment] = {}
        self.sealed_segments: list[SealedSegment] = []
        self._ids = GrowingIdMap()
        self._pending: list[PendingMerge] = []

    def __len__(self) -> int:
        """Return the number of live rows."""
        return sum(segment.live for segment in self._segments())

    @property
    def growing_rows(self) -> int:
        """The number of rows in growing segments that are not in a merge, deleted ones too."""
        return sum(len(segment.rows) for segment in self._mergeable_growing().values())

    @property
    def coded_rows(self) -> int:
        """The number of `growing_rows` that have codes."""
        growing = self._mergeable_growing().values()
        return sum(len(segment.rows) for segment in growing if segment.codes is not None)

    @property
    def mergeable_segments(self) -> list[SealedSegment]:
        """The sealed segments that no pending merge has taken."""
        taken = [segment for merge in self._pending for segment in merge.sealed_segments]
        return [segment for segment in self.sealed_segments if segment not in taken]

    def largest(self, *, indexed: bool = True) -> SealedSegment | None:
        """Return the sealed segment with most rows: of those with an ANN index if `indexed`."""
        return max(
            (segment for segment in self.sealed_segments if segment.ann is not None or not indexed),
            key=lambda segment: segment.capacity,
            default=None,
        )

    @property
    def is_merging(self) -> bool:
        """True while a merge is pending."""
        return bool(self._pending)

    @property
    def unindexed_rows(self) -> int:
        """The number of live rows that no ANN index covers.

        A search scans all of them, by their codes where a growing segment has these.
        """
        indexed = sum(segment.live for segment in self.sealed_segments if segment.ann is not None)
        return len(self) - indexed

    def find(self, item_id: str) -> tuple[Rows, int] | None:
        """Return the columns and the number of the live row of `item_id`, or None."""
        addresses = (ids.get(item_id) for ids in self._id_maps())
        address = next((address for address in addresses if address is not None), None)
        if address is not None:
            return self.growing_segments[address >> _ROW_BITS].rows, address & _ROW_MASK
        hashes = hashes_of([item_id])
        for segment in self.sealed_segments:
            [row] = segment.find_rows([item_id], hashes).tolist()
            if row >= 0:
                return segment.rows, row
        return None

    def put(self, rows: Rows, codes: NDArray[np.uint8] | None = None) -> None:
        """Append rows. Their ids are distinct and have no live row: `remove` those first.

        `codes` (n, bytes of a code) are the rows' codes, if the caller has them.
        """
        done, quantizer = 0, self._quantizer()
        while done < len(rows):
            segment = self._segment_with_room(quantizer)
            end = min(len(rows), done + segment.room)
            address = ((self._next - 1) << _ROW_BITS) + len(segment.rows)
            # The last growing segment may still have the codes of an earlier quantizer.
            segment.append(rows, done, end, codes if segment.quantizer is quantizer else None)
            self._ids.put(rows.ids[done:end], range(address, address + end - done))
            done = end

    def _segment_with_room(self, quantizer: RowQuantizer | None) -> GrowingSegment:
        """Return the last growing segment, or a new one.

        A new one begins when the last is full or in a merge, or lacks codes that rows could have.
        """
        last = self.growing_segments.get(self._next - 1)
        has_room = last is not None and last.room and not self._is_in_merge(self._next - 1)
        if last is not None and has_room and (last.codes is not None or quantizer is None):
            return last
        capacity = self._growing_segment_rows * (1 if quantizer is None else _CODED_SIZE)
        segment = self.growing_segments[self._next] = GrowingSegment(self._dim, capacity, quantizer)
        self._next += 1
        return segment

    def remove(self, ids: Iterable[str]) -> RemovedRows:
        """Delete the live rows of `ids`, as far as they have one."""
        located = self._locate(list(ids))
        partitions, hashes = [np.empty(0, np.int32)], [np.empty((0, 4), np.uint32)]
        for segment, listed in located.rows:
            numbers = np.array(listed, np.intp)
            partitions.append(segment.rows.partitions[numbers])
            hashes.append(segment.rows.hashes[numbers])
            segment.delete(numbers)
        return RemovedRows(located.ids, np.concatenate(partitions), np.concatenate(hashes))

    def compact_growing(self, rows_min: int) -> None:
        """Move the live rows out of mostly empty growing segments, until `rows_min` were moved.

        The segment that is being filled is not one of them, unless it is full.
        A segment gives back more rows than are moved. So if `rows_min` is at least the number of
        rows that came in, endless upserts keep memory below about twice the live rows, while the
        work of each call stays bounded.
        """
        moved, quantizer = 0, self._quantizer()
        mostly_empty = [item for item in self.growing_segments.items() if item[1].is_mostly_empty]
        for number, segment in mostly_empty:
            if moved > rows_min:
                break
            if self._is_in_merge(number) or (segment.room and number == self._next - 1):
                continue
            if segment.quantizer is not quantizer and segment.live:
                # All its codes would have to be made now; the next merge takes it.
                continue
            alive = segment.alive()
            rows = segment.rows.take(alive)
            self.put(rows, None if segment.codes is None else segment.codes.take(alive))
            del self.growing_segments[number]
            moved += len(rows)

    def readers(self) -> tuple[SegmentReader, ...]:
        """Return a reader of each segment that has live rows."""
        return tuple(segment.reader() for segment in self._segments() if segment.live)

    def begin_merge(self, segments: Sequence[SealedSegment] | None = None) -> PendingMerge:
        """Begin to merge all growing segments and the sealed `segments` (None: all of them).

        Those that another merge has taken are left out.
        """
        sealed = [s for s in self.mergeable_segments if segments is None or s in segments]
        growing = self._mergeable_growing()
        chosen: list[Segment] = [*sealed, *growing.values()]
        readers = [segment.reader() for segment in chosen if segment.live]
        alive = [reader.live_rows.bits for reader in readers]
        merge = PendingMerge(readers, growing, sealed, self._ids, alive)
        self._pending.append(merge)
        self._ids = GrowingIdMap()
        return merge

    def apply_missed_deletes(self, merge: PendingMerge, new: SealedSegment) -> None:
        """Delete in `new` the rows that were deleted in the merged segments since the last call.

        `new` holds the rows of `merge.readers` in their order. A thread may call this beside the
        writer while nobody else has `new`; `commit_merge` does what then is left. Raises WrongStep.
        """
        merge.move_to(MergeState.CATCHING_UP)
        merged: list[Segment] = [*merge.growing_segments.values(), *merge.sealed_segments]
        by_uid = {segment.uid: segment for segment in merged}
        start = 0
        for n, reader in enumerate(merge.readers):
            # Copy the bits, as the writer may be clearing some right now.
            now = by_uid[reader.uid].bits().copy()
            died = row_numbers(merge.alive[n] & ~now)
            merge.alive[n] = now
            new.delete(start + np.searchsorted(reader.numbers(), died))
            start += reader.live

    def commit_merge(self, merge: PendingMerge, new: SealedSegment | None) -> None:
        """Replace the merged segments by `new`, or by nothing where no live row was left.

        Raises WrongStep.
        """
        merge.require_step(MergeState.COMMITTED)
        if new is not None:
            self.apply_missed_deletes(merge, new)
            self.sealed_segments.insert(0, new)
        for number in merge.growing_segments:
            del self.growing_segments[number]
        self.sealed_segments = [
            segment for segment in self.sealed_segments if segment not in merge.sealed_segments
        ]
        self._pending.remove(merge)
        merge.move_to(MergeState.COMMITTED)

    def abort_merge(self, merge: PendingMerge) -> None:
        """End a merge that failed; all rows stay where they are. Raises WrongStep."""
        merge.move_to(MergeState.ABORTED)
        self._pending.remove(merge)
        # Move the map of what came in meanwhile, which is the smaller one.
        for shard in self._ids.shards():
            merge.ids.put(list(shard), shard.values())
        self._ids = merge.ids

    def add_restored(self, segment: SealedSegment) -> None:
        """Add a segment of a snapshot, whose live ids have no row here yet."""
        self.sealed_segments.append(segment)

    def _quantizer(self) -> RowQuantizer | None:
        """Return the quantizer of the largest indexed segment, for rows that come in now."""
        if not self.is_searched:
            return None
        largest = self.largest()
        return None if largest is None else largest.quantizer

    def _segments(self) -> list[Segment]:
        return [*self.sealed_segments, *self.growing_segments.values()]

    def _mergeable_growing(self) -> dict[int, GrowingSegment]:
        return {n: one for n, one in self.growing_segments.items() if not self._is_in_merge(n)}

    def _is_in_merge(self, number: int) -> bool:
        return any(number in merge.growing_segments for merge in self._pending)

    def _id_maps(self) -> list[GrowingIdMap]:
        return [self._ids, *(merge.ids for merge in self._pending)]

    def _locate(self, ids: list[str]) -> _LocatedRows:
        """Return the live rows of `ids`, and drop those of growing segments from the id maps."""
        located = _LocatedRows()
        by_segment: dict[int, list[int]] = {}
        elsewhere: list[str] = []
        maps = self._id_maps()
        for item_id in ids:
            address = None
            for known in maps:
                address = known.pop(item_id)
                if address is not None:
                    break
            if address is None:
                elsewhere.append(item_id)
            else:
                located.ids.append(item_id)
                by_segment.setdefault(address >> _ROW_BITS, []).append(address & _ROW_MASK)
        located.rows += [(self.growing_segments[n], rows) for n, rows in by_segment.items()]
        if elsewhere and self.sealed_segments:
            self._locate_sealed(elsewhere, located)
        return located

    def _locate_sealed(self, ids: list[str], located: _LocatedRows) -> None:
        """Add to `located` the live rows of `ids` in sealed segments."""
        hashes = hashes_of(ids)
        for segment in self.sealed_segments:
            rows = segment.find_rows(ids, hashes)
            here = rows >= 0
            if here.any():
                located.ids += [i for i, there in zip(ids, here.tolist(), strict=True) if there]
                located.rows.append((segment, rows[here].tolist()))
