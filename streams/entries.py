"""What an embeddings partition says of its ids, without the vectors: live, or gone and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from contracts.ports import EventLog
from contracts.records import Record, Source, TopicPartition
from streams.reading import records_now


@dataclass(frozen=True, slots=True)
class Entry:
    """The last record of an id. `offset` is of the content record behind it; -1: none."""

    live: bool
    offset: int
    reason: str | None = None


async def read_entries(event_log: EventLog, partition: TopicPartition) -> dict[str, Entry]:
    """By id; costs one read of the partition, up to its stable end now."""
    entries: dict[str, Entry] = {}
    async for record in records_now(event_log, {partition: None}):
        if record.key is not None:
            entries[record.key.decode("utf-8", "replace")] = _entry(record)
    return entries


def _entry(record: Record) -> Entry:
    raw = record.header("reason")
    reason = None if raw is None else raw.decode("utf-8", "replace")
    try:
        offset = Source.decode(record.header("source") or b"").offset
    except ValueError:
        offset = -1
    return Entry(record.value is not None, offset, reason)


def live(entries: Mapping[str, Entry]) -> set[str]:
    return {name for name, entry in entries.items() if entry.live}


@dataclass(frozen=True, slots=True)
class Missing:
    """An id that one space serves and another does not."""

    target: str
    id: str
    reason: str


def not_in(new: Mapping[str, Entry], old: Mapping[str, Entry]) -> list[str]:
    """Live in `old` and not in `new`, save for what `new` has seen deleted since.

    Both are of the same partition, and `new` has seen every content record behind `old`.
    """
    found = []
    for name in sorted(live(old) - live(new)):
        entry = new.get(name)
        deleted = entry is not None and entry.reason is None and entry.offset > old[name].offset
        if not deleted:
            found.append(name)
    return found


def why_missing(target: str, name: str, entry: Entry | None) -> Missing:
    """With the reason that the tombstone tells: the dead letter's."""
    if entry is None:
        return Missing(target, name, "absent: its content record left no embedding")
    unknown = f"unknown: taken out by the content record at offset {entry.offset}"
    return Missing(target, name, entry.reason or unknown)
