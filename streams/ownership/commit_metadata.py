"""The metadata that an encoder commits beside an offset: ids of the topics it belongs to.

A committed offset alone names a topic only by its name. The topic of that name may have been
deleted and created again, and so may the embeddings topic that its records are written to. Then
nothing before the offset has been encoded, whatever the number says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson
from aiokafka import OffsetAndMetadata

from contracts.errors import ConfigurationError
from contracts.events.format_version import unknown_version, version_of
from contracts.events.record import Positions, TopicPartition

# The version of the metadata; without a member `version` it is the first.
VERSION = 1


@dataclass(frozen=True, slots=True)
class TopicPair:
    """The ids of a content topic and of its embeddings topic."""

    content: str
    embeddings: str


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """An offset of the group; an id is None where the commit named none.

    Earlier versions named only the content topic, and other tools name neither. `caught_up_ms` is
    the last time at which everything then in the log had been seen (invariant 7).
    """

    offset: int
    content: str | None
    embeddings: str | None
    caught_up_ms: int | None

    @classmethod
    def read(cls, found: OffsetAndMetadata) -> Self:
        metadata = metadata_of(found)
        caught_up_ms = metadata.get("caught_up_ms")
        return cls(
            int(found.offset),
            metadata.get("topic_id"),
            metadata.get("embeddings_id"),
            caught_up_ms if isinstance(caught_up_ms, int) else None,
        )

    @property
    def is_from_encoder(self) -> bool:
        """Return whether an encoder of this or an earlier version committed it."""
        return self.content is not None

    def recreated_topic(self, pair: TopicPair) -> str | None:
        """Return which topic was created again since the commit, or None if neither was.

        A commit without an id counts as valid, since Kafka drops offsets with their content topic.
        """
        if self.content not in (None, pair.content):
            return "content topic"
        if self.embeddings not in (None, pair.embeddings):
            return "embeddings topic"
        return None


def commit_request(
    next_offset: int, pair: TopicPair, caught_up_ms: int | None
) -> OffsetAndMetadata:
    """Return the offset and metadata that an encoder commits for the next owner to start at."""
    metadata = {
        "topic_id": pair.content,
        "embeddings_id": pair.embeddings,
        "caught_up_ms": caught_up_ms,
    }
    return OffsetAndMetadata(next_offset, orjson.dumps(metadata).decode())


def valid_offsets(
    committed: Mapping[TopicPartition, OffsetAndMetadata], pairs: Mapping[str, TopicPair]
) -> Positions:
    """Return the offsets that belong to today's topics; `pairs` are by content topic."""
    positions: dict[TopicPartition, int] = {}
    for partition, found in committed.items():
        pair = pairs.get(partition.topic)
        if pair is None or _says_something(found, pair):
            positions[partition] = found.offset
    return positions


def _says_something(found: OffsetAndMetadata, pair: TopicPair) -> bool:
    try:
        return CommittedOffset.read(found).recreated_topic(pair) is None
    except ConfigurationError:
        return True  # written by a newer version, whose encoders understand it


def metadata_of(found: OffsetAndMetadata) -> dict[str, Any]:
    """Return what an encoder wrote beside the offset, or {} if another tool committed it.

    Raises ConfigurationError for metadata of a newer version, whose meaning is not known here.
    """
    try:
        metadata = orjson.loads(found.metadata)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(metadata, dict):
        return {}
    if (version := version_of(metadata)) != VERSION:
        raise ConfigurationError(
            unknown_version("commit metadata of the encoders", version, VERSION)
        )
    return metadata
