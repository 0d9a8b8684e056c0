"""The counts that topics were made with: how they are kept, and who uses them."""

import asyncio
from collections.abc import Collection, Mapping

import orjson
import pytest
from aiokafka.errors import KafkaConnectionError, NotLeaderForPartitionError
from structlog.testing import capture_logs

from contracts.errors import BrokerAway, BrokerUnavailable, TopicMismatch
from contracts.events.partition_count_record import (
    PARTITIONS,
    CreatedTopic,
    RecordedPartitionCounts,
)
from contracts.events.record import OutRecord, Record
from contracts.metrics import Metrics
from contracts.partitioner import partitioner
from contracts.ports.event_log import AddedPartitions
from contracts.settings import KafkaSettings
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import Names
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from streams.registry.control_topic import ControlTopic
from streams.topics.metadata import TopicDescription
from streams.topics.partition_counts import (
    PartitionCounts,
    fitting_count,
    how_to_add_partitions,
    target_of,
    with_record,
)
from streams.topics.watch import TopicWatch

pytestmark = pytest.mark.anyio

NAMES = Names("t.", "space-v1")
CAPTIONS, EMBEDDINGS = NAMES.content("captions"), NAMES.embeddings("captions")
KEPT = {"captions": CreatedTopic("id-1", 4)}


def topic(partitions: int, topic_id: str = "id-1") -> TopicDescription:
    return TopicDescription(topic_id, partitions, 1)


def record(value: bytes | None, key: bytes = PARTITIONS) -> Record:
    return Record(NAMES.control, 0, 0, 0, key, value, ())


def images(topic_id: str, partitions: int) -> Record:
    return record(
        RecordedPartitionCounts({"images": CreatedTopic(topic_id, partitions)}).record("c").value
    )


class Broker:
    """Topics as a broker shows them, and a control topic in memory; counts how often it is read."""

    def __init__(self, **topics: TopicDescription) -> None:
        self.topics = {NAMES.control: topic(1, "control"), CAPTIONS: topic(4)}
        self.log = MemoryEventLog({NAMES.control: 1})
        self.read = self.asked = 0
        self.away = False

    async def find(self, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        self.asked += 1
        if self.away:
            raise BrokerUnavailable("no broker")
        return {name: self.topics[name] for name in topics if name in self.topics}

    async def tail(self, start):
        self.read += 1
        return await self.log.tail(start)

    def counts(self) -> PartitionCounts:
        return PartitionCounts(NAMES.prefix, self.find, self.tail)

    async def keep(self, **made: CreatedTopic) -> None:
        await self.log.publish([RecordedPartitionCounts(made).record(NAMES.control)])


def test_content_and_the_embeddings_of_every_space_belong_to_a_target() -> None:
    assert target_of("t.", "t.images") == "images"
    assert target_of("t.", "t.embeddings.any.space.captions") == "captions"
    for other in ("t.control", "t.dead-letters", "u.images", "t.images.more"):
        assert target_of("t.", other) is None


def test_the_smaller_of_two_counts_for_one_topic_stands() -> None:
    for first, then in ((4, 8), (8, 4)):
        kept = with_record(with_record({}, images("a", first)), images("a", then))
        assert kept == {"images": CreatedTopic("a", 4)}
    assert with_record(kept, images("b", 8)) == {"images": CreatedTopic("b", 8)}


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b'"x"', b"1", b'{"captions": 3}', b'{"captions": {"topic_id": "a"}}']
    + [
        orjson.dumps({"captions": {"topic_id": topic_id, "partitions": count}})
        for topic_id, count in (("a", 0), ("a", True), ("a", "4"), (1, 4))
    ],
)
def test_what_cannot_be_read_changes_nothing(value: bytes) -> None:
    assert with_record(KEPT, record(value)) == KEPT


def test_members_of_a_newer_version_and_other_keys_are_passed_over() -> None:
    body = {"captions": {"topic_id": "id-1", "partitions": 2, "new": 1}, "sounds": 3}
    assert with_record(KEPT, record(orjson.dumps(body))) == {"captions": CreatedTopic("id-1", 2)}
    assert with_record(KEPT, record(orjson.dumps(body), key=b"active-space")) == KEPT
    assert with_record(KEPT, record(None)) == KEPT


@pytest.mark.parametrize(
    "content, embeddings, kept, count",
    [
        (topic(4), topic(4), KEPT, 4),
        (topic(8), topic(4), KEPT, 4),  # added to the content alone
        (topic(8), topic(8), KEPT, 4),  # and to its embeddings
        (topic(8), topic(4), {}, 4),  # nothing was kept: what an earlier version made
        (topic(8), topic(8), {}, 8),
        (topic(6, "id-2"), topic(6), KEPT, 6),  # made again, with another count
    ],
)
def test_the_count_is_the_one_that_the_topics_were_made_with(
    content: TopicDescription, embeddings: TopicDescription, kept, count: int
) -> None:
    found = {CAPTIONS: content, EMBEDDINGS: embeddings}
    assert fitting_count(NAMES, "captions", found, kept) == count


def test_topics_that_do_not_fit_are_told() -> None:
    with pytest.raises(TopicMismatch, match=r"t\.captions was made with 4 .* has 2"):
        fitting_count(NAMES, "captions", {CAPTIONS: topic(4), EMBEDDINGS: topic(2)}, KEPT)
    with pytest.raises(TopicMismatch, match=r"embeddings\.space-v1\.captions does not exist"):
        fitting_count(NAMES, "captions", {CAPTIONS: topic(4)}, KEPT)


async def test_publishing_goes_by_the_kept_count_and_reads_it_once() -> None:
    broker = Broker()
    await broker.keep(captions=CreatedTopic("id-1", 4))
    counts = broker.counts()
    assert [await counts.to_publish(CAPTIONS, 4) for _ in range(3)] == [4, 4, 4]
    broker.topics[CAPTIONS] = topic(8)
    assert [await counts.to_publish(CAPTIONS, 8) for _ in range(3)] == [4, 4, 4]
    assert broker.read == 1
    # Another topic of the name: what was kept of the first one says nothing.
    broker.topics[CAPTIONS] = topic(6, "id-2")
    await broker.keep(captions=CreatedTopic("id-2", 6))
    assert await counts.to_publish(CAPTIONS, 6) == 6
    assert await counts.to_publish(NAMES.dead_letters, 9) == 9


async def test_without_a_kept_count_the_smallest_that_was_seen_stands() -> None:
    broker = Broker()
    del broker.topics[NAMES.control]
    counts = broker.counts()
    assert await counts.to_publish(CAPTIONS, 4) == 4
    broker.topics[CAPTIONS] = topic(8)
    assert await counts.to_publish(CAPTIONS, 8) == 4
    assert broker.read == 0  # a reader would make a topic that is absent


async def test_publishing_goes_by_what_was_seen_of_the_embeddings_too() -> None:
    """A publisher asks for the content topic alone, and starts after it was altered."""
    broker = Broker()
    broker.topics |= {CAPTIONS: topic(8), EMBEDDINGS: topic(4)}
    counts = broker.counts()
    assert (await counts.counts_of(await broker.find([CAPTIONS, EMBEDDINGS])))[CAPTIONS] == 4
    assert await counts.to_publish(CAPTIONS, 8) == 4
    broker.topics[CAPTIONS] = topic(6, "id-2")
    assert await counts.to_publish(CAPTIONS, 6) == 6


@pytest.mark.parametrize(
    "error", [KafkaConnectionError("away"), NotLeaderForPartitionError(), TimeoutError()]
)
async def test_while_kept_counts_cannot_be_read_no_other_ones_are_used(error: Exception) -> None:
    """An encoder would refuse records as misplaced that stand where they belong."""
    broker = Broker()
    await broker.keep(captions=CreatedTopic("id-1", 4))
    broker.topics[CAPTIONS] = topic(8)
    failing = [error]

    async def tail(start):
        if failing:
            raise failing.pop()
        return await broker.tail(start)

    counts = PartitionCounts(NAMES.prefix, broker.find, tail)
    with pytest.raises(BrokerAway, match=r"topic t\.control, .* cannot be read now"):
        await counts.recorded(await broker.find([CAPTIONS]))
    assert await counts.recorded(await broker.find([CAPTIONS])) == KEPT


async def test_a_count_that_is_known_is_not_looked_for_with_every_record() -> None:
    broker = Broker()
    counts = broker.counts()
    assert await counts.to_publish(CAPTIONS, 4) == 4
    broker.away = True
    assert await counts.to_publish(CAPTIONS, 8) == 4
    asked = broker.asked
    assert [await counts.to_publish(CAPTIONS, 8) for _ in range(3)] == [4, 4, 4]
    assert broker.asked == asked


async def test_a_broker_that_is_away_changes_no_count_that_is_known() -> None:
    broker = Broker()
    counts = broker.counts()
    broker.away = True
    with pytest.raises(BrokerUnavailable):
        await counts.to_publish(CAPTIONS, 4)
    broker.away = False
    assert await counts.to_publish(CAPTIONS, 4) == 4
    broker.away = True
    assert await counts.to_publish(CAPTIONS, 8) == 4


async def test_a_control_topic_that_may_not_be_read_is_told_once() -> None:
    broker = Broker()

    async def tail(start):
        raise BrokerUnavailable("does not let us do this")

    counts = PartitionCounts(NAMES.prefix, broker.find, tail)
    with capture_logs() as logs:
        for number in range(3):
            found = {CAPTIONS: topic(4 + number, f"id-{number}")}
            assert await counts.counts_of(found) == {CAPTIONS: 4 + number}
    assert [line["event"] for line in logs] == [
        "the partition counts that are kept cannot be read, so those of Kafka are used"
    ]


async def test_added_partitions_and_misplaced_embeddings_are_told_with_the_command() -> None:
    log, metrics, misplaced = MemoryEventLog({}), Metrics(), 0
    watch = TopicWatch(log, NAMES, metrics, lambda: misplaced)
    with capture_logs() as logs:
        await watch.check()
        assert watch.describe() == {"warnings": [], "misplaced": 0, "advice": None}
        log.added = [AddedPartitions(CAPTIONS, 4, 8, 3)]
        misplaced = 6
        await asyncio.gather(watch.check())
        await watch.check()
    told = watch.describe()
    assert told["misplaced"] == 6
    assert "t.captions was created with 4 partitions and has 8 now" in told["warnings"][0]
    assert "the 4 added ones, with 3 records, are ignored" in told["warnings"][0]
    assert "6 embeddings were passed over" in told["warnings"][1]
    assert told["advice"] == how_to_add_partitions("t.", 8)
    assert "`tidelens topics create --topic-prefix t-8. --partitions 8`" in told["advice"]
    # Once each: not at every look.
    assert [line["event"] for line in logs] == [
        "embeddings in other partitions than their own",
        "partitions were added to a topic",
    ]
    sample = metrics.registry.get_sample_value
    assert sample("tidelens_partitions_added", {"topic": CAPTIONS}) == 4
    assert sample("tidelens_partitions_added", {"topic": EMBEDDINGS}) == 0
    log.added = []
    await watch.check()
    assert sample("tidelens_partitions_added", {"topic": CAPTIONS}) == 0


async def test_for_no_partitions_nobody_is_asked() -> None:
    """A client without any asks for every topic of the cluster, every ten seconds here."""
    nobody = KafkaConnection("127.0.0.1:1", KafkaSettings())
    log = KafkaEventLog(nobody, partition_of=partitioner("murmur2"), record_bytes_max=1)
    assert await log.end_offsets([]) == {}


def test_a_kept_record_is_one_of_the_control_topic() -> None:
    assert RecordedPartitionCounts(KEPT).record("t.control") == OutRecord(
        "t.control",
        b"content-partitions",
        b'{"captions":{"topic_id":"id-1","partitions":4}}',
        partition=0,
    )


async def test_kept_counts_are_no_fault_of_the_control_topic_and_unreadable_ones_are() -> None:
    log = MemoryEventLog({NAMES.control: 1})
    await log.publish([OutRecord(NAMES.control, PARTITIONS, b'{"captions": 3}', partition=0)])
    [refused] = (await ControlTopic(log, NAMES.control).read()).refused
    assert (refused.key, refused.fault) == ("content-partitions", "impossible_value")
    await log.publish([RecordedPartitionCounts(KEPT).record(NAMES.control)])
    assert (await ControlTopic(log, NAMES.control).read()).refused == ()
