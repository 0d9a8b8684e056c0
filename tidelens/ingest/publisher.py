"""Publish files in batches through the EventLog port, in order, and list what failed.

One batch is read from disk while the one before it is on its way: the disk and the broker work at
the same time, memory holds two batches, and records keep the order they were given in.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from aiokafka.errors import KafkaError

from contracts.errors import RejectedRecord
from contracts.events.content_event import Content, content_record, delete_record
from contracts.events.record import OutRecord, RecordPosition
from contracts.picture_formats import media_type_of
from contracts.ports.event_log import EventLog
from contracts.settings import ContentSettings
from contracts.topics import Names, Target
from tidelens.ingest.content_files import RefusedContent, content_events_of
from tidelens.ingest.file_types import PublishEntry, SkippedFile, sources
from tidelens.ingest.folder_watch import watch_folder

__all__ = [
    "PublishResult",
    "content_events_of",
    "delete",
    "entries_of",
    "publish",
    "sources",
    "watch_folder",
]

BATCH_RECORDS_MAX = 500
BATCH_BYTES_MAX = 8 * 1024 * 1024

PublishInput = Content | RefusedContent | SkippedFile
Advance = Callable[[int], None]


@dataclass(slots=True)
class PublishResult:
    """The result of publishing: the numbers of records, and what was refused or skipped."""

    records: int = 0
    by_reference: int = 0
    refused: list[RefusedContent] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """The number of skipped files by reason."""
    last: dict[tuple[str, int], RecordPosition] = field(default_factory=dict)
    """The last record in each partition: waiting for these waits for all."""

    @property
    def tokens(self) -> list[RecordPosition]:
        return sorted(self.last.values())

    def note(self, positions: Iterable[RecordPosition]) -> None:
        for position in positions:
            self.records += 1
            self.last[position.topic, position.partition] = position


async def publish(
    event_log: EventLog,
    names: Names,
    entries: Iterable[PublishInput],
    *,
    advance: Advance = lambda _: None,
    batch_records_max: int = BATCH_RECORDS_MAX,
) -> PublishResult:
    """Publish every entry, and call `advance` with the number of those done. `entries` may block.

    A batch has at most `batch_records_max` entries. A record that the broker refuses does not stop
    the rest. Raises KafkaError or BrokerUnavailable if the broker cannot be reached.
    """
    done = PublishResult()
    batches = _batches(entries, batch_records_max)
    batch = await asyncio.to_thread(next, batches, None)
    while batch is not None:
        reading = asyncio.create_task(asyncio.to_thread(next, batches, None))
        try:
            await _publish_batch(event_log, names, batch, done)
            advance(len(batch))
        finally:
            # A thread cannot be cancelled: wait for it, so that it never outlives us.
            following = await reading
        batch = following
    return done


async def delete(
    event_log: EventLog, names: Names, target: Target, ids: Iterable[str]
) -> PublishResult:
    """Publish a deletion for each id."""
    done = PublishResult()
    topic = names.content(target)
    waiting = iter(ids)
    while group := list(itertools.islice(waiting, BATCH_RECORDS_MAX)):
        records = []
        for item_id in group:
            try:
                records.append(delete_record(topic, item_id))
            except RejectedRecord as error:
                done.refused.append(RefusedContent(repr(item_id), error.code, error.message))
        done.note(await event_log.publish(records))
    return done


async def _publish_batch(
    event_log: EventLog, names: Names, batch: Sequence[PublishInput], done: PublishResult
) -> None:
    done.refused += [entry for entry in batch if isinstance(entry, RefusedContent)]
    done.left_out.update(entry.reason for entry in batch if isinstance(entry, SkippedFile))
    contents = [entry for entry in batch if isinstance(entry, Content)]
    done.by_reference += sum(content.ref is not None for content in contents)
    records = [_record(names, content) for content in contents]
    if not records:
        return
    try:
        done.note(await event_log.publish(records))
        return
    except KafkaError as error:
        if error.retriable:
            raise
    # One of them is at fault. Those that went through go again: an event is the whole state.
    for content, record in zip(contents, records, strict=True):
        try:
            done.note(await event_log.publish([record]))
        except KafkaError as error:
            if error.retriable:
                raise
            done.refused.append(RefusedContent(content.id, "refused_by_broker", str(error)))


def _record(names: Names, content: Content) -> OutRecord:
    topic = names.content(content.target)
    return content_record(topic, content, media_type=media_type_of(content.image or b""))


def _batches(entries: Iterable[PublishInput], records_max: int) -> Iterator[list[PublishInput]]:
    batch: list[PublishInput] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        if isinstance(entry, Content):
            size += len(entry.image or b"") + len(entry.text or "")
        if len(batch) >= records_max or size >= BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def entries_of(found: Iterable[PublishEntry], settings: ContentSettings) -> Iterator[PublishInput]:
    """Yield the events of all files, with one file open at a time."""
    for one in found:
        yield from content_events_of(one, settings)
