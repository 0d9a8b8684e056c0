"""The offsets at which an encoder starts in its partitions, decided by the commits of its group.

The group's commits are its state: the offset, and the metadata of
streams/ownership/commit_metadata.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from contracts.events.record import TopicPartition
from streams.groups.offsets import group_offsets
from streams.kafka.connection import KafkaConnection
from streams.lag.oldest_record import OldestRecordReader
from streams.ownership.caught_up import now_ms
from streams.ownership.commit_metadata import CommittedOffset, TopicPair

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StartPosition:
    """The offset to start at; `caught_up_ms` is None where deletes may have been missed."""

    offset: int
    caught_up_ms: int | None
    is_first: bool  # the group has committed nothing for the partition


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A partition that needs a start position: its embeddings partition and the topics' ids now."""

    embeddings: TopicPartition
    pair: TopicPair


async def find_start_positions(
    connection: KafkaConnection, group: str, requests: Mapping[TopicPartition, StartRequest]
) -> dict[TopicPartition, StartPosition]:
    """Return the group's committed offset in each partition, or the log's beginning.

    It is the beginning if there is no commit, or none that is still valid. Call this once every
    former owner is fenced. Raises ConfigurationError if a newer version of Tidelens committed.
    """
    async with connection.client() as client:
        # With the metadata that aiokafka's `committed()` would drop.
        committed = await group_offsets(client, group)
    # Read the ends of the logs after the commits: an end below a committed offset then means that
    # records were lost, not that the end was read too early.
    asked_ms = now_ms()
    reader = await OldestRecordReader.open(
        connection, [*requests, *(each.embeddings for each in requests.values())]
    )
    try:
        bounds = await reader.bounds()
    finally:
        await reader.close()
    found = {}
    for partition, each in requests.items():
        commit = CommittedOffset.read(committed[partition]) if partition in committed else None
        _, embedded_to = bounds[each.embeddings]
        found[partition] = _start(
            partition, each.pair, commit, bounds[partition], embedded_to, asked_ms
        )
    return found


def _start(
    partition: TopicPartition,
    pair: TopicPair,
    commit: CommittedOffset | None,
    bounds: tuple[int, int],
    embedded_to: int,
    asked_ms: int,
) -> StartPosition:
    beginning, end = bounds
    if commit is None:
        return StartPosition(beginning, None, is_first=True)
    lost = _lost(pair, commit, bounds, embedded_to)
    if lost is not None:
        log.warning(
            "encoding from the beginning",
            reason=lost,
            topic=partition.topic,
            partition=partition.partition,
            committed=commit.offset,
            beginning=beginning,
            end=end,
        )
        return StartPosition(beginning, None, is_first=False)
    caught_up_ms = commit.caught_up_ms
    if caught_up_ms is not None and commit.offset == end:
        caught_up_ms = asked_ms  # nothing was appended since, so nothing was deleted
    return StartPosition(commit.offset, caught_up_ms, is_first=False)


def _lost(
    pair: TopicPair, commit: CommittedOffset, bounds: tuple[int, int], embedded_to: int
) -> str | None:
    """Return why no encoder can go on from this commit, or None if one can."""
    beginning, end = bounds
    other = commit.recreated_topic(pair)
    if other is not None:
        return f"the {other} was deleted and created again"
    # An earlier version did not name the embeddings topic: one that never held anything is a sign.
    if (
        commit.is_from_encoder
        and commit.embeddings is None
        and commit.offset > beginning
        and not embedded_to
    ):
        return "nothing was ever written to the embeddings topic"
    if not beginning <= commit.offset <= end:
        return "the log does not have the committed offset"
    return None
