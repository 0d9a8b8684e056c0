"""What an encoder commits beside an offset: of which topics the offset says something.

An offset alone counts records of a name. The topic of that name may have been deleted and created
again, and so may the embeddings topic that holds what was made of the records: then nothing before
the offset has been encoded, whatever the number says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson
from aiokafka import OffsetAndMetadata

from contracts.errors import ConfigurationError
from contracts.formats import unknown, version_of
from contracts.records import Positions, TopicPartition

# Of the metadata; what has no member `version` is of the first.
VERSION = 1


@dataclass(frozen=True, slots=True)
class TopicPair:
    """The ids of a content topic and of its embeddings topic."""

    content: str
    embeddings: str


@dataclass(frozen=True, slots=True)
class Commit:
    """An offset of the group; an id is None where whoever committed it named none.

    Earlier versions named the content topic alone, other tools name neither. `caught_up_ms` is
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
    def is_ours(self) -> bool:
        """Whether an encoder committed it, of this version or of one before."""
        return self.content is not None

    def unlike(self, pair: TopicPair) -> str | None:
        """Which topic is another one than it was committed for; None: it may be gone on from.

        Without an id nothing contradicts it: Kafka drops offsets with their content topic.
        """
        if self.content not in (None, pair.content):
            return "content topic"
        if self.embeddings not in (None, pair.embeddings):
            return "embeddings topic"
        return None


def committing(next_offset: int, pair: TopicPair, caught_up_ms: int | None) -> OffsetAndMetadata:
    """What an encoder commits, for the one that starts after it."""
    metadata = {
        "topic_id": pair.content,
        "embeddings_id": pair.embeddings,
        "caught_up_ms": caught_up_ms,
    }
    return OffsetAndMetadata(next_offset, orjson.dumps(metadata).decode())


def reached(
    committed: Mapping[TopicPartition, OffsetAndMetadata], pairs: Mapping[str, TopicPair]
) -> Positions:
    """The offsets that say something of today's topics; `pairs` are of content topics, by name."""
    positions: dict[TopicPartition, int] = {}
    for partition, found in committed.items():
        pair = pairs.get(partition.topic)
        if pair is None or _says_something(found, pair):
            positions[partition] = found.offset
    return positions


def _says_something(found: OffsetAndMetadata, pair: TopicPair) -> bool:
    try:
        return Commit.read(found).unlike(pair) is None
    except ConfigurationError:
        return True  # a newer version's, which its own encoders understand


def metadata_of(found: OffsetAndMetadata) -> dict[str, Any]:
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
