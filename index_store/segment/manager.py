"""The writer's side of one target: its chunks and segments, and where each live id stands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index_store.ann.growing_codes import RowQuantizer
from index_store.digest import Hashes
from index_store.metadata.bitmaps import row_numbers
from index_store.segment.growing import GROWING_SEGMENT_ROWS, GrowingSegment
from index_store.segment.id_lookup import GrowingIdMap, hashes_of
from index_store.segment.reader import SegmentReader
from index_store.segment.rows import Rows
from index_store.segment.sealed import SealedSegment

# An address is the number of a chunk and a row in it, in one int.
_ROW_BITS = 24
# Times the rows of a chunk without codes: a search pays for each chunk by itself.
_CODED_CHUNK = 2


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """Rows that were taken out, and their shares of the digest (in an order of their own)."""

    ids: list[str]
    partitions: NDArray[np.int32]
    hashes: Hashes


@dataclass(slots=True, eq=False)
class PendingMerge:
    """What a rebuild merges: the parts of one moment, and who they belong to.

    While it goes on, the chunks in it take no more rows and are not merged. Several may go on at
    once, each with chunks and segments of its own: what grows while a large segment is built
    anew is indexed meanwhile.
    """

    readers: list[SegmentReader]
    growing_segments: dict[int, GrowingSegment]
    sealed_segments: list[SealedSegment]
    ids: GrowingIdMap
    # Of each part the rows that were alive when the new segment was last told.
    alive: list[NDArray[np.uint8]]

    def release(self) -> None:
        """Let go of what a swap has replaced; for a thread, as it takes long.

        One by one: each holds the interpreter while its memory goes back.
        """
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


@dataclass(slots=True)
class _LocatedRows:
    """Live rows of some ids, by the chunk or segment that holds them."""

    ids: list[str] = field(default_factory=list)
    holders: list[tuple[GrowingSegment | SealedSegment, list[int]]] = field(default_factory=list)


class SegmentManager:
    """One thread writes; `views` are for any."""

    def __init__(self, dim: int, growing_segment_rows: int = GROWING_SEGMENT_ROWS) -> None:
        self._dim = dim
        self._growing_segment_rows = growing_segment_rows
        self._next = 0
        # Whether rows get codes: not while nobody asks, since a replay would take longer.
        self.is_searched = False
        self.growing_segments: dict[int, GrowingSegment] = {}
        self.sealed_segments: list[SealedSegment] = []
        self._growing = GrowingIdMap()
        self._pending: list[PendingMerge] = []

    def __len__(self) -> int:
        return sum(holder.live for holder in self._holders())

    @property
    def growing_rows(self) -> int:
        """Rows outside of sealed segments, and of those that are being built."""
        return sum(
            len(chunk.rows) for n, chunk in self.growing_segments.items() if not self._is_merging(n)
        )

    @property
    def coded_rows(self) -> int:
        """Those of the growing rows that have codes."""
        return sum(
            len(chunk.rows)
            for n, chunk in self.growing_segments.items()
            if chunk.codes is not None and not self._is_merging(n)
        )

    @property
    def mergeable_segments(self) -> list[SealedSegment]:
        """Those that no rebuild under way takes up."""
        taken = [segment for merge in self._pending for segment in merge.sealed_segments]
        return [segment for segment in self.sealed_segments if segment not in taken]

    def largest(self, *, indexed: bool = True) -> SealedSegment | None:
        """The largest segment, of those that have an index or of all."""
        return max(
            (segment for segment in self.sealed_segments if segment.ann is not None or not indexed),
            key=lambda segment: segment.capacity,
            default=None,
        )

    @property
    def is_merging(self) -> bool:
        """Whether a rebuild is under way."""
        return bool(self._pending)

    @property
    def unindexed_rows(self) -> int:
        """Live rows that every search has to scan."""
        indexed = sum(segment.live for segment in self.sealed_segments if segment.ann is not None)
        return len(self) - indexed

    @property
    def deleted_rows(self) -> int:
        """Rows in memory that were deleted or replaced."""
        chunks = sum(len(chunk.rows) - chunk.live for chunk in self.growing_segments.values())
        return chunks + sum(segment.capacity - segment.live for segment in self.sealed_segments)

    def find(self, item_id: str) -> tuple[Rows, int] | None:
        """The columns and the row that `item_id` stands in."""
        addresses = (ids.get(item_id) for ids in self._ids())
        address = next((address for address in addresses if address is not None), None)
        if address is not None:
            chunk, number = address >> _ROW_BITS, address & ((1 << _ROW_BITS) - 1)
            return self.growing_segments[chunk].rows, number
        hashes = hashes_of([item_id])
        for segment in self.sealed_segments:
            [row] = segment.find_rows([item_id], hashes).tolist()
            if row >= 0:
                return segment.rows, row
        return None

    def put(self, rows: Rows, codes: NDArray[np.uint8] | None = None) -> None:
        """Append rows; their ids are distinct, and have no live row (`remove` them first).

        `codes` are theirs, if they are known.
        """
        done, coder = 0, self._coder()
        while done < len(rows):
            chunk = self.growing_segments.get(self._next - 1)
            if chunk is None or not chunk.room or self._is_merging(self._next - 1):
                chunk = None
            if chunk is None or (chunk.codes is None and coder is not None):
                room = self._growing_segment_rows * (1 if coder is None else _CODED_CHUNK)
                chunk = self.growing_segments[self._next] = GrowingSegment(self._dim, room, coder)
                self._next += 1
            end = min(len(rows), done + chunk.room)
            address = ((self._next - 1) << _ROW_BITS) + len(chunk.rows)
            # The last chunk may have the codes of an earlier segment.
            chunk.append(rows, done, end, codes if chunk.coder is coder else None)
            self._growing.put(rows.ids[done:end], range(address, address + end - done))
            done = end

    def remove(self, ids: Iterable[str]) -> RemovedRows:
        """Take out those of `ids` that are live."""
        found = self._locate(list(ids))
        partitions, hashes = [np.empty(0, np.int32)], [np.empty((0, 4), np.uint32)]
        for holder, listed in found.holders:
            numbers = np.array(listed, np.intp)
            partitions.append(holder.rows.partitions[numbers])
            hashes.append(holder.rows.hashes[numbers])
            holder.delete(numbers)
        return RemovedRows(found.ids, np.concatenate(partitions), np.concatenate(hashes))

    def compact_growing(self, rows_min: int) -> None:
        """Move the live rows out of chunks mostly dead, until `rows_min` were moved.

        A chunk gives back more rows than are moved, so with `rows_min` at least the rows that came
        in, endless upserts keep memory below about twice the live rows; and the work is bounded.
        """
        moved, coder = 0, self._coder()
        for number, chunk in [
            item for item in self.growing_segments.items() if item[1].is_mostly_deleted
        ]:
            if moved > rows_min:
                break
            if self._is_merging(number) or (chunk.room and number == self._next - 1):
                continue
            if chunk.coder is not coder and chunk.live:
                # All its codes would have to be made now; the next rebuild takes it.
                continue
            alive = chunk.alive()
            rows = chunk.rows.take(alive)
            self.put(rows, None if chunk.codes is None else chunk.codes.take(alive))
            del self.growing_segments[number]
            moved += len(rows)

    def readers(self) -> tuple[SegmentReader, ...]:
        return tuple(holder.reader() for holder in self._holders() if holder.live)

    def begin_merge(self, segments: Sequence[SealedSegment] | None = None) -> PendingMerge:
        """Begin to build a segment of all chunks and of `segments` (None: all of them), but for
        those that another rebuild has begun with."""
        free = self.mergeable_segments
        chosen = [s for s in free if segments is None or s in segments]
        chunks = {n: chunk for n, chunk in self.growing_segments.items() if not self._is_merging(n)}
        holders: list[GrowingSegment | SealedSegment] = [*chosen, *chunks.values()]
        parts = [holder.reader() for holder in holders if holder.live]
        alive = [part.live_rows.bits for part in parts]
        merge = PendingMerge(parts, chunks, chosen, self._growing, alive)
        self._pending.append(merge)
        self._growing = GrowingIdMap()
        return merge

    def apply_missed_deletes(self, merge: PendingMerge, new: SealedSegment) -> None:
        """Delete in `new`, which holds the rows of `merge.readers` in their order, what died in
        them since. In a thread too, as long as nobody else has `new`: `swap` does the rest."""
        holders: list[GrowingSegment | SealedSegment] = [
            *merge.growing_segments.values(),
            *merge.sealed_segments,
        ]
        by_uid = {holder.uid: holder for holder in holders}
        start = 0
        for n, part in enumerate(merge.readers):
            # A copy: the writer may be clearing bits right now.
            now = by_uid[part.uid].bits().copy()
            died = row_numbers(merge.alive[n] & ~now)
            merge.alive[n] = now
            new.delete(start + np.searchsorted(part.numbers(), died))
            start += part.live

    def commit_merge(self, merge: PendingMerge, new: SealedSegment | None) -> None:
        """End a rebuild: `new` replaces what it was built from. None: no row was left."""
        self._pending.remove(merge)
        if new is not None:
            self.apply_missed_deletes(merge, new)
            self.sealed_segments.insert(0, new)
        for number in merge.growing_segments:
            del self.growing_segments[number]
        self.sealed_segments = [
            segment for segment in self.sealed_segments if segment not in merge.sealed_segments
        ]

    def abort_merge(self, merge: PendingMerge) -> None:
        """End a rebuild that failed: everything stays as it is."""
        self._pending.remove(merge)
        # The smaller one moves.
        for shard in self._growing.shards():
            merge.ids.put(list(shard), shard.values())
        self._growing = merge.ids

    def add_restored(self, segment: SealedSegment) -> None:
        """A segment of a snapshot; its live ids are nowhere else."""
        self.sealed_segments.append(segment)

    def _coder(self) -> RowQuantizer | None:
        """Of the largest segment that has an index."""
        if not self.is_searched:
            return None
        main = self.largest()
        return None if main is None else main.coder

    def _holders(self) -> list[GrowingSegment | SealedSegment]:
        return [*self.sealed_segments, *self.growing_segments.values()]

    def _is_merging(self, number: int) -> bool:
        return any(number in merge.growing_segments for merge in self._pending)

    def _ids(self) -> list[GrowingIdMap]:
        return [self._growing, *(merge.ids for merge in self._pending)]

    def _locate(self, ids: list[str]) -> _LocatedRows:
        """Forget where the live ones of `ids` stand, and tell it."""
        found = _LocatedRows()
        by_chunk: dict[int, list[int]] = {}
        elsewhere: list[str] = []
        growing = self._ids()
        for item_id in ids:
            address = None
            for known in growing:
                address = known.pop(item_id)
                if address is not None:
                    break
            if address is None:
                elsewhere.append(item_id)
            else:
                found.ids.append(item_id)
                numbers = by_chunk.setdefault(address >> _ROW_BITS, [])
                numbers.append(address & ((1 << _ROW_BITS) - 1))
        found.holders += [
            (self.growing_segments[chunk], numbers) for chunk, numbers in by_chunk.items()
        ]
        hashes = hashes_of(elsewhere if self.sealed_segments else [])
        for segment in self.sealed_segments if elsewhere else ():
            rows = segment.find_rows(elsewhere, hashes)
            here = rows >= 0
            if here.any():
                found.ids += [i for i, there in zip(elsewhere, here.tolist(), strict=True) if there]
                found.holders.append((segment, rows[here].tolist()))
        return found
