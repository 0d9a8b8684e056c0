"""Topics that are deleted and created again while encoders know the old ones."""

import asyncio

import pytest

from contracts.errors import Fenced, LogChanged
from contracts.events.content_event import content_record
from contracts.events.record import TopicPartition
from contracts.topics import topic_specs
from streams.groups.offsets import group_offsets
from streams.lag.kafka_lag import KafkaLag
from streams.ownership.commit_metadata import CommittedOffset
from streams.ownership.kafka_ownership import KafkaOwnership
from streams.topics import identity
from streams.topics.admin import create_topics, read_topics
from streams.topics.identity import TopicIdClient, TopicIdentityCheck
from tests.integration.test_ownership import (
    as_embeddings,
    claim_all,
    committed_as,
    drained,
    encoder_log,
    ghost,
    live,
    running_worker,
)
from tests.kits.kafka import RECORD_BYTES_MAX, Collection, caption, collection, nothing_open
from tests.kits.roles import PATIENCE_S
from tidelens.process.clock import SystemClock

pytestmark = [pytest.mark.anyio, pytest.mark.broker]


async def published(kit: Collection, *items: str) -> None:
    topic = kit.names.content("captions")
    await kit.log.publish([content_record(topic, caption(item, f"of {item}")) for item in items])


async def created_again(kit: Collection, topic: str) -> None:
    specs = topic_specs(kit.names, partitions=kit.partitions, content_bytes_max=RECORD_BYTES_MAX)
    async with asyncio.timeout(PATIENCE_S):
        async with kit.connection.admin() as admin:
            await admin.delete_topics([topic])
            while await read_topics(kit.connection, [topic]):
                await asyncio.sleep(0.05)
        await create_topics(
            kit.connection,
            [spec for spec in specs if spec.name == topic],
            replication_factor=1,
            min_insync_replicas=1,
        )


def reading(ownership: KafkaOwnership, topic: str, *, stopped: bool) -> None:
    """Let its reader ask the broker for nothing, like that of a process that was stopped."""
    consumer = ownership._session._readers[topic]._consumer
    (consumer.pause if stopped else consumer.resume)(*consumer.assignment())


async def encoded(ownership: KafkaOwnership, kit: Collection, count: int) -> None:
    for claim in await claim_all(ownership, count):
        outputs = as_embeddings(kit, list(claim.records), claim.lease.topic_id)
        await ownership.commit(claim, outputs)


async def waiting(kit: Collection) -> int:
    """Count the records that the encoders' group has not processed, as `tidelens lag` does."""
    source = KafkaLag(kit.connection, kit.names, None, SystemClock())
    try:
        return sum(row.records for row in await source.lag() if row.role == "encode")
    finally:
        await source.stop()


async def test_an_encoder_that_stood_still_encodes_a_new_content_topic_from_its_beginning(
    kafka,
) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic = kit.names.content("captions")
        await published(kit, "old-1", "old-2", "old-3")
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            await encoded(ownership, kit, 3)
            reading(ownership, topic, stopped=True)
            await created_again(kit, topic)
            # More than were there before, so that the old offset lies within the new log.
            await published(kit, *(f"new-{n}" for n in range(6)))
            reading(ownership, topic, stopped=False)
            [claim] = await claim_all(ownership, 3)
            assert [record.offset for record in claim.records] == [3, 4, 5]
            with pytest.raises(Fenced, match="deleted and created again"):
                await ownership.commit(
                    claim, as_embeddings(kit, list(claim.records), claim.lease.topic_id)
                )
            await encoded(ownership, kit, 6)
            await live(kit, {f"new-{n}" for n in range(6)})
    await nothing_open()


async def test_an_encoder_with_nothing_to_commit_sees_a_new_content_topic_too(
    kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new log ends where the old one did: nothing more comes, and nothing is out of range."""
    monkeypatch.setattr("streams.topics.identity.EVERY_S", 0.1)
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic = kit.names.content("captions")
        await published(kit, "old-1", "old-2")
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            await encoded(ownership, kit, 2)
            reading(ownership, topic, stopped=True)
            await created_again(kit, topic)
            await published(kit, "new-1", "new-2")
            reading(ownership, topic, stopped=False)
            await encoded(ownership, kit, 2)
            await live(kit, {"new-1", "new-2"})


@pytest.mark.parametrize("while_running", [True, False])
async def test_a_new_embeddings_topic_is_filled_from_the_beginning(
    kafka, monkeypatch: pytest.MonkeyPatch, while_running: bool
) -> None:
    monkeypatch.setattr("streams.topics.identity.EVERY_S", 0.1)
    async with collection(kafka.bootstrap, partitions=1) as kit:
        embeddings = kit.names.embeddings("captions")
        await published(kit, "one", "two", "three")
        async with running_worker(kit):
            await drained(kit, 3)
            if while_running:
                await created_again(kit, embeddings)
                await live(kit, {"one", "two", "three"})
        if not while_running:
            await created_again(kit, embeddings)
            assert await waiting(kit) == 3
            async with running_worker(kit):
                await live(kit, {"one", "two", "three"})
        async with kit.connection.client() as client:
            committed = await group_offsets(client, kit.names.encoder_group)
        ids = await kit.connection.topic_ids([embeddings])
        [found] = [
            CommittedOffset.read(each)
            for partition, each in committed.items()
            if partition == TopicPartition(kit.names.content("captions"), 0)
        ]
        assert (found.offset, found.embeddings) == (3, ids[embeddings])
        assert await waiting(kit) == 0


@pytest.mark.parametrize("was_written", [True, False])
async def test_a_commit_of_a_version_that_named_no_embeddings_topic_is_gone_on_from(
    kafka, was_written: bool
) -> None:
    """A commit without an id is believed, unless the embeddings topic never held a record."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic = kit.names.content("captions")
        await published(kit, "one", "two")
        if was_written:
            await kit.log.publish([ghost(kit)])
        ids = await kit.connection.topic_ids([topic])
        await committed_as(kit, 2, {"topic_id": ids[topic], "caught_up_ms": 2**43})
        await published(kit, "three")
        async with running_worker(kit):
            await live(kit, {"ghost", "three"} if was_written else {"one", "two", "three"})


async def test_callers_that_come_while_a_look_is_under_way_share_the_next(
    kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    describe_topics = identity.describe_topics

    async def counting(client, topics, **options):
        asked.append(sorted(topics))
        return await describe_topics(client, topics, **options)

    monkeypatch.setattr(identity, "describe_topics", counting)
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic_client = TopicIdClient(kit.connection)
        first, second = kit.names.content("images"), kit.names.content("captions")
        try:
            earlier = asyncio.create_task(topic_client.existing_topics([first]))
            await asyncio.sleep(0)
            later = [
                asyncio.create_task(topic_client.existing_topics([one]))
                for one in (first, second, second)
            ]
            assert list(await earlier) == [first]
            assert [list(found) for found in await asyncio.gather(*later)] == [
                [first],
                [second],
                [second],
            ]
            assert asked == [[first], sorted([first, second])]
            same = TopicIdentityCheck(topic_client, {first: "another"})
            await same.check_now()
            with pytest.raises(LogChanged, match="deleted and created again"):
                same.require()
        finally:
            await topic_client.close()
    await nothing_open()
