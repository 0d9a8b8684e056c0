"""The state of each id in an embeddings partition, without its vector: live, or deleted and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from contracts.events.record import Record, Source, TopicPartition
from contracts.ports.event_log import EventLog
from streams.kafka.partition_scan import read_existing, read_to_offsets


@dataclass(frozen=True, slots=True)
class IdState:
    """The last record of an id; `offset` is that of its content record, or -1 if it has none."""

    live: bool
    offset: int
    reason: str | None = None


async def read_id_states(event_log: EventLog, partition: TopicPartition) -> dict[str, IdState]:
    """Read the partition once, up to its stable end now, and return the state of each id."""
    entries: dict[str, IdState] = {}
    async for record in read_existing(event_log, {partition: None}):
        if record.key is not None:
            entries[record.key.decode("utf-8", "replace")] = _entry(record)
    return entries


@dataclass(frozen=True, slots=True)
class IdStatesAt:
    """The states of the ids of an embeddings partition at one offset of its content partition.

    `entries` come from content records before that offset, and `later` are the ids with a record at
    or after it. An id in `later` may lack its entry: an encoder writes only the newest of the
    records of an item that it takes together, and compaction keeps only the newest.
    """

    entries: Mapping[str, IdState]
    later: frozenset[str]


async def read_id_states_at(
    event_log: EventLog, partition: TopicPartition, content_offset: int
) -> IdStatesAt:
    """Read the partition to its end now, and wait for the transactions that are still open.

    The records behind an offset that an encoder has just committed may be in one of these: Kafka
    shows the committed offset a moment before the records that were committed with it.
    """
    entries: dict[str, IdState] = {}
    later: set[str] = set()
    ends = await event_log.end_offsets([partition])
    reader = await event_log.tail({partition: None})
    try:
        async for record in read_to_offsets(reader, ends):
            if record.key is None:
                continue
            name, entry = record.key.decode("utf-8", "replace"), _entry(record)
            if entry.offset < content_offset:
                entries[name] = entry
            else:
                later.add(name)
    finally:
        await reader.close()
    return IdStatesAt(entries, frozenset(later))


def _entry(record: Record) -> IdState:
    raw = record.header("reason")
    reason = None if raw is None else raw.decode("utf-8", "replace")
    try:
        offset = Source.decode(record.header("source") or b"").offset
    except ValueError:
        offset = -1
    return IdState(record.value is not None, offset, reason)


def live_ids(entries: Mapping[str, IdState]) -> set[str]:
    """Return the ids whose last record is not a tombstone."""
    return {name for name, entry in entries.items() if entry.live}


@dataclass(frozen=True, slots=True)
class MissingItem:
    """An id that one space serves and another does not."""

    target: str
    id: str
    reason: str


def missing_items(new: IdStatesAt, old: Mapping[str, IdState]) -> list[str]:
    """List the ids live in `old` but not in `new`, at the same offset of their content partition.

    `new` must have seen every content record before that offset. An id whose record `new` skipped
    for a later one is not counted: `new` says nothing about it at this offset.
    """
    return [name for name in sorted(live_ids(old)) if _is_missing(name, new, old[name].offset)]


def _is_missing(name: str, new: IdStatesAt, offset: int) -> bool:
    """Return whether `new` lacks an id that the content record at `offset` made live in `old`."""
    entry = new.entries.get(name)
    if entry is None or (not entry.live and entry.offset < offset):
        return name not in new.later
    was_deleted_later = entry.reason is None and entry.offset > offset
    return not entry.live and not was_deleted_later


def with_reasons(target: str, name: str, entry: IdState | None) -> MissingItem:
    """Return the missing id with the reason in its tombstone, which is that of its dead letter."""
    if entry is None:
        return MissingItem(target, name, "absent: its content record left no embedding")
    unknown = f"unknown: taken out by the content record at offset {entry.offset}"
    return MissingItem(target, name, entry.reason or unknown)
