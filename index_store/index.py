"""The index state: a fold over the embeddings topics (invariant 4), and the view that readers get.

Applying works as compaction does: the last appended record of a key wins, and a record below the
state's position is a repeat that changes nothing. So the state depends on the offsets alone, not on
the order in which partitions were interleaved.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from contracts.events.record import Fetched, Record, TopicPartition
from contracts.partitioner import Partitioner, partitioner
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch
from contracts.space import Space
from contracts.topics import TARGETS, Names, Target
from contracts.wire.as_of import AsOf
from index_store import digest
from index_store.partition_check import partitions_of
from index_store.record_reader import IndexRecord, RecordReader, RejectedEntry
from index_store.segment.growing import GROWING_SEGMENT_ROWS
from index_store.segment.manager import SegmentManager
from index_store.segment.pending_merge import PendingMerge
from index_store.segment.sealed import SealedSegment
from index_store.view import HighestSource, IndexView, row_hit

_MURMUR2 = partitioner("murmur2")
_REASONS_MAX = 10_000


class Index:
    """The index of one space. One thread applies batches, any thread reads `view`.

    `partitions` are the numbers of partitions of each target, `topic_ids` those of the embeddings
    topics. After each `apply`, `rejected` holds the unreadable records of that batch with their
    errors, and `last_appended_ms` the times (ms since 1970) at which the content records of the new
    rows were appended. `misplaced` counts records whose key belongs to another partition.
    """

    def __init__(
        self,
        space: Space,
        names: Names,
        partitions: Mapping[Target, int],
        topic_ids: Mapping[str, str],
        *,
        partition_of: Partitioner = _MURMUR2,
        growing_segment_rows: int = GROWING_SEGMENT_ROWS,
    ) -> None:
        self.space = space
        self.names = names
        self.partitions = dict(partitions)
        self.topic_ids = dict(topic_ids)
        self.epoch = _epoch(topic_ids)
        self._partition_of = partition_of
        self._growing_segment_rows = growing_segment_rows
        self._segments = {
            target: SegmentManager(space.dim, growing_segment_rows) for target in TARGETS
        }
        self._readers = {target: RecordReader(space, target) for target in TARGETS}
        self._targets: dict[TopicPartition, Target] = {
            self._embeddings(target, number): target
            for target in TARGETS
            for number in range(partitions[target])
        }
        self.positions: dict[TopicPartition, int] = dict.fromkeys(self._targets, 0)
        self.caught_up_at: dict[TopicPartition, float] = {}
        self._digests: dict[TopicPartition, int] = dict.fromkeys(self._targets, 0)
        self._highest: dict[TopicPartition, HighestSource] = {}
        self._reasons: OrderedDict[tuple[Target, int, int], str] = OrderedDict()
        self.rejected: list[RejectedEntry] = []
        self.last_appended_ms: list[int] = []
        self.misplaced = 0
        self.view = self._make_view()

    def empty_copy(self) -> "Index":
        """Return a new, empty index of the same log."""
        return Index(
            self.space,
            self.names,
            self.partitions,
            self.topic_ids,
            partition_of=self._partition_of,
            growing_segment_rows=self._growing_segment_rows,
        )

    def apply(self, batch: Fetched) -> list[AppliedBatch]:
        """Fold a batch into the state, make the new view current, and return the changes.

        There is one AppliedBatch for each target with changes. A record whose key belongs to
        another partition changes nothing; an unreadable one takes its item out (see
        index_store.record_reader). Positions advance over both, and without any record too.
        """
        self.rejected, self.last_appended_ms = [], []
        newest: dict[Target, dict[str, IndexRecord]] = {}
        for partition, records in batch.records.items():
            target = self._targets[partition]
            ids = newest.setdefault(target, {})
            for reading in self._read(target, partition, records):
                ids[reading.id] = reading
        applied = [self._fold(target, ids.values()) for target, ids in newest.items() if ids]
        for partition, position in batch.positions.items():
            self._advance(partition, position)
        # One assignment: a reader has either the whole old state or the whole new one.
        self.view = self._make_view()
        return applied

    def _read(
        self, target: Target, partition: TopicPartition, records: Sequence[Record]
    ) -> list[IndexRecord]:
        """Read the records at and after the partition's position, in their order."""
        position, count = self.positions[partition], self.partitions[target]
        new = [record for record in records if record.offset >= position]
        if not new:
            return []
        partitions = partitions_of([record.key or b"" for record in new], count, self._partition_of)
        here = partitions == partition.partition
        if not here.all():
            self.misplaced += int(len(new) - here.sum())
        own = [record for record, belongs in zip(new, here.tolist(), strict=True) if belongs]
        readings, rejected = self._readers[target].read(partition.partition, own)
        self.rejected += rejected
        for reading in readings:
            self._see_source(target, partition, reading)
        self._advance(partition, new[-1].offset + 1)
        return readings

    def _see_source(self, target: Target, partition: TopicPartition, reading: IndexRecord) -> None:
        if reading.origin is None:
            return
        highest = self._highest.get(partition)
        # A recreated content topic counts from 0 again: the offsets of the old one say nothing.
        if highest is None or highest[0] != reading.origin or highest[1] < reading.offset:
            self._highest[partition] = (reading.origin, reading.offset)
        if reading.reason is not None:
            self._reasons[target, reading.origin[1], reading.offset] = reading.reason
            while len(self._reasons) > _REASONS_MAX:
                self._reasons.popitem(last=False)

    def _fold(self, target: Target, readings: Collection[IndexRecord]) -> AppliedBatch:
        """Replace the old rows of the ids by the new ones."""
        segments = self._segments[target]
        removed = segments.remove(reading.id for reading in readings)
        rows = self._readers[target].rows([r for r in readings if r.vector is not None])
        segments.put(rows)
        segments.compact_growing(len(rows))
        self._add_to_digests(target, removed.partitions, removed.hashes, sign=-1)
        self._add_to_digests(target, rows.partitions, rows.hashes, sign=1)
        self.last_appended_ms += rows.appended_ms.tolist()
        put = set(rows.ids)
        return AppliedBatch(
            target,
            rows.ids,
            rows.vectors,
            [item_id for item_id in removed.ids if item_id not in put],
            partial(row_hit, self.names, target, rows),
            min(reading.appended_ms for reading in readings),
        )

    def _add_to_digests(
        self,
        target: Target,
        partitions: NDArray[np.int32],
        hashes: digest.Hashes,
        *,
        sign: int,
    ) -> None:
        for number in np.unique(partitions).tolist():
            partition = self._embeddings(target, number)
            change = sign * digest.sum_of_hashes(hashes[partitions == number])
            self._digests[partition] = digest.add_digests(self._digests[partition], change)

    def _advance(self, partition: TopicPartition, position: int) -> None:
        self.positions[partition] = max(self.positions[partition], position)

    def enable_growing_codes(self) -> None:
        """Give codes to rows from now on: searches get faster, and applying slower."""
        for segments in self._segments.values():
            segments.is_searched = True

    def segments_of(self, target: Target) -> SegmentManager:
        """Return the segments of a target."""
        return self._segments[target]

    def begin_merge(
        self, target: Target, segments: Sequence[SealedSegment] | None = None
    ) -> PendingMerge:
        """Begin to merge the growing rows and the sealed `segments` (None: all of them).

        `commit_merge` or `abort_merge` ends it.
        """
        return self._segments[target].begin_merge(segments)

    def apply_missed_deletes(
        self, target: Target, merge: PendingMerge, segment: SealedSegment
    ) -> None:
        """Delete in a new segment the rows deleted since it was begun. A thread may call this."""
        self._segments[target].apply_missed_deletes(merge, segment)

    def commit_merge(
        self, target: Target, merge: PendingMerge, segment: SealedSegment | None
    ) -> None:
        """Replace the merged segments by `segment`, or by nothing where no live row is left."""
        self._segments[target].commit_merge(merge, segment)
        self.view = self._make_view()

    def abort_merge(self, target: Target, merge: PendingMerge) -> None:
        """End a merge that failed; the rows stay as they are."""
        self._segments[target].abort_merge(merge)

    def add_restored(self, target: Target, segment: SealedSegment) -> None:
        """Add a segment of a snapshot; `finish_restore` makes it visible."""
        self._segments[target].add_restored(segment)
        alive = segment.alive()
        partitions, hashes = segment.rows.partitions[alive], segment.rows.hashes[alive]
        self._add_to_digests(target, partitions, hashes, sign=1)

    def finish_restore(
        self,
        positions: Mapping[TopicPartition, int],
        highest: Mapping[TopicPartition, HighestSource],
        caught_up_at: Mapping[TopicPartition, float],
        reasons: Sequence[tuple[Target, int, int, str]] = (),
    ) -> None:
        """Set the state that belongs to the restored segments, and make the view current.

        `reasons` are rows of target, content partition, offset and reason.
        """
        for target, partition, offset, reason in reasons:
            self._reasons[target, partition, offset] = reason
        self.positions.update(positions)
        self._highest.update(highest)
        self.caught_up_at.update(caught_up_at)
        self.view = self._make_view()

    def refresh(self) -> None:
        """Make the view again, as segments changed in something that is not a row."""
        self.view = self._make_view()

    def mark_caught_up(self, partition: TopicPartition, at: float) -> None:
        """Note that the index has all that was in the partition at time `at` (invariant 7)."""
        self.caught_up_at[partition] = max(at, self.caught_up_at.get(partition, at))

    def highest_source(self, target: Target, partition: int) -> int:
        """Return the highest content offset seen of a partition, or -1.

        Tombstones and refused records count too.
        """
        highest = self._highest.get(self._embeddings(target, partition))
        return -1 if highest is None else highest[1]

    def rejection_reason(self, target: Target, partition: int, offset: int) -> str | None:
        """Return the reason why a content record was refused, while it is remembered."""
        return self._reasons.get((target, partition, offset))

    def rejection_reasons(self) -> list[tuple[Target, int, int, str]]:
        """Return all remembered reasons: target, content partition, offset, reason."""
        return [(*where, reason) for where, reason in self._reasons.items()]

    def count(self, target: Target) -> int:
        """Return the number of live items."""
        return len(self._segments[target])

    def get(self, target: Target, item_id: str) -> Hit | None:
        """Return the item as it is now, with its vector, or None; rank and score are 0.

        Only the writer's thread may call this.
        """
        found = self._segments[target].find(item_id)
        if found is None:
            return None
        rows, number = found
        return row_hit(self.names, target, rows, number)

    def as_of(self) -> AsOf:
        """Return the state that an answer of the current view stands for."""
        return self.view.as_of

    def digests(self) -> list[dict[str, object]]:
        """Return the digest of each partition with the offset that it belongs to."""
        return self.view.digests_by_partition()

    def digests_match(self) -> bool:
        """Return whether the digests of the rows are those of the state, unless memory went bad."""
        return self.view.recomputed_digests() == self.view.digests

    def _embeddings(self, target: Target, number: int) -> TopicPartition:
        return TopicPartition(self.names.embeddings(target), number)

    def _make_view(self) -> IndexView:
        offsets = {
            target: [
                self.positions[self._embeddings(target, number)]
                for number in range(self.partitions[target])
            ]
            for target in TARGETS
        }
        return IndexView(
            self.names,
            {target: segments.readers() for target, segments in self._segments.items()},
            dict(self.positions),
            dict(self._digests),
            dict(self._highest),
            AsOf(self.space.name, self.epoch, offsets),
        )


def _epoch(topic_ids: Mapping[str, str]) -> str:
    """Return the name of the log, which changes when an embeddings topic is recreated."""
    joined = "\n".join(f"{topic} {topic_ids[topic]}" for topic in sorted(topic_ids))
    return hashlib.blake2b(joined.encode(), digest_size=6).hexdigest()
