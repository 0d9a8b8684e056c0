"""Partitions that are added to topics while encoders run are ignored by all, and reported."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka.admin import NewPartitions

from contracts.errors import TopicMismatch
from contracts.events.content_event import content_record
from contracts.events.partition_count_record import CreatedTopic, RecordedPartitionCounts
from contracts.events.record import TopicPartition
from contracts.ports.event_log import AddedPartitions
from contracts.topics import TARGETS, topic_specs
from streams.kafka.event_log import KafkaEventLog
from streams.lag.kafka_lag import KafkaLag
from streams.ownership.kafka_ownership import KafkaOwnership
from streams.topics.admin import create_topics, read_topics
from streams.topics.creation import create_collection_topics
from streams.topics.metadata import describe_topics
from tests.integration.test_ownership import ENCODER, live, running_worker
from tests.kits.kafka import (
    MURMUR2,
    RECORD_BYTES_MAX,
    Collection,
    caption,
    collection,
    nothing_open,
)
from tests.kits.roles import PATIENCE_S
from tidelens.process.clock import SystemClock

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

MADE, NOW = 2, 5


@asynccontextmanager
async def opened(kit: Collection) -> AsyncIterator[Collection]:
    """Return the collection with an event log that uses the kept counts."""
    async with KafkaEventLog.open(
        kit.connection,
        partition_of=MURMUR2,
        record_bytes_max=RECORD_BYTES_MAX,
        prefix=kit.names.prefix,
    ) as log:
        yield Collection(kit.connection, kit.names, kit.partitions, log)


def specs(kit: Collection, partitions: int = MADE):
    return topic_specs(kit.names, partitions=partitions, content_bytes_max=RECORD_BYTES_MAX)


async def made(kit: Collection, partitions: int = MADE):
    return await create_collection_topics(
        kit.connection,
        kit.names,
        specs(kit, partitions),
        replication_factor=1,
        min_insync_replicas=1,
    )


async def grown(kit: Collection, *topics: str) -> None:
    async with kit.connection.admin() as admin:
        await admin.create_partitions({topic: NewPartitions(NOW) for topic in topics})
    # The broker that is asked hears of it a moment after the controller.
    async with asyncio.timeout(PATIENCE_S), kit.connection.client() as client:
        while {each.partitions for each in (await describe_topics(client, topics)).values()} != {
            NOW
        }:
            await asyncio.sleep(0.05)


async def publish(kit: Collection, items: set[str]) -> None:
    topic = kit.names.content("captions")
    await kit.log.publish([content_record(topic, caption(item, f"of {item}")) for item in items])


async def hear_of_it(ownership: KafkaOwnership) -> None:
    """Let the group's member ask for the topics now, not within five minutes."""
    before = ownership._session
    async with asyncio.timeout(PATIENCE_S):
        while ownership._session in (before, None):
            if ownership._membership is not None:
                await ownership._membership.consumer._client.force_metadata_update()
            await asyncio.sleep(0.05)


async def test_partitions_that_are_added_while_running_are_ignored(kafka) -> None:
    first, then = {f"a{n}" for n in range(8)}, {f"b{n}" for n in range(8)}
    async with collection(kafka.bootstrap, partitions=MADE) as plain, opened(plain) as kit:
        await made(kit)
        captions, embeddings = kit.names.content("captions"), kit.names.embeddings("captions")
        owned = {TopicPartition(kit.names.content(t), n) for t in TARGETS for n in range(MADE)}
        async with running_worker(kit) as ownership:
            await publish(kit, first)
            await live(kit, first)
            await grown(kit, captions, embeddings)
            await hear_of_it(ownership)
            assert ownership.owned_partitions == owned
            # This producer knew the topic before; another client learns of it now.
            await publish(kit, first | then)
            await live(kit, first | then)
            async with opened(kit) as other:
                await publish(other, {"c"})
                await live(other, first | then | {"c"})
                # Another client publishes by Kafka's count.
                await plain.log.publish(
                    [content_record(captions, caption(f"d{n}", "elsewhere")) for n in range(9)]
                )
                [added, other_added] = await other.log.added_partitions([captions, embeddings])
                assert (added.topic, added.created_count, added.current_count) == (
                    captions,
                    MADE,
                    NOW,
                )
                assert added.records == sum(
                    MURMUR2(f"d{n}".encode(), NOW) >= MADE for n in range(9)
                )
                assert other_added == AddedPartitions(embeddings, MADE, NOW, 0)
                counts = await other.log.partition_counts([captions, embeddings])
                assert counts == {captions: MADE, embeddings: MADE}
        # A restart changes nothing of it, and nobody waits for what nobody reads.
        async with running_worker(kit) as ownership:
            await publish(kit, {"e"})
            async with asyncio.timeout(PATIENCE_S):
                while ("captions", "e") not in await kit.truth(ENCODER):
                    await asyncio.sleep(0.1)
            assert ownership.owned_partitions == owned
        lag = KafkaLag(kit.connection, kit.names, None, SystemClock())
        rows = await lag.lag()
        await lag.stop()
        assert {row.partition for row in rows} == set(range(MADE))
        assert sum(row.records for row in rows) == 0
        assert {str(one) for one in (await made(kit)).differences} == {
            f"{topic}: partitions is {NOW}, want {MADE}" for topic in (captions, embeddings)
        }
    await nothing_open()


async def test_a_count_is_kept_for_topics_that_were_grown_before_any_was(kafka) -> None:
    """Topics of an earlier version have no stored count; their embeddings show it."""
    async with collection(kafka.bootstrap, partitions=MADE) as plain:
        captions, embeddings = plain.names.content("captions"), plain.names.embeddings("captions")
        await grown(plain, captions)
        await made(plain)
        await grown(plain, embeddings)
        async with opened(plain) as kit:
            assert await kit.log.partition_counts([captions]) == {captions: MADE}
        with pytest.raises(TopicMismatch, match=rf"has {MADE} partitions, {NOW} are wanted"):
            await made(plain, NOW)


async def test_a_target_whose_topics_do_not_fit_does_not_stop_the_other(
    kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content with more partitions than its embeddings is encoded once these have as many."""
    monkeypatch.setattr("streams.topics.identity.EVERY_S", 0.1)
    async with collection(kafka.bootstrap, partitions=MADE) as plain, opened(plain) as kit:
        images, embeddings = kit.names.content("images"), kit.names.embeddings("images")
        await grown(kit, images)
        ids = await kit.connection.topic_ids([images])
        kept = RecordedPartitionCounts({"images": CreatedTopic(ids[images], NOW)}).record(
            kit.names.control
        )
        await kit.log.publish([kept])
        with pytest.raises(TopicMismatch, match="no TIDELENS_PARTITIONS fits"):
            await made(kit)
        wanted = {f"a{n}" for n in range(8)}
        async with running_worker(kit) as ownership:
            await publish(kit, wanted)
            await live(kit, wanted)
            assert {partition.topic for partition in ownership.owned_partitions} == {
                captions_of(kit)
            }
            await recreated(kit, embeddings)
            async with asyncio.timeout(PATIENCE_S):
                while (
                    sum(partition.topic == images for partition in ownership.owned_partitions)
                    != NOW
                ):
                    await asyncio.sleep(0.1)


def captions_of(kit: Collection) -> str:
    return kit.names.content("captions")


async def recreated(kit: Collection, topic: str) -> None:
    async with asyncio.timeout(PATIENCE_S), kit.connection.admin() as admin:
        await admin.delete_topics([topic])
        while await read_topics(kit.connection, [topic]):
            await asyncio.sleep(0.05)
    [spec] = [one for one in specs(kit, NOW) if one.name == topic]
    await create_topics(kit.connection, [spec], replication_factor=1, min_insync_replicas=1)
