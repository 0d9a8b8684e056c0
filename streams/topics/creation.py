"""Creation of the topics of a collection, and the record of their partition counts."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import structlog
from aiokafka.errors import KafkaError

from contracts.errors import BrokerUnavailable
from contracts.events.partition_count_record import CreatedTopic, RecordedPartitionCounts
from contracts.partitioner import partitioner
from contracts.topics import TARGETS, Names, TopicSpec
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from streams.kafka.log_reader import KafkaLogReader
from streams.topics.admin import CreationResult, create_topics, require_partitions
from streams.topics.identity import TopicIdClient
from streams.topics.metadata import TopicDescription
from streams.topics.partition_counts import (
    PartitionCounts,
    RecordedCounts,
    created_count,
    target_of,
)

log = structlog.get_logger(__name__)

_RECORD_BYTES_MAX = 64 * 1024
_TRIES = 20
_RETRY_S = 0.1


async def create_collection_topics(
    connection: KafkaConnection,
    names: Names,
    specs: Sequence[TopicSpec],
    *,
    replication_factor: int,
    min_insync_replicas: int,
) -> CreationResult:
    """Create those of `specs` that are absent, and record the counts of content topics.

    Partitions that were added to topics since their creation are ignored. Raises TopicMismatch as
    `create_topics` does.
    """
    topic_client = TopicIdClient(connection)
    counts = PartitionCounts(
        names.prefix, topic_client.existing_topics, partial(KafkaLogReader.open, connection)
    )
    contents = [names.content(target) for target in TARGETS]
    wanted = {*contents, *(spec.name for spec in specs)}
    try:
        # 1. Compare existing topics by the counts that they were made with. Other topics' are free.
        made = await counts.counts_of(await topic_client.existing_topics(wanted))
        data = [spec for spec in specs if target_of(names.prefix, spec.name) is not None]
        require_partitions(data, made)
        made |= {spec.name: spec.partitions for spec in specs if spec not in data}
        # 2. Create what is missing.
        created = await create_topics(
            connection,
            specs,
            replication_factor=replication_factor,
            min_insync_replicas=min_insync_replicas,
            counts=made,
        )
        # 3. Keep the counts, before anybody can add partitions to the new topics.
        found = await _all_found(topic_client, wanted)
        await _keep(connection, names, found, await counts.recorded(found))
        return created
    finally:
        await topic_client.close()


async def _all_found(
    topic_client: TopicIdClient, topics: Collection[str]
) -> Mapping[str, TopicDescription]:
    """Ask for all topics; a broker learns of new ones a moment after the one that creates them."""
    found: Mapping[str, TopicDescription] = {}
    for _ in range(_TRIES):
        found = await topic_client.existing_topics(topics)
        if len(found) == len(topics):
            break
        await asyncio.sleep(_RETRY_S)
    return found


async def _keep(
    connection: KafkaConnection,
    names: Names,
    found: Mapping[str, TopicDescription],
    recorded: RecordedCounts,
) -> None:
    new = {
        target: CreatedTopic(
            found[names.content(target)].id, created_count(names.prefix, target, found, recorded)
        )
        for target in TARGETS
        if names.content(target) in found and target not in recorded
    }
    if not new or names.control not in found:
        return
    record = RecordedPartitionCounts({**recorded, **new}).record(names.control)
    try:
        async with KafkaEventLog.open(
            connection, partition_of=partitioner("murmur2"), record_bytes_max=_RECORD_BYTES_MAX
        ) as event_log:
            await event_log.publish([record])
    except (KafkaError, BrokerUnavailable) as error:
        # A user who may create topics may lack the right to write to them.
        log.warning(
            "the partition counts could not be written", topic=names.control, error=str(error)
        )
