"""The oldest record that is still to be processed, of many partitions, read as cheaply as possible.

Between a committed offset and the end there may be nothing but transaction markers, aborted records
and gaps of compaction. Then there is no such record, and nobody is behind.
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
    """The first record at or after a position, with the times at which it and its content came.

    The two times differ for an embeddings record, whose header `appended` holds that of its content
    record.
    """

    offset: int
    timestamp_ms: int
    appended_ms: int


class OldestRecordReader:
    """One consumer of fixed partitions, which are paused except while it fetches."""

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
        """Open a reader of committed records, or also of those of open and aborted transactions."""
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
        """Return the last stable offsets, or high watermarks if uncommitted records are read."""
        # The isolation level decides which ones, by KIP-98.
        ends = await self._consumer.end_offsets(self._partitions)
        return {TopicPartition(*partition): offset for partition, offset in ends.items()}

    async def read(
        self, spans: Mapping[TopicPartition, tuple[int, int]]
    ) -> dict[TopicPartition, OldestRecord | None]:
        """Return the oldest record in each span [position, end), or None if it holds none.

        This waits until every span is decided; the caller bounds it.
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
