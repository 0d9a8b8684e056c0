"""Reads the oldest record still to be processed, of many partitions, as cheaply as Kafka allows.

Between a committed offset and the end there may be nothing but transaction markers, aborted
records and what compaction took: then there is no such record, and nobody is behind.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition

from contracts.events.record import TopicPartition
from streams.kafka.client_lifecycle import close_consumer_or_producer, start_client
from streams.kafka.connection import KafkaConnection

# A fetch returns whole batches, at least one: asking for less than a batch gets just one.
_FETCH_BYTES = 4096
_POLL_MS = 100


@dataclass(frozen=True, slots=True)
class OldestRecord:
    """The first record at or after a position: when it was appended, and the content behind it.

    The two differ for an embeddings record, whose header `appended` tells of its content record.
    """

    offset: int
    timestamp_ms: int
    appended_ms: int


class OldestRecordReader:
    """One consumer over fixed partitions, paused but for the moments in which it fetches."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = [KafkaPartition(*partition) for partition in partitions]

    @classmethod
    async def open(
        cls,
        connection: KafkaConnection,
        partitions: Sequence[TopicPartition],
        *,
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
    ) -> Self:
        """Open it on committed records, or also on those of open and aborted transactions."""
        consumer = AIOKafkaConsumer(
            **connection.client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=_POLL_MS,
            request_timeout_ms=5_000,
        )
        await start_client(consumer)
        oldest = cls(consumer, partitions)
        consumer.assign(oldest._partitions)
        for partition in oldest._partitions:
            # Any position will do while paused; without one the consumer looks for one itself.
            consumer.seek(partition, 0)
        consumer.pause(*oldest._partitions)
        return oldest

    async def close(self) -> None:
        await close_consumer_or_producer(self._consumer)

    async def bounds(self) -> dict[TopicPartition, tuple[int, int]]:
        """Ask the broker for the first offset and the end of every partition."""
        begins, ends = await asyncio.gather(
            self._consumer.beginning_offsets(self._partitions), self.ends()
        )
        return {
            TopicPartition(*partition): (begins[partition], ends[TopicPartition(*partition)])
            for partition in self._partitions
        }

    async def ends(self) -> dict[TopicPartition, int]:
        """Return the last stable offsets, or the high watermarks where uncommitted records are
        read.
        """
        # The isolation level decides which ones, by KIP-98.
        ends = await self._consumer.end_offsets(self._partitions)
        return {TopicPartition(*partition): offset for partition, offset in ends.items()}

    async def read(
        self, spans: Mapping[TopicPartition, tuple[int, int]]
    ) -> dict[TopicPartition, OldestRecord | None]:
        """The oldest record in each span [position, end); None where it holds none.

        Waits until every span is decided; the caller bounds it.
        """
        found: dict[TopicPartition, OldestRecord | None] = {}
        wanted = {KafkaPartition(*partition): end for partition, (_, end) in spans.items()}
        try:
            for partition, (position, _) in spans.items():
                self._consumer.seek(KafkaPartition(*partition), position)
            self._consumer.resume(*wanted)
            while wanted:
                # One record of one partition at a time: the rest of its batch is never decoded.
                records = await self._consumer.getmany(*wanted, timeout_ms=_POLL_MS, max_records=1)
                for partition, [record] in records.items():
                    within = record.offset < wanted.pop(partition)
                    found[TopicPartition(*partition)] = _oldest(record) if within else None
                    self._consumer.pause(partition)
                for partition, end in list(wanted.items()):
                    # Positions move past markers without a record being returned.
                    if await self._consumer.position(partition) >= end:
                        del wanted[partition]
                        found[TopicPartition(*partition)] = None
                        self._consumer.pause(partition)
        finally:
            self._consumer.pause(*self._partitions)
            # Lets go of what was fetched beyond the one record.
            await self._consumer.getmany(timeout_ms=0)
        return found


def _oldest(record: ConsumerRecord) -> OldestRecord:
    appended = next((value for key, value in record.headers if key == "appended"), b"")
    content_ms = int(appended) if appended.isdigit() else record.timestamp
    return OldestRecord(record.offset, record.timestamp, content_ms)
