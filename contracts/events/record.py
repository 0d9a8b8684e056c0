"""What crosses the event log: records in, records out, and where they stand.

Plain structs, independent of any client library, so that the in-memory log and Kafka's are
interchangeable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes]]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


Positions = Mapping[TopicPartition, int]


class RecordPosition(NamedTuple):
    """Where a record stands: what a publish answers, and what a hit's `source` shows."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read; `timestamp_ms` is the broker's append time (LogAppendTime topics)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def header(self, name: str) -> bytes | None:
        """The last header of that name, as Kafka's own `lastHeader` does."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class OutRecord:
    """One record to write. `partition` None: where the key's hash puts it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


def bytes_of(record: Record | OutRecord) -> int:
    """Of key, value and headers: a header may be as large as a value."""
    headers = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


@dataclass(frozen=True, slots=True)
class Source:
    """The content record that an embedding or tombstone came from.

    On the wire (header `source`): `TOPIC_ID:PARTITION:OFFSET` in ASCII, TOPIC_ID as Kafka's tools
    print it. Readable with a console consumer, which is why it is not packed.
    """

    topic_id: str
    partition: int
    offset: int

    def encode(self) -> bytes:
        return f"{self.topic_id}:{self.partition}:{self.offset}".encode()

    @classmethod
    def decode(cls, raw: bytes) -> "Source":
        """Raises ValueError when `raw` is not of that form."""
        topic_id, partition, offset = raw.decode("ascii").split(":")
        return cls(topic_id, int(partition), int(offset))


@dataclass(slots=True)
class Fetched:
    """One read of a tailing reader: records by partition, and the positions after them.

    Positions move past transaction markers and compaction holes, so they may advance while
    `records` is empty. `caught_up` names the partitions of which nothing stable is left to read,
    with the time (seconds since the epoch) of the broker's answer that said so: while no broker
    answers, that time stands still.
    """

    records: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    caught_up: dict[TopicPartition, float] = field(default_factory=dict)
