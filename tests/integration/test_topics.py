"""Topics on the real broker: created as the contracts say, known by id, refused if they differ."""

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from contracts.errors import TopicMismatch
from contracts.settings import KafkaSettings
from contracts.topics import Names, TopicSpec, topic_specs
from streams.kafka.connection import KafkaConnection
from streams.topics import admin as topics
from streams.topics.metadata import topic_id_text
from tests.kits.broker_fixture import TestKafka

pytestmark = [pytest.mark.anyio, pytest.mark.broker]


@pytest.fixture
def connection(kafka: TestKafka) -> KafkaConnection:
    return KafkaConnection(kafka.bootstrap, KafkaSettings())


@pytest.fixture
def names() -> Names:
    return Names(f"topics-{uuid.uuid4().hex[:8]}.", "hash-v1")


def specs(names: Names, partitions: int = 2) -> list[TopicSpec]:
    return topic_specs(names, partitions=partitions, content_bytes_max=1_000_000)


async def create(connection: KafkaConnection, wanted: list[TopicSpec]) -> topics.CreationResult:
    return await topics.create_topics(
        connection, wanted, replication_factor=1, min_insync_replicas=1
    )


async def test_create_makes_what_was_asked_for(connection: KafkaConnection, names: Names) -> None:
    wanted = specs(names)
    made = await create(connection, wanted)
    assert sorted(made.created) == sorted(spec.name for spec in wanted)
    assert made.differences == []
    found = await topics.read_topics(connection, [spec.name for spec in wanted])
    images = found[names.content("images")]
    assert (images.partitions, images.replication_factor) == (2, 1)
    assert images.config["cleanup.policy"] == "compact"
    assert images.config["message.timestamp.type"] == "LogAppendTime"
    assert images.config["min.insync.replicas"] == "1"
    assert found[names.control].partitions == 1


async def test_create_twice_or_twice_at_once_changes_nothing(
    connection: KafkaConnection, names: Names
) -> None:
    both = await asyncio.gather(*(create(connection, specs(names)) for _ in range(2)))
    assert sum(len(made.created) for made in both) == len(specs(names))
    assert (await create(connection, specs(names))).created == []


async def test_other_settings_are_reported_one_by_one(
    connection: KafkaConnection, names: Names
) -> None:
    await create(connection, specs(names))
    wanted = [
        replace(spec, config={**spec.config, "max.message.bytes": "2000000"})
        for spec in specs(names)
        if spec.name == names.content("images")
    ]
    made = await create(connection, wanted)
    assert [str(difference) for difference in made.differences] == [
        f"{names.content('images')}: max.message.bytes is 1000000, want 2000000"
    ]


async def test_another_partition_count_is_refused_with_both(
    connection: KafkaConnection, names: Names
) -> None:
    await create(connection, specs(names, partitions=2))
    with pytest.raises(TopicMismatch, match=r"has 2 partitions, 3 are wanted"):
        await create(connection, specs(names, partitions=3))


async def test_a_wrong_count_is_found_before_anything_is_created(
    connection: KafkaConnection, names: Names
) -> None:
    [captions] = [s for s in specs(names) if s.name == names.content("captions")]
    await create(connection, [captions])
    with pytest.raises(TopicMismatch):
        await create(connection, specs(names, partitions=3))
    assert set(await topics.read_topics(connection, [s.name for s in specs(names)])) == {
        captions.name
    }


async def test_asking_for_an_absent_topic_does_not_create_it(
    connection: KafkaConnection, names: Names
) -> None:
    for _ in range(2):
        with pytest.raises(TopicMismatch, match="does not exist"):
            await connection.topic_ids([names.control])
        with pytest.raises(TopicMismatch, match="does not exist"):
            await connection.partition_counts([names.control])


async def test_the_id_is_the_one_that_the_broker_itself_writes_down(
    kafka, connection: KafkaConnection, names: Names
) -> None:
    await create(connection, specs(names))
    ids = await connection.topic_ids([names.control, names.dead_letters])
    for topic, topic_id in ids.items():
        pattern = f"**/{topic}-0/partition.metadata"
        async with asyncio.timeout(30):
            while not (noted := list(Path(kafka.folder).glob(pattern))):
                await asyncio.sleep(0.05)  # the broker writes it a moment later
        assert f"topic_id: {topic_id}" in noted[0].read_text().splitlines()


def test_ids_are_printed_as_java_prints_them() -> None:
    # From Kafka's own tests: Uuid(0L, 1L), and the id of the cluster metadata topic.
    assert topic_id_text(bytes(15) + b"\x01") == "AAAAAAAAAAAAAAAAAAAAAQ"
    raw = uuid.UUID("a2f1c6a4-7d0e-4b3f-9c55-fbefbe00ff3e").bytes
    assert topic_id_text(raw) == "ovHGpH0OSz-cVfvvvgD_Pg"


async def test_a_recreated_topic_has_another_id(connection: KafkaConnection, names: Names) -> None:
    [control] = [spec for spec in specs(names) if spec.name == names.control]
    await create(connection, [control])
    before = (await connection.topic_ids([control.name]))[control.name]
    async with connection.admin() as admin:
        await delete_and_wait(connection, admin, control.name)
    await create(connection, [control])
    assert (await connection.topic_ids([control.name]))[control.name] != before


async def delete_and_wait(
    connection: KafkaConnection, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.delete_topics([topic])
    async with asyncio.timeout(30):
        while await topics.read_topics(connection, [topic]):
            await asyncio.sleep(0.05)


async def test_the_broker_is_asked_how_long_tombstones_and_records_stay(
    connection: KafkaConnection, names: Names
) -> None:
    wanted = specs(names)
    short, rest = names.embeddings("captions"), names.embeddings("images")
    shorter = {"delete.retention.ms": "5000", "min.compaction.lag.ms": "9000"}
    wanted = [
        replace(spec, config=spec.config | shorter) if spec.name == short else spec
        for spec in wanted
    ]
    await create(connection, wanted)
    assert await topics.delete_retention_s(connection, [rest]) == 86_400
    # The shortest of all: a reader of several can miss deletes in any of them.
    assert await topics.delete_retention_s(connection, [rest, short]) == 5
    assert await topics.compaction_lag_s(connection, [rest]) == 3_600
    assert await topics.compaction_lag_s(connection, [rest, short]) == 9
