"""The records of the event log, and their positions.

These are plain classes that depend on no client library, so that the in-memory event log and Kafka
are interchangeable.
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
    """The position of a record, as publishing returns it and the `source` of a hit shows it."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read.

    `timestamp_ms` is the time at which the broker appended it, in milliseconds since 1970.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def header(self, name: str) -> bytes | None:
        """Return the value of the last header of that name, as Kafka's `lastHeader` does."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record to write. If `partition` is None, the hash of the key chooses the partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


def record_bytes(record: Record | OutRecord) -> int:
    """Return the size of key, value and headers in bytes."""
    headers = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


@dataclass(frozen=True, slots=True)
class Source:
    """The content record that an embedding or tombstone was made from.

    The header `source` holds it as `TOPIC_ID:PARTITION:OFFSET` in ASCII, with TOPIC_ID as Kafka's
    tools print it, so that it can be read with a console consumer.
    """

    topic_id: str
    partition: int
    offset: int

    def encode(self) -> bytes:
        """Return the header's value."""
        return f"{self.topic_id}:{self.partition}:{self.offset}".encode()

    @classmethod
    def decode(cls, raw: bytes) -> "Source":
        """Read the header's value. Raise ValueError where it does not have that form."""
        topic_id, partition, offset = raw.decode("ascii").split(":")
        return cls(topic_id, int(partition), int(offset))


@dataclass(slots=True)
class Fetched:
    """The result of one fetch: records by partition, and the reader's positions after them.

    Positions move past transaction markers and compacted records, so they may advance while
    `records` is empty. `caught_up_at` holds the partitions of which every stable record has been
    read, each with the time (in seconds since 1970) of the broker's answer that showed it.
    While no broker answers, that time does not advance.
    """

    records: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    caught_up_at: dict[TopicPartition, float] = field(default_factory=dict)
