"""The event log in memory: order, positions, fencing and transactions as on Kafka."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from contracts.errors import Fenced, LogChanged, TopicAbsent
from contracts.events.record import (
    Fetched,
    OutRecord,
    Positions,
    Record,
    RecordPosition,
    TopicPartition,
)
from contracts.partitioner import Partitioner, partitioner
from contracts.ports.event_log import AddedPartitions
from contracts.ports.ownership import Lease, RecordClaim
from contracts.testing.clock import ManualClock

_Known = TypeVar("_Known")
_MURMUR2 = partitioner("murmur2")


class MemoryEventLog:
    """The ports EventLog and EncoderLog on dictionaries.

    `topics` maps names to partition counts. Transactions are atomic because they do not await. A
    member that joins an encoder group takes every content partition from the former member, whose
    commits then raise Fenced.
    """

    def __init__(
        self,
        topics: Mapping[str, int],
        *,
        content_topics: Sequence[str] = (),
        partition_of: Partitioner = _MURMUR2,
        clock: ManualClock | None = None,
    ) -> None:
        self._counts = dict(topics)
        self._content = tuple(content_topics)
        self._ids = {topic: uuid.uuid4().hex[:22] for topic in topics}
        self._partition_of = partition_of
        self._clock = clock or ManualClock()
        self.added: list[AddedPartitions] = []
        self.retention_s = 86_400.0
        self.lag_s = 3_600.0
        self._grown = asyncio.Condition()
        self._owner: dict[TopicPartition, Lease] = {}
        self.records: dict[TopicPartition, list[Record]] = defaultdict(list)
        self.offsets: dict[str, dict[TopicPartition, int]] = defaultdict(dict)

    # The port EventLog

    async def publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        positions = [self._append(record) for record in records]
        await self._notify()
        return positions

    async def read(self, position: RecordPosition) -> Record | None:
        records = self.records[TopicPartition(position.topic, position.partition)]
        return records[position.offset] if position.offset < len(records) else None

    async def tail(self, start: Mapping[TopicPartition, int | None]) -> "MemoryLogReader":
        positions = {partition: offset or 0 for partition, offset in start.items()}
        for partition, offset in positions.items():
            if offset > len(self.records[partition]):
                raise LogChanged(f"{partition}: offset {offset} is past the end")
        return MemoryLogReader(self, positions)

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        return {topic: self._known(self._ids, topic) for topic in topics}

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        return {topic: self._known(self._counts, topic) for topic in topics}

    async def added_partitions(self, topics: Iterable[str]) -> list[AddedPartitions]:
        return [added for added in self.added if added.topic in set(topics)]

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: len(self.records[partition]) for partition in partitions}

    async def delete_retention_s(self, topics: Iterable[str]) -> float:
        return self.retention_s

    async def compaction_lag_s(self, topics: Iterable[str]) -> float:
        return self.lag_s

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        return dict(self.offsets[group])

    async def commit(self, group: str, positions: Positions) -> None:
        self.offsets[group].update(positions)

    # The port EncoderLog

    @asynccontextmanager
    async def join(self, group: str) -> AsyncIterator["MemoryOwnership"]:
        partitions = [
            TopicPartition(topic, number)
            for topic in self._content
            for number in range(self._counts[topic])
        ]
        leases = {tp: Lease(tp, self._ids[tp.topic]) for tp in partitions}
        self._owner.update(leases)
        yield MemoryOwnership(self, group, leases)

    def recreate_topic(self, topic: str) -> None:
        """Delete a topic and create it again: it is empty and has another id."""
        self._ids[topic] = uuid.uuid4().hex[:22]
        for name, number in list(self.records):
            if name == topic:
                del self.records[TopicPartition(name, number)]

    # Used by the reader and the ownership below

    def now(self) -> float:
        return self._clock.now()

    def owns(self, lease: Lease) -> bool:
        """Return whether a lease has not ended."""
        return self._owner.get(lease.partition) is lease

    async def append_transaction(
        self, group: str, outputs: Sequence[OutRecord], offsets: Positions
    ) -> None:
        for record in outputs:
            self._append(record)
        self.offsets[group].update(offsets)
        await self._notify()

    async def wait_for_more(self, timeout_ms: int) -> None:
        """Wait until a record is appended, or until the timeout."""
        try:
            async with asyncio.timeout(timeout_ms / 1000), self._grown:
                await self._grown.wait()
        except TimeoutError:
            pass

    def _append(self, record: OutRecord) -> RecordPosition:
        count = self._known(self._counts, record.topic)
        number = record.partition
        if number is None:
            number = self._partition_of(record.key or b"", count)
        log = self.records[TopicPartition(record.topic, number)]
        log.append(
            Record(
                record.topic,
                number,
                len(log),
                int(self._clock.now() * 1000),
                record.key,
                record.value,
                tuple(record.headers),
            )
        )
        return RecordPosition(record.topic, number, len(log) - 1)

    async def _notify(self) -> None:
        async with self._grown:
            self._grown.notify_all()

    def _known(self, table: Mapping[str, _Known], topic: str) -> _Known:
        if topic not in table:
            raise TopicAbsent(f"topic {topic} does not exist")
        return table[topic]


class MemoryLogReader:
    """The LogReader port on a MemoryEventLog."""

    def __init__(self, log: MemoryEventLog, start: Positions) -> None:
        self._log = log
        self._positions = dict(start)

    async def fetch(
        self, *, records_max: int, timeout_ms: int, without: Collection[TopicPartition] = ()
    ) -> Fetched:
        fetched = self._take(records_max, without)
        if not fetched.records:
            await self._log.wait_for_more(timeout_ms)
            fetched = self._take(records_max, without)
        return fetched

    async def stable_offsets(self) -> dict[TopicPartition, int]:
        return await self._log.end_offsets(self._positions)

    async def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    async def close(self) -> None:
        """Do nothing: a reader in memory holds no resources."""

    def _take(self, records_max: int, without: Collection[TopicPartition]) -> Fetched:
        fetched = Fetched()
        left = records_max
        for partition, position in self._positions.items():
            if partition in without:
                continue
            records = self._log.records[partition][position : position + left]
            if records:
                fetched.records[partition] = records
                self._positions[partition] = position + len(records)
                left -= len(records)
        fetched.positions = dict(self._positions)
        fetched.caught_up_at = {
            partition: self._log.now()
            for partition, position in self._positions.items()
            if position >= len(self._log.records[partition])
        }
        return fetched


class MemoryOwnership:
    """The Ownership port on a MemoryEventLog; a later member ends it."""

    def __init__(
        self, log: MemoryEventLog, group: str, leases: Mapping[TopicPartition, Lease]
    ) -> None:
        self._log = log
        self._group = group
        self._leases = dict(leases)
        committed = log.offsets[group]
        self._readers = {
            topic: MemoryLogReader(
                log, {p: committed.get(p, 0) for p in leases if p.topic == topic}
            )
            for topic in {partition.topic for partition in leases}
        }

    def is_current(self, lease: Lease) -> bool:
        return self._log.owns(lease)

    async def fetch(
        self,
        topic: str,
        *,
        records_max: int,
        timeout_ms: int,
        without: Collection[TopicPartition] = (),
    ) -> list[RecordClaim]:
        reader = self._readers[topic]
        fetched = await reader.fetch(
            records_max=records_max, timeout_ms=timeout_ms, without=without
        )
        return [
            RecordClaim(self._leases[partition], records, fetched.positions[partition])
            for partition, records in fetched.records.items()
            if self._log.owns(self._leases[partition])
        ]

    async def commit(self, claim: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        if not self._log.owns(claim.lease):
            raise Fenced(f"{claim.lease.partition} has a newer owner")
        await self._log.append_transaction(
            self._group, outputs, {claim.lease.partition: claim.next_position}
        )

    @property
    def owned_partitions(self) -> frozenset[TopicPartition]:
        return frozenset(tp for tp, lease in self._leases.items() if self._log.owns(lease))

    @property
    def is_member(self) -> bool:
        return True
