"""The partition counts that a collection was created with, which the control topic keeps.

An item lives in the partition that follows from its id and the count. Kafka lets operators add
partitions to a topic, and from then on every client that asks Kafka for the count puts the next
version of an item elsewhere. So the count is written down when the topics are created, with the id
of its content topic, and all Tidelens processes use it: partitions that were added later hold
nothing of the collection. Embeddings are record for record in the partition of their content, so
the count of a content topic is that of its embeddings topics, too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace

import structlog
from aiokafka.errors import KafkaError

from contracts.errors import (
    BrokerAway,
    BrokerUnavailable,
    LogChanged,
    RejectedRecord,
    TidelensError,
    TopicMismatch,
)
from contracts.events.control_record import read_record
from contracts.events.partition_count_record import (
    PARTITIONS,
    CreatedTopic,
    RecordedPartitionCounts,
)
from contracts.events.record import Record, TopicPartition
from contracts.ports.event_log import LogReader
from contracts.topics import TARGETS, Names, Target
from streams.kafka.connection_errors import FORBIDDEN, connect_failure
from streams.kafka.partition_scan import read_to_end
from streams.topics.metadata import TopicDescription, topic_absent

log = structlog.get_logger(__name__)

_READ_S = 10.0
# A count that differs from Kafka's is looked up again after this time, since its topic may have
# been created again.
_AGAIN_S = 10.0
# A count that nobody could confirm is looked up again after this time.
_UNKNOWN_AGAIN_S = 1.0

OpenTail = Callable[[Mapping[TopicPartition, int | None]], Awaitable[LogReader]]
FindTopics = Callable[[Collection[str]], Awaitable[Mapping[str, TopicDescription]]]


RecordedCounts = Mapping[Target, CreatedTopic]


def with_record(recorded: RecordedCounts, record: Record) -> RecordedCounts:
    """Return `recorded` with one more control record applied; an unreadable one changes nothing.

    The smaller of two counts for one topic stands: Kafka only adds partitions, and two processes
    that write at once may have looked before and after it did.
    """
    if record.key != PARTITIONS:
        return recorded
    try:
        said = read_record(record, time.time())
    except RejectedRecord as error:
        # Nodes count and name the record; it stands until the topic is compacted, even repaired.
        log.debug("unreadable partition counts", offset=record.offset, error=str(error))
        return recorded
    merged = dict(recorded)
    for target, made in said.topics.items() if isinstance(said, RecordedPartitionCounts) else ():
        before = recorded.get(target, made)
        if before.topic_id != made.topic_id:
            merged[target] = made
        else:
            merged[target] = min(before, made, key=lambda one: one.partitions)
    return merged


def target_of(prefix: str, topic: str) -> Target | None:
    """Return the target of a content topic, or of the embeddings topic of any space."""
    for target in TARGETS:
        if topic == f"{prefix}{target}" or (
            topic.startswith(f"{prefix}embeddings.") and topic.endswith(f".{target}")
        ):
            return target
    return None


def created_count(
    prefix: str, target: Target, found: Mapping[str, TopicDescription], recorded: RecordedCounts
) -> int:
    """Return the partition count that the topics `found` of a target were made with.

    Where no count was kept, this is the smallest one, since Kafka only adds partitions.
    """
    content, made = found.get(f"{prefix}{target}"), recorded.get(target)
    if content is not None and made is not None and made.topic_id == content.id:
        return made.partitions
    return min(
        topic.partitions for name, topic in found.items() if target_of(prefix, name) == target
    )


def fitting_count(
    names: Names, target: Target, found: Mapping[str, TopicDescription], recorded: RecordedCounts
) -> int:
    """Return the count for a process that writes from a target's content to its embeddings.

    Raises TopicMismatch unless both topics are there and fit.
    """
    content, embeddings = names.content(target), names.embeddings(target)
    for topic in (content, embeddings):
        if topic not in found:
            raise topic_absent(topic)
    made, have = created_count(names.prefix, target, found, recorded), found[embeddings].partitions
    if have < made:
        raise TopicMismatch(
            f"topic {content} was made with {made} partitions, its embeddings topic {embeddings} "
            f"has {have}: they must be equal, record for record in the same partition; delete "
            f"{embeddings} and run `tidelens topics create`"
        )
    return made


class PartitionCounts:
    """The counts of one collection; it reads the control topic once in each topic's life.

    Its methods raise BrokerAway: a missing answer is never replaced by another count.
    """

    def __init__(self, prefix: str, find: FindTopics, tail: OpenTail) -> None:
        self.prefix = prefix
        self._find = find
        self._tail = tail
        self._recorded: RecordedCounts = {}
        # The smallest count seen with each content topic whose count is not kept.
        self._smallest: dict[Target, CreatedTopic] = {}
        self._reading = asyncio.Lock()
        # The topics that were last looked for in vain, and when.
        self._missed: frozenset[str] = frozenset()
        self._missed_at = 0.0
        self._has_warned = False
        self._published: dict[str, _PublishCount] = {}

    async def counts_of(self, found: Mapping[str, TopicDescription]) -> dict[str, int]:
        """Return the counts of the topics `found`, which include the content topics.

        All partitions count of a topic that holds neither content nor embeddings.
        """
        recorded = await self.recorded(found)
        counts = {}
        for topic, here in found.items():
            target = target_of(self.prefix, topic)
            if target is None:
                counts[topic] = here.partitions
            else:
                counts[topic] = min(here.partitions, self._made(target, found, recorded))
        return counts

    async def recorded(self, found: Mapping[str, TopicDescription]) -> RecordedCounts:
        """Return what the control topic keeps about the content topics among `found`."""
        async with self._reading:
            ids = {
                t: found[f"{self.prefix}{t}"].id for t in TARGETS if f"{self.prefix}{t}" in found
            }
            missing = frozenset(
                topic_id for target, topic_id in ids.items() if not self._knows(target, topic_id)
            )
            again = time.monotonic() - self._missed_at > _AGAIN_S
            if missing and (again or not missing <= self._missed):
                self._recorded = await self._read(self._recorded)
                self._missed, self._missed_at = missing, time.monotonic()
            return {t: self._recorded[t] for t, topic_id in ids.items() if self._knows(t, topic_id)}

    async def to_publish(self, topic: str, partitions: int) -> int:
        """Return how many of the `partitions` that Kafka shows for a topic are published to."""
        target = target_of(self.prefix, topic)
        if target is None:
            return partitions
        known = self._published.get(topic)
        if known is None or known.may_have_changed(partitions):
            try:
                known = await self._publishing(topic, target, partitions)
            except TidelensError:
                if known is None:
                    raise
                at = time.monotonic() - _AGAIN_S + _UNKNOWN_AGAIN_S
                known = replace(known, partitions=partitions, at=at)
            self._published[topic] = known
        return known.count

    async def _publishing(self, topic: str, target: Target, partitions: int) -> "_PublishCount":
        found = await self._find([f"{self.prefix}{target}", topic])
        if topic not in found:
            raise topic_absent(topic)
        return _PublishCount(partitions, (await self.counts_of(found))[topic], time.monotonic())

    def _made(
        self, target: Target, found: Mapping[str, TopicDescription], recorded: RecordedCounts
    ) -> int:
        """Return the count; while none is kept, what was seen before counts too.

        A publisher asks for the content topic alone, but its embeddings topics show more.
        """
        content = found.get(f"{self.prefix}{target}")
        made = created_count(self.prefix, target, found, recorded)
        if content is not None and target not in recorded:
            before = self._smallest.get(target)
            if before is not None and before.topic_id == content.id:
                made = min(made, before.partitions)
            self._smallest[target] = CreatedTopic(content.id, made)
        return made

    def _knows(self, target: Target, topic_id: str) -> bool:
        made = self._recorded.get(target)
        return made is not None and made.topic_id == topic_id

    async def _read(self, recorded: RecordedCounts) -> RecordedCounts:
        """Return what is kept now, or `recorded` where we may not read the control topic."""
        control = Names(self.prefix, "").control
        try:
            async with asyncio.timeout(_READ_S):
                # A reader would create an absent topic on a broker that creates topics by itself.
                if control in await self._find([control]):
                    reader = await self._tail({TopicPartition(control, 0): None})
                    try:
                        async for record in read_to_end(reader):
                            recorded = with_record(recorded, record)
                    finally:
                        await reader.close()
        except BrokerAway:
            raise
        except (BrokerUnavailable, TopicMismatch, *FORBIDDEN) as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning(
                    "the partition counts that are kept cannot be read, so those of Kafka are used",
                    topic=control,
                    error=str(error) or repr(error),
                )
        except (KafkaError, LogChanged, OSError) as error:
            raise BrokerAway(
                f"topic {control}, which keeps the partition counts, cannot be read now "
                f"({connect_failure(error)})"
            ) from error
        return recorded


@dataclass(frozen=True, slots=True)
class _PublishCount:
    """The count for publishing to a topic, and the count that Kafka showed at that time."""

    partitions: int
    count: int
    at: float

    def may_have_changed(self, partitions: int) -> bool:
        if partitions != self.partitions:
            return True
        return self.count != partitions and time.monotonic() - self.at > _AGAIN_S


def how_to_add_partitions(prefix: str, partitions: int) -> str:
    """Say how to get more partitions than a collection was made with, with the commands.

    Beside a running `up` every command with another prefix is refused, so it must be replaced.
    """
    other = f"{prefix.removesuffix('.')}-{partitions}."
    return (
        f"run `tidelens topics create --topic-prefix {other} --partitions {partitions}`, start "
        f"the roles with --topic-prefix {other} (TIDELENS_TOPIC_PREFIX), and publish everything "
        "again there; where `tidelens up` runs, stop it and start "
        f"`TIDELENS_PARTITIONS={partitions} tidelens up --topic-prefix {other}` instead, which "
        "creates the topics: an item's partition follows from the count, so partitions that are "
        "added to existing topics are of no use"
    )
