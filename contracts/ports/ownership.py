"""The ports of encoders in the event log: owning partitions, and writing for them exactly once."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from contracts.events.record import OutRecord, Record, TopicPartition


@dataclass(frozen=True, eq=False, slots=True)
class Lease:
    """One period of owning one content partition. Leases are compared by identity.

    `topic_id` is the broker's id of the topic at that time, which the `source` of written records
    names. `partitions` is the number of partitions that the topic was created with, if known.
    """

    partition: TopicPartition
    topic_id: str
    partitions: int | None = None


@dataclass(frozen=True, slots=True)
class RecordClaim:
    """Records of one leased partition in source order, and the position after them."""

    lease: Lease
    records: Sequence[Record]
    next_position: int


class Ownership(Protocol):
    """An encoder's membership in its consumer group, with the partitions that it owns.

    It keeps invariant 2: the former owner is fenced before the committed offset is read, and
    outputs and offset are written in one transaction. There is one caller for each topic, and one
    commit at a time for each partition.
    """

    async def fetch(
        self,
        topic: str,
        *,
        records_max: int,
        timeout_ms: int,
        without: Collection[TopicPartition] = (),
    ) -> list[RecordClaim]:
        """Return the next records of the topic's owned partitions; none if the time runs out.

        Partitions in `without` are paused: backpressure leaves their records in the log.
        """
        ...

    def is_current(self, lease: Lease) -> bool:
        """Return whether a lease has not ended; work for an ended one cannot be committed."""
        ...

    async def commit(self, claim: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        """Append `outputs` and commit the offset `claim.next_position`, or neither.

        Raises Fenced when the lease has ended, since another encoder then works on these records,
        and RecordTooLarge for an output that its topic does not accept. The records are fetched
        again after RecordTooLarge.
        """
        ...

    @property
    def owned_partitions(self) -> frozenset[TopicPartition]:
        """The content partitions that this encoder owns now."""
        ...

    @property
    def is_member(self) -> bool:
        """Return whether the group has given this encoder its share, which may be no partition."""
        ...


class EncoderLog(Protocol):
    """The event log, as encoders use it."""

    def join(self, group: str) -> AbstractAsyncContextManager[Ownership]:
        """Join `group`, which distributes the partitions of both content topics."""
        ...

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the broker's id of each topic, as EventLog.topic_ids does."""
        ...

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return each topic's number of partitions, as EventLog.partition_counts does."""
        ...
