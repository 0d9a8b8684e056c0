"""Where an encoder starts in each of its partitions, by what its group left behind.

The group's commits are its state: the offset, and as metadata the content topic's id and the last
time at which everything then in the log had been seen (invariant 7).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiokafka import OffsetAndMetadata

from contracts.errors import ConfigurationError
from contracts.formats import unknown, version_of
from contracts.records import TopicPartition
from streams.connect import Connection
from streams.group_offsets import group_offsets
from streams.oldest import OldestRecords

log = structlog.get_logger(__name__)

# Of the metadata beside an offset; what has no member `version` is of the first.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Start:
    """`caught_up_ms` is None where deletes may have come and gone that nobody knows of."""

    offset: int
    caught_up_ms: int | None
    is_first: bool  # the group has committed nothing for the partition


def committing(next_offset: int, topic_id: str, caught_up_ms: int | None) -> OffsetAndMetadata:
    """What an encoder commits, for the one that starts after it."""
    metadata = {"topic_id": topic_id, "caught_up_ms": caught_up_ms}
    return OffsetAndMetadata(next_offset, orjson.dumps(metadata).decode())


async def starts(
    connection: Connection, group: str, topic_ids: Mapping[TopicPartition, str]
) -> dict[TopicPartition, Start]:
    """Where the group stands in each partition, the log's beginning without a usable past.

    `topic_ids`: of the topics that bear the names today. Ask once every former owner is fenced.
    Raises ConfigurationError where a newer version committed.
    """
    async with connection.client() as client:
        # With the metadata that aiokafka's `committed()` would drop.
        committed = await group_offsets(client, group)
    # Asked after the group was: a log whose end is below what was committed has lost records, and
    # was not just looked at too early.
    asked_ms = now_ms()
    asking = await OldestRecords.open(connection, list(topic_ids))
    try:
        bounds = await asking.bounds()
    finally:
        await asking.close()
    return {
        partition: _start(
            partition, topic_id, committed.get(partition), bounds[partition], asked_ms
        )
        for partition, topic_id in topic_ids.items()
    }


def now_ms() -> int:
    return int(time.time() * 1000)


def _start(
    partition: TopicPartition,
    topic_id: str,
    found: OffsetAndMetadata | None,
    bounds: tuple[int, int],
    asked_ms: int,
) -> Start:
    beginning, end = bounds
    if found is None:
        return Start(beginning, None, is_first=True)
    metadata = _metadata(found)
    # Without an id it was written by another tool; Kafka drops offsets with their topic.
    if metadata.get("topic_id") not in (None, topic_id):
        log.warning("content topic was recreated", topic=partition.topic)
        return Start(beginning, None, is_first=False)
    if not beginning <= found.offset <= end:
        log.warning(
            "the log does not have the committed offset, beginning anew",
            topic=partition.topic,
            partition=partition.partition,
            committed=found.offset,
            beginning=beginning,
            end=end,
        )
        return Start(beginning, None, is_first=False)
    caught_up_ms = metadata.get("caught_up_ms")
    if not isinstance(caught_up_ms, int):
        caught_up_ms = None
    elif found.offset == end:  # nothing was appended since, so nothing was deleted
        caught_up_ms = asked_ms
    return Start(int(found.offset), caught_up_ms, is_first=False)


def _metadata(found: OffsetAndMetadata) -> dict[str, Any]:
    """Return what we wrote beside the offset, nothing where another tool did.

    Raises ConfigurationError for a newer version's: what it vouches for is not known here.
    """
    try:
        metadata = orjson.loads(found.metadata)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(metadata, dict):
        return {}
    if (version := version_of(metadata)) != VERSION:
        raise ConfigurationError(unknown("commit metadata of the encoders", version, VERSION))
    return metadata
