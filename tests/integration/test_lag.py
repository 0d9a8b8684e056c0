"""Lag on the real broker: records and seconds, markers that do not count, a broker that is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition

from contracts.errors import BrokerUnavailable, ConfigurationError
from contracts.events.content_event import content_record
from contracts.events.embedding_record import embedding_record, encode_embedding
from contracts.events.record import OutRecord, Record, Source, TopicPartition
from contracts.ports.lag import Lag
from contracts.testing.clock import ManualClock
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names, topic_specs
from streams.devbroker.broker import LocalBroker
from streams.groups.deletion import delete_retired_groups
from streams.lag.kafka_lag import KafkaLag
from streams.lag.spaces_lag import SpacesLag
from streams.topics.admin import create_topics
from tests.kits.broker_fixture import TestKafka
from tests.kits.kafka import Collection, caption, collection

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

ENCODER = HashEncoder(dim=8)


@asynccontextmanager
async def measuring(
    kit: Collection, clock: ManualClock | None = None, group: str | None = "index"
) -> AsyncIterator[KafkaLag]:
    lag = KafkaLag(kit.connection, kit.names, group, clock or ManualClock(time.time()))
    await lag.start()
    try:
        yield lag
    finally:
        await lag.stop()


async def publish(kit: Collection, count: int) -> None:
    topic = kit.names.content("captions")
    await kit.log.publish([content_record(topic, caption(f"id{n}", "text")) for n in range(count)])


async def encode_one(kit: Collection, partition: int = 0) -> Record:
    """Write what an encoder does for the first caption: embedding and offset in one transaction."""
    captions = kit.names.content("captions")
    content = (await kit.read_all(captions))[partition][0]
    source = Source("topic-id", partition, content.offset)
    value = encode_embedding(ENCODER.space, ENCODER.encode_texts(["text"])[0])
    record = embedding_record(kit.names.embeddings("captions"), content, source, value)
    await transact(
        kit, [record], {KafkaPartition(captions, partition): content.offset + 1}, commit=True
    )
    return content


async def transact(
    kit: Collection,
    records: list[OutRecord],
    offsets: dict[KafkaPartition, int],
    *,
    commit: bool,
) -> None:
    producer = AIOKafkaProducer(
        **kit.connection.client_options(), transactional_id=f"{kit.names.bare}.test"
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        for r in records:
            await producer.send_and_wait(
                r.topic, r.value, r.key, partition=r.partition, headers=list(r.headers)
            )
        if offsets:
            await producer.send_offsets_to_transaction(offsets, kit.names.encoder_group)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


def row(lags: list[Lag], role: str, topic: str, partition: int = 0) -> Lag:
    [found] = [g for g in lags if (g.role, g.topic, g.partition) == (role, topic, partition)]
    return found


async def eventually(
    lag: KafkaLag, role: str, topic: str, reached: Callable[[Lag], bool], timeout_s: float = 10
) -> Lag:
    """The row once it is so: the broker writes a transaction's markers after it answered."""
    async with asyncio.timeout(timeout_s):
        while not reached(found := row(await lag.lag(), role, topic)):
            await asyncio.sleep(0.02)
    return found


async def test_nothing_published_is_no_lag(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=2) as kit, measuring(kit) as lag:
        rows = await lag.lag()
        assert len(rows) == 2 * 2 * 2  # roles, targets, partitions
        assert {(r.records, r.seconds) for r in rows} == {(0, 0.0)}
        assert lag.behind_s(rows) == 0.0


async def test_seconds_are_the_age_of_the_oldest_unprocessed_record(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        captions = kit.names.content("captions")
        await publish(kit, 1)
        await asyncio.sleep(0.05)
        await publish(kit, 3)
        first, second = (await kit.read_all(captions))[0][:2]
        clock = ManualClock(first.timestamp_ms / 1000 + 100)
        async with measuring(kit, clock) as lag:
            found = row(await lag.lag(), "encode", captions)
            assert (found.position, found.end, found.records) == (0, 4, 4)
            assert found.seconds == pytest.approx(100)
            # Time passes, nothing moves: the same record, older.
            clock.advance(5)
            assert row(await lag.lag(), "encode", captions).seconds == pytest.approx(105)
            await encode_one(kit)
            found = await eventually(lag, "encode", captions, lambda r: r.position == 1)
            assert found.records == 3
            assert found.seconds == pytest.approx(clock.now() - second.timestamp_ms / 1000)


async def test_markers_and_aborted_records_are_no_lag(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        embeddings = kit.names.embeddings("captions")
        await publish(kit, 1)
        async with measuring(kit) as lag:
            await encode_one(kit)
            # One embedding and its commit marker; the index has applied the embedding.
            await kit.log.commit("index", {TopicPartition(embeddings, 0): 1})
            found = await eventually(lag, "index", embeddings, lambda r: r.end == 2)
            assert (found.position, found.records, found.seconds) == (1, 0, 0.0)
            # An aborted embedding and its marker change the end, not the lag.
            await transact(kit, [OutRecord(embeddings, b"id0", b"x", (), 0)], {}, commit=False)
            found = await eventually(lag, "index", embeddings, lambda r: r.end == 4)
            assert (found.records, found.seconds) == (0, 0.0)
            await encode_one(kit)
            found = await eventually(lag, "index", embeddings, lambda r: r.end == 6)
            assert found.records == 5
            assert lag.behind_s([found]) > 0


@asynccontextmanager
async def in_transaction(kit: Collection) -> AsyncIterator[AIOKafkaProducer]:
    """Begin a transaction that the test ends, or that is aborted."""
    producer = AIOKafkaProducer(
        **kit.connection.client_options(), transactional_id=f"{kit.names.bare}.open"
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        yield producer
    finally:
        await producer.stop()


async def test_an_open_transaction_is_not_lag_before_it_commits(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit, measuring(kit) as lag:
        embeddings = kit.names.embeddings("captions")
        async with in_transaction(kit) as producer:
            await producer.send_and_wait(embeddings, b"x", b"k", partition=0)
            found = row(await lag.lag(), "index", embeddings)
            assert (found.end, found.records) == (0, 0)
            assert (found.unstable, found.high_watermark) == (1, 1)
            await producer.commit_transaction()
            found = await eventually(lag, "index", embeddings, lambda r: r.end == 2)
            assert found.records == 2  # with its marker, as Kafka's tools count
            assert (found.unstable, found.unstable_seconds) == (0, 0.0)


@pytest.mark.parametrize("ends", ["commit", "abort"])
async def test_what_waits_behind_an_open_transaction_is_behind(kafka: TestKafka, ends: str) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        captions = kit.names.content("captions")
        clock = ManualClock(time.time() + 100)
        async with in_transaction(kit) as producer, measuring(kit, clock) as lag:
            held = await producer.send_and_wait(captions, b"x", b"k", partition=0)
            await publish(kit, 2)
            # A process that looks for the first time, like `tidelens lag`, knows at once since
            # when.
            found = row(rows := await lag.lag(), "encode", captions)
            assert (found.end, found.records, found.unstable) == (0, 0, 3)
            age_s = clock.now() - held.timestamp / 1000
            assert found.unstable_seconds == pytest.approx(age_s)
            assert lag.behind_s(rows) == pytest.approx(age_s)
            clock.advance(60)
            assert lag.behind_s(rows) == pytest.approx(age_s + 60)
            assert row(await lag.lag(), "encode", captions).unstable_seconds == pytest.approx(
                age_s + 60
            )
            if ends == "abort":
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
            # This includes its marker; the two records that waited are ordinary lag now.
            found = await eventually(lag, "encode", captions, lambda r: r.end == 4)
            assert (found.unstable, found.unstable_seconds, found.records) == (0, 0.0, 4)


async def test_a_transaction_of_a_moment_is_not_looked_into(kafka: TestKafka) -> None:
    """An encoder's own are always open: only what stands still is read."""
    clock = ManualClock(time.time() + 100)
    async with collection(kafka.bootstrap, partitions=1) as kit, measuring(kit, clock) as lag:
        captions = kit.names.content("captions")
        await lag.lag()
        async with in_transaction(kit) as producer:
            await producer.send_and_wait(captions, b"x", b"k", partition=0)
            first = row(await lag.lag(), "encode", captions)
            assert (first.unstable, first.unstable_seconds) == (1, 0.0)
            again = row(await lag.lag(), "encode", captions)
            assert again.unstable_seconds > 90


async def test_behind_is_the_age_of_the_content_not_of_its_embedding(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 1)
        await asyncio.sleep(0.3)
        content = await encode_one(kit)
        clock = ManualClock(content.timestamp_ms / 1000 + 10)
        async with measuring(kit, clock) as lag:
            index = await eventually(
                lag, "index", kit.names.embeddings("captions"), lambda r: r.records > 0
            )
            assert index.seconds < 9.8
            await eventually(lag, "encode", kit.names.content("captions"), lambda r: not r.records)
            rows = await lag.lag()
            assert lag.behind_s(rows) == pytest.approx(10)
            clock.advance(3)
            assert lag.behind_s(rows) == pytest.approx(13)


async def test_numbers_agree_with_a_plain_consumer_group(kafka: TestKafka) -> None:
    """A consumer commits while it reads; its lag by the admin client is that of Tidelens."""
    async with collection(kafka.bootstrap, partitions=2) as kit, measuring(kit) as lag:
        captions = kit.names.content("captions")
        await publish(kit, 40)
        consumer = AIOKafkaConsumer(
            captions,
            **kit.connection.client_options(),
            group_id=kit.names.encoder_group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=7,
        )
        await consumer.start()
        try:
            await consumer.getmany(timeout_ms=5_000)
            await consumer.commit()
            partitions = [KafkaPartition(captions, n) for n in range(2)]
            ends = await consumer.end_offsets(partitions)
            async with kit.connection.admin() as admin:
                committed = await admin.list_consumer_group_offsets(kit.names.encoder_group)
            rows = await lag.lag()
            for partition in partitions:
                at = committed[partition].offset if partition in committed else 0
                found = row(rows, "encode", captions, partition.partition)
                assert found.records == ends[partition] - at
            total = sum(r.records for r in rows if r.role == "encode")
            assert 0 < total < 40
        finally:
            await consumer.stop()


async def test_every_index_group_of_the_space_is_found(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit, measuring(kit, None, None) as lag:
        position = {TopicPartition(kit.names.embeddings("images"), 0): 0}
        groups = [kit.names.index_group("0", replica) for replica in "ab"]
        for group in groups:
            await kit.log.commit(group, position)
        assert sorted({r.group for r in await lag.lag() if r.role == "index"}) == groups
        # A node's own is there before it commits.
        own = kit.names.index_group("0", "c")
        async with measuring(kit, None, own) as of_node:
            found = sorted({r.group for r in await of_node.lag() if r.role == "index"})
        assert found == [*groups, own]


@asynccontextmanager
async def node_running(kit: Collection, names: Names, replica: str) -> AsyncIterator[None]:
    """Act as an index node towards Kafka: a member of its app's group, with commits in another."""
    consumer = AIOKafkaConsumer(
        names.dead_letters,
        **kit.connection.client_options(),
        group_id=names.streams_app_id("0", replica),
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        await consumer.getmany(timeout_ms=0)
        start = TopicPartition(kit.names.embeddings("images"), 0)
        await kit.log.commit(names.index_group("0", replica), {start: 0})
        yield
    finally:
        await consumer.stop()


async def test_a_stopped_node_is_gone_until_it_runs_again(kafka: TestKafka) -> None:
    clock = ManualClock(time.time() + 100)
    async with (
        collection(kafka.bootstrap, partitions=1) as kit,
        measuring(kit, clock, None) as lag,
    ):
        topic = kit.names.embeddings("captions")
        stays, stops = (kit.names.index_group("0", replica) for replica in "ab")

        async def by_group() -> dict[str, Lag]:
            return {r.group: r for r in await lag.lag() if r.topic == topic}

        async with node_running(kit, kit.names, "a"):
            async with node_running(kit, kit.names, "b"):
                running = await by_group()
                assert {r.members for r in running.values()} == {1}
                await kit.log.publish([OutRecord(topic, b"k", b"x", (), 0)])
                both = await by_group()
                assert lag.behind_s([both[stops]]) > 0
            left = await by_group()
            assert [left[group].gone for group in (stays, stops)] == [False, True]
            assert left[stops].records == 1
            assert lag.behind_s([left[stops]]) == 0.0
            assert lag.behind_s([left[stays]]) > 0
            async with node_running(kit, kit.names, "b"):
                assert not (await by_group())[stops].gone
        # A node knows of itself that it runs, whatever its group has.
        async with measuring(kit, None, stays) as of_node:
            own = [r for r in await of_node.lag() if r.group == stays]
            assert {r.gone for r in own} == {False}


async def test_encoders_without_a_member_are_missed_and_never_gone(kafka: TestKafka) -> None:
    clock = ManualClock(time.time() + 100)
    async with collection(kafka.bootstrap, partitions=1) as kit, measuring(kit, clock) as lag:
        captions = kit.names.content("captions")
        await publish(kit, 1)
        alone = row(await lag.lag(), "encode", captions)
        assert (alone.members, alone.unattended, alone.gone) == (0, True, False)
        assert lag.behind_s([alone]) > 0
        consumer = AIOKafkaConsumer(
            captions, **kit.connection.client_options(), group_id=kit.names.encoder_group
        )
        await consumer.start()
        try:
            await consumer.getmany(timeout_ms=0)
            assert not row(await lag.lag(), "encode", captions).unattended
        finally:
            await consumer.stop()


async def test_a_retired_nodes_groups_are_forgotten_and_nothing_else(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit, measuring(kit, None, None) as lag:
        names = kit.names
        group, app = names.index_group("0", "a"), names.streams_app_id("0", "a")

        async def forgotten(which: str) -> list[str]:
            return await delete_retired_groups(
                kit.connection, names.prefix, which, spaces=[names.space]
            )

        async with node_running(kit, names, "a"):
            for which in (group, app):
                with pytest.raises(ConfigurationError, match=f"group {which}: its process runs"):
                    await forgotten(which)
            assert group in {r.group for r in await lag.lag()}
        assert await forgotten(group) == [app, group]
        assert group not in {r.group for r in await lag.lag()}
        with pytest.raises(ConfigurationError, match=f"group {group}: there is no such group"):
            await forgotten(group)
        # These belong to another collection, to another space, and to another user's consumer.
        other = Names(f"x{names.prefix}", names.space).index_group("0", "a")
        for foreign in (other, f"{names.bare}.reports"):
            await kit.log.commit(foreign, {TopicPartition(names.content("images"), 0): 0})
            with pytest.raises(ConfigurationError, match=f"{foreign}: not of the collection"):
                await forgotten(foreign)
            assert await kit.log.committed(foreign)
        # An encoder's offsets are its state, unless its space was given up.
        position = {TopicPartition(names.content("images"), 0): 0}
        given_up = Names(names.prefix, "given-up").encoder_group
        for encoders in (names.encoder_group, given_up):
            await kit.log.commit(encoders, position)
        with pytest.raises(ConfigurationError, match="served or being made"):
            await forgotten(names.encoder_group)
        assert await kit.log.committed(names.encoder_group)
        async with node_running(kit, Names(names.prefix, "given-up"), "a"):
            with pytest.raises(ConfigurationError, match="index nodes of space given-up run"):
                await forgotten(given_up)
        assert await forgotten(given_up) == [given_up]


async def test_a_node_reports_its_own_position_whatever_its_group_has(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic = kit.names.embeddings("captions")
        await kit.log.publish([OutRecord(topic, b"k", b"x", (), 0)] * 3)
        at = {TopicPartition(kit.names.embeddings(target), 0): 0 for target in TARGETS}
        own = at | {TopicPartition(topic, 0): 3}
        clock = ManualClock(time.time())
        node = KafkaLag(kit.connection, kit.names, "index", clock, lambda: own)
        # Another process knows nothing but the commits, which were reset.
        await kit.log.commit("index", at)
        async with measuring(kit) as other:
            await node.start()
            try:
                node_row = row(await node.lag(), "index", topic)
                assert (node_row.position, node_row.records, node_row.seconds) == (3, 0, 0.0)
                assert row(await other.lag(), "index", topic).records == 3
                own = {}  # the node has no index yet
                assert row(await node.lag(), "index", topic).position == 0
            finally:
                await node.stop()


async def test_spaces_beside_are_reported_if_they_exist(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit, measuring(kit) as own:
        other = Names(kit.names.prefix, "other")
        specs = topic_specs(other, partitions=1, content_bytes_max=1_000_000)
        await create_topics(kit.connection, specs, replication_factor=1, min_insync_replicas=1)
        await publish(kit, 2)
        spaces = [kit.names.space, "absent", "other"]
        lag = SpacesLag(own, lambda: spaces)
        rows = await lag.lag()
        assert list(dict.fromkeys(row.space for row in rows)) == [kit.names.space, "other"]
        behind = {row.group: row.records for row in rows if row.topic == other.content("captions")}
        assert behind == {kit.names.encoder_group: 2, other.encoder_group: 2}
        # Nobody is answered from the other space.
        await kit.log.commit(
            kit.names.encoder_group, {TopicPartition(kit.names.content("captions"), 0): 2}
        )
        await eventually(own, "encode", kit.names.content("captions"), lambda r: not r.records)
        assert lag.behind_s(await lag.lag()) == 0
        spaces.remove("other")
        assert {row.space for row in await lag.lag()} == {kit.names.space}
        await lag.stop()


async def test_a_record_larger_than_a_fetch_is_read(kafka: TestKafka) -> None:
    async with collection(kafka.bootstrap, partitions=3) as kit, measuring(kit) as lag:
        captions = kit.names.content("captions")
        big = [OutRecord(captions, b"k", b"x" * 900_000, (), n % 3) for n in range(9)]
        await kit.log.publish(big)
        rows = [r for r in await lag.lag() if r.topic == captions]
        assert [r.records for r in rows] == [3, 3, 3]


async def test_a_broker_that_goes_away_is_said_and_waited_for(
    own_kafka: Callable[[], Awaitable[LocalBroker]],
) -> None:
    broker = await own_kafka()
    async with collection(broker.bootstrap, partitions=1) as kit:
        await publish(kit, 1)
        clock = ManualClock(time.time())
        async with measuring(kit, clock) as lag:
            rows = await lag.lag()
            before = lag.behind_s(rows)
            await broker.stop()
            for _ in range(2):
                async with asyncio.timeout(30):
                    with pytest.raises(BrokerUnavailable, match=broker.bootstrap):
                        await lag.lag()
            clock.advance(60)
            assert lag.behind_s(rows) == pytest.approx(before + 60)
            await broker.start()
            assert row(await lag.lag(), "encode", kit.names.content("captions")).records == 1
