"""The event log on Kafka: the EventLog port on aiokafka."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from contracts.errors import BrokerUnavailable
from contracts.events.record import (
    OutRecord,
    Positions,
    Record,
    RecordPosition,
    TopicPartition,
)
from contracts.partitioner import Partitioner
from contracts.ports.event_log import AddedPartitions
from streams.groups.offsets import group_offsets
from streams.kafka.client_lifecycle import close_consumer_or_producer, start_client
from streams.kafka.connection import KafkaConnection
from streams.kafka.log_reader import KafkaLogReader, read_record
from streams.topics.admin import compaction_lag_s, delete_retention_s
from streams.topics.identity import TopicIdClient
from streams.topics.metadata import TopicDescription, topic_absent
from streams.topics.partition_counts import PartitionCounts, target_of

_READ_TIMEOUT_MS = 3_000
# Records handed to the producer in one turn of the loop.
_SENT_AT_ONCE = 64


class KafkaEventLog:
    """The EventLog port on Kafka. Clients are opened on first use and kept.

    `prefix` names the collection whose partition counts are kept; without one, all partitions of a
    topic count.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        partition_of: Partitioner,
        record_bytes_max: int,
        prefix: str | None = None,
    ) -> None:
        self._connection = connection
        self._partition_of = partition_of
        self._record_bytes_max = record_bytes_max
        self._producer: AIOKafkaProducer | None = None
        self._record_consumer: AIOKafkaConsumer | None = None
        self._end_consumer: AIOKafkaConsumer | None = None
        self._committers: dict[str, AIOKafkaConsumer] = {}
        self._topic_client = TopicIdClient(connection)
        self.counts = PartitionCounts(prefix or "", self._topic_client.existing_topics, self.tail)
        self._keeps_counts = prefix is not None
        self._opening = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._asking_ends = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        connection: KafkaConnection,
        *,
        partition_of: Partitioner,
        record_bytes_max: int,
        prefix: str | None = None,
    ) -> AsyncIterator[Self]:
        log = cls(
            connection,
            partition_of=partition_of,
            record_bytes_max=record_bytes_max,
            prefix=prefix,
        )
        try:
            yield log
        finally:
            await log.close()

    async def close(self) -> None:
        for client in (
            self._producer,
            self._record_consumer,
            self._end_consumer,
            *self._committers.values(),
        ):
            if client is not None:
                await close_consumer_or_producer(client)
        await self._topic_client.close()

    async def publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        try:
            async with self._connection.errors_translated():
                return await self._publish(records)
        except KafkaError as error:
            if not error.retriable:
                raise
            # aiokafka tried for its whole timeout: a topic that was deleted, a partition without
            # a leader, or with too few replicas.
            topics = ", ".join(sorted({record.topic for record in records}))
            raise BrokerUnavailable(
                f"the brokers do not take records of {topics} now ({error!r}); `tidelens doctor` "
                "says whether the topics are there, Kafka's own tools whether their partitions "
                "have leaders and enough replicas"
            ) from error

    async def _publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        producer = await self._open_producer()
        counts = await self._counts(producer, {record.topic for record in records})
        futures = []
        for number, record in enumerate(records):
            if number % _SENT_AT_ONCE == _SENT_AT_ONCE - 1:
                # `send` rarely waits, and a thousand of them take 60 ms.
                await asyncio.sleep(0)
            partition = record.partition
            if partition is None:
                partition = self._partition_of(record.key or b"", counts[record.topic])
            futures.append(
                await producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=partition,
                    headers=list(record.headers),
                )
            )
        sent = await asyncio.gather(*futures)
        return [RecordPosition(m.topic, m.partition, m.offset) for m in sent]

    async def read(self, position: RecordPosition) -> Record | None:
        # One consumer moves from place to place; the lock keeps the moves apart.
        async with self._reading, self._connection.errors_translated():
            if self._record_consumer is None:
                self._record_consumer = await self._started("read_committed")
            partition = KafkaPartition(position.topic, position.partition)
            self._record_consumer.assign([partition])
            self._record_consumer.seek(partition, position.offset)
            try:
                found = await self._record_consumer.getmany(
                    timeout_ms=_READ_TIMEOUT_MS, max_records=1
                )
            except OffsetOutOfRangeError:
                return None
            finally:
                self._record_consumer.unsubscribe()
        for records in found.values():
            if records[0].offset == position.offset:
                return read_record(records[0])
        return None

    async def tail(self, start: Mapping[TopicPartition, int | None]) -> KafkaLogReader:
        async with self._connection.errors_translated():
            return await KafkaLogReader.open(self._connection, start)

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        return {name: topic.id for name, topic in (await self._found(topics)).items()}

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        wanted = set(topics)
        _, counts = await self._counted(wanted)
        return {topic: counts[topic] for topic in wanted}

    async def added_partitions(self, topics: Iterable[str]) -> list[AddedPartitions]:
        wanted = set(topics)
        found, counts = await self._counted(wanted)
        more = sorted(topic for topic in wanted if found[topic].partitions > counts[topic])
        added = {
            topic: [TopicPartition(topic, n) for n in range(counts[topic], found[topic].partitions)]
            for topic in more
        }
        ends = await self.end_offsets(p for partitions in added.values() for p in partitions)
        return [
            AddedPartitions(
                topic, counts[topic], found[topic].partitions, sum(ends[p] for p in partitions)
            )
            for topic, partitions in added.items()
        ]

    async def _counted(
        self, wanted: Collection[str]
    ) -> tuple[Mapping[str, TopicDescription], Mapping[str, int]]:
        """Return the topics as they are, and the partition counts that they were made with."""
        found = await self._found(wanted)
        if not self._keeps_counts:
            return found, {name: topic.partitions for name, topic in found.items()}
        prefix = self.counts.prefix
        targets = {target for topic in wanted if (target := target_of(prefix, topic))}
        contents = {f"{prefix}{target}" for target in targets} - found.keys()
        found = (
            {**found, **await self._topic_client.existing_topics(contents)} if contents else found
        )
        return found, await self.counts.counts_of(found)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = [KafkaPartition(*partition) for partition in partitions]
        if not wanted:
            return {}  # a client without partitions asks for every topic of the cluster
        async with self._asking_ends, self._connection.errors_translated():
            if self._end_consumer is None:
                # read_uncommitted: answered with the high watermark.
                self._end_consumer = await self._started("read_uncommitted")
            self._end_consumer.assign(wanted)
            self._end_consumer.pause(*wanted)
            ends = await self._end_consumer.end_offsets(wanted)
        return {TopicPartition(*partition): offset for partition, offset in ends.items()}

    async def delete_retention_s(self, topics: Iterable[str]) -> float:
        return await delete_retention_s(self._connection, topics)

    async def compaction_lag_s(self, topics: Iterable[str]) -> float:
        return await compaction_lag_s(self._connection, topics)

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        async with self._connection.client() as client:
            offsets = await group_offsets(client, group)
        return {
            TopicPartition(*partition): found.offset
            for partition, found in offsets.items()
            if found.offset >= 0
        }

    async def commit(self, group: str, positions: Positions) -> None:
        if group not in self._committers:
            consumer = AIOKafkaConsumer(
                **self._connection.client_options(), group_id=group, enable_auto_commit=False
            )
            async with self._connection.errors_translated():
                await start_client(consumer)
            self._committers[group] = consumer
        consumer = self._committers[group]
        wanted = {KafkaPartition(*partition): offset for partition, offset in positions.items()}
        if set(consumer.assignment()) != set(wanted):
            consumer.assign(list(wanted))
            consumer.pause(*wanted)
        async with self._connection.errors_translated():
            await consumer.commit(wanted)

    async def _found(self, topics: Iterable[str]) -> Mapping[str, TopicDescription]:
        wanted = set(topics)
        found = await self._topic_client.existing_topics(wanted)
        for topic in sorted(wanted - found.keys()):
            raise topic_absent(topic)
        return found

    async def _open_producer(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._connection.client_options(),
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=5,
                    max_request_size=self._record_bytes_max,
                    max_batch_size=256 * 1024,
                )
                await start_client(producer)
                self._producer = producer
            return self._producer

    async def _started(self, isolation: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._connection.client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation,
            fetch_max_wait_ms=200,
        )
        await start_client(consumer)
        return consumer

    async def _counts(self, producer: AIOKafkaProducer, topics: Iterable[str]) -> dict[str, int]:
        counts = {topic: len(await producer.partitions_for(topic)) for topic in topics}
        if not self._keeps_counts:
            return counts
        return {topic: await self.counts.to_publish(topic, n) for topic, n in counts.items()}
