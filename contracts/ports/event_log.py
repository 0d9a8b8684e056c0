"""The ports of the event log, as producers and index nodes use it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.events.record import (
    Fetched,
    OutRecord,
    Positions,
    Record,
    RecordPosition,
    TopicPartition,
)


class LogReader(Protocol):
    """A reader of committed records from assigned partitions, in order.

    An offset out of range raises LogChanged: a reader never jumps to either end of a partition.
    """

    async def fetch(self, *, records_max: int, timeout_ms: int) -> Fetched:
        """Return the next records, at most `records_max`, and the positions after them.

        It waits up to `timeout_ms` for the first record. Raises LogChanged.
        """
        ...

    async def positions(self) -> dict[TopicPartition, int]:
        """Return the positions at which the next fetch begins."""
        ...

    async def stable_offsets(self) -> dict[TopicPartition, int]:
        """Ask the broker for the last stable offset of each assigned partition."""
        ...

    async def close(self) -> None:
        """Release what the reader holds, such as its connections."""
        ...


@dataclass(frozen=True, slots=True)
class AddedPartitions:
    """The partitions that were added to a topic after it was created.

    `records` is the number of records that lie in them, which nothing reads.
    """

    topic: str
    created_count: int
    current_count: int
    records: int

    def __str__(self) -> str:
        added = self.current_count - self.created_count
        return (
            f"topic {self.topic} was created with {self.created_count} partitions and has "
            f"{self.current_count} now: the {added} added ones, with {self.records} records, are "
            "ignored"
        )


class EventLog(Protocol):
    """The event log, as producers and index nodes use it."""

    async def publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        """Append records and return their positions, in the order given.

        All in-sync replicas have acknowledged them when this returns.
        """
        ...

    async def read(self, position: RecordPosition) -> Record | None:
        """Return the record at exactly this offset, or None where compaction has removed it."""
        ...

    async def tail(self, start: Mapping[TopicPartition, int | None]) -> LogReader:
        """Return a reader of the partitions in `start`, at these positions; None: the beginning."""
        ...

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the broker's id of each topic. Raises TopicMismatch for an absent topic."""
        ...

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the number of partitions that each topic was created with.

        Partitions that were added later hold nothing that Tidelens wrote. Raises TopicMismatch for
        an absent topic.
        """
        ...

    async def added_partitions(self, topics: Iterable[str]) -> list[AddedPartitions]:
        """Return the topics among these that have more partitions than they were created with."""
        ...

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermarks, which include the records of open transactions."""
        ...

    async def delete_retention_s(self, topics: Iterable[str]) -> float:
        """Return for how many seconds tombstones stay at least (delete.retention.ms).

        The result is infinite where the setting is unknown.
        """
        ...

    async def compaction_lag_s(self, topics: Iterable[str]) -> float:
        """Return for how many seconds every record stays at least (min.compaction.lag.ms).

        The result is infinite where the setting is unknown.
        """
        ...

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the committed offsets of a group."""
        ...

    async def commit(self, group: str, positions: Positions) -> None:
        """Commit the positions of an index node, which only dashboards use."""
        ...
