"""Scans of partitions: what the log holds now, read once, each partition up to its stable end."""

from collections.abc import AsyncIterator, Mapping

from contracts.events.record import Positions, Record, TopicPartition
from contracts.ports.event_log import EventLog, LogReader

# Held at once; letters and pictures may be large.
_RECORDS_MAX = 500
_POLL_MS = 200


async def read_to_end(reader: LogReader) -> AsyncIterator[Record]:
    """Yield the records from the reader's positions to the stable ends of now, in partition order.

    The last of them may have been appended after the call. Raises LogChanged.
    """
    async for record in read_to_offsets(reader, await reader.stable_offsets()):
        yield record


async def read_to_offsets(reader: LogReader, ends: Positions) -> AsyncIterator[Record]:
    """Yield the records up to `ends`, and wait for those that are not stable yet."""
    positions: Positions = await reader.positions()
    while any(positions[partition] < end for partition, end in ends.items()):
        fetched = await reader.fetch(records_max=_RECORDS_MAX, timeout_ms=_POLL_MS)
        positions = fetched.positions
        for records in fetched.records.values():
            for record in records:
                yield record


async def read_existing(
    event_log: EventLog, start: Mapping[TopicPartition, int | None]
) -> AsyncIterator[Record]:
    """Yield what the log holds now from `start` on; None stands for a partition's beginning."""
    reader = await event_log.tail(start)
    try:
        async for record in read_to_end(reader):
            yield record
    finally:
        await reader.close()
