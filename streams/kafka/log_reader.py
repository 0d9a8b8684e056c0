"""Reading assigned partitions in order: the LogReader port on aiokafka.

Reading is always by assignment and seek, read_committed, with no automatic reset: a position that
the log no longer has is an error to act on (LogChanged), never a silent jump.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import OffsetOutOfRangeError

from contracts.errors import LogChanged
from contracts.events.record import Fetched, Positions, Record, TopicPartition
from streams.kafka.client_lifecycle import close_consumer_or_producer, start_client
from streams.kafka.connection import KafkaConnection


def read_record(record: ConsumerRecord) -> Record:
    """Convert a record of aiokafka to one of the contracts."""
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        record.headers,
    )


class KafkaLogReader:
    """The LogReader port: partitions assigned once, read in order."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Sequence[KafkaPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    @classmethod
    async def open(
        cls, connection: KafkaConnection, start: Mapping[TopicPartition, int | None]
    ) -> Self:
        """Open a reader at `start`; None stands for the beginning of what the log still has."""
        consumer = AIOKafkaConsumer(
            **connection.client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=500,
            fetch_max_bytes=16 * 1024 * 1024,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        partitions = [KafkaPartition(*partition) for partition in start]
        await start_client(consumer)
        try:
            consumer.assign(partitions)
            beginning = [KafkaPartition(*p) for p, offset in start.items() if offset is None]
            if beginning:
                for partition, offset in (await consumer.beginning_offsets(beginning)).items():
                    consumer.seek(partition, offset)
            for partition, position in start.items():
                if position is not None:
                    consumer.seek(KafkaPartition(*partition), position)
        except BaseException:
            await close_consumer_or_producer(consumer)
            raise
        return cls(consumer, partitions)

    async def fetch(
        self, *, records_max: int, timeout_ms: int, without: Collection[TopicPartition] = ()
    ) -> Fetched:
        """Fetch from all partitions but those in `without`, which stay at their positions.

        Raises LogChanged if the log no longer has a position.
        """
        asked = [p for p in self._partitions if TopicPartition(*p) not in without]
        try:
            found = await self._consumer.getmany(
                *asked, timeout_ms=timeout_ms, max_records=records_max
            )
        except OffsetOutOfRangeError as error:
            raise LogChanged(f"offsets out of range: {error}") from error
        positions = await self.positions()
        return Fetched(
            {
                TopicPartition(*partition): [read_record(record) for record in records]
                for partition, records in found.items()
            },
            positions,
            self._caught_up(positions),
        )

    async def positions(self) -> dict[TopicPartition, int]:
        """Return the offset at which the next fetch continues, past markers and gaps."""
        return {
            TopicPartition(*partition): await self._consumer.position(partition)
            for partition in self._partitions
        }

    def _caught_up(self, positions: Positions) -> dict[TopicPartition, float]:
        caught_up = {}
        for partition in self._partitions:
            stable = self._consumer.last_stable_offset(partition)
            asked_ms = self._consumer.last_poll_timestamp(partition)
            if stable is None or asked_ms is None:
                continue  # nothing was fetched yet
            if positions[TopicPartition(*partition)] >= stable:
                caught_up[TopicPartition(*partition)] = asked_ms / 1000
        return caught_up

    async def stable_offsets(self) -> dict[TopicPartition, int]:
        """Ask the broker for the last stable offset of each partition."""
        # A read_committed consumer is answered with the last stable offset (KIP-98).
        ends = await self._consumer.end_offsets(self._partitions)
        return {TopicPartition(*partition): offset for partition, offset in ends.items()}

    async def close(self) -> None:
        await close_consumer_or_producer(self._consumer)
