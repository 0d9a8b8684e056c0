"""The names of topics, groups and transactional ids, and the settings of each topic."""

from dataclasses import dataclass
from typing import Literal, get_args

from contracts.events.dead_letter import letter_bytes_max

Target = Literal["images", "captions"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class Names:
    """The Kafka names of one collection. `prefix` ends in a dot, like the value of --topic-prefix.

    >>> Names("tidelens.", "starter-v1").content("images")
    'tidelens.images'
    """

    prefix: str
    space: str

    def content(self, target: Target) -> str:
        return f"{self.prefix}{target}"

    def embeddings(self, target: Target) -> str:
        return f"{self.prefix}embeddings.{self.space}.{target}"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}dead-letters"

    @property
    def control(self) -> str:
        return f"{self.prefix}control"

    @property
    def bare(self) -> str:
        """The prefix without its final dot, as it stands in groups and transactional ids."""
        return self.prefix.removesuffix(".")

    @property
    def encoder_group(self) -> str:
        return f"{self.bare}.encode.{self.space}"

    def index_group(self, shard: str, replica: str) -> str:
        return f"{self.bare}.index.{self.space}.{shard}.{replica}"

    def streams_app_id(self, shard: str, replica: str) -> str:
        """Return the group of the Faust app, which is also its id.

        It differs from the index group, since Kafka refuses the node's commits in a group that has
        members.
        """
        return f"{self.bare}.streams.{self.space}.{shard}.{replica}"

    def transactional_id(self, target: Target, partition: int) -> str:
        return f"{self.bare}.{self.space}.{target}.{partition}"

    def target_of(self, topic: str) -> Target | None:
        """Return the target of a content or embeddings topic of this collection, or None."""
        for target in TARGETS:
            if topic in (self.content(target), self.embeddings(target)):
                return target
        return None


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """The partition count and the settings that a topic must have."""

    name: str
    partitions: int
    config: dict[str, str]


def topic_specs(
    names: Names,
    *,
    partitions: int,
    content_bytes_max: int,
    compaction_lag_ms: int = 3_600_000,
    delete_retention_ms: int = 86_400_000,
) -> list[TopicSpec]:
    """Return the topics of a collection: content, embeddings of one space, dead letters, control.

    `content_bytes_max` is the size of the largest record in bytes. The dead-letters topic takes
    records of twice that size, since a letter is the original with more headers.
    """
    compacted = {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(compaction_lag_ms),
        "delete.retention.ms": str(delete_retention_ms),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(content_bytes_max),
    }
    dead = {
        "cleanup.policy": "delete",
        "retention.ms": str(30 * 86_400_000),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(letter_bytes_max(content_bytes_max)),
    }
    data = [names.content(t) for t in TARGETS] + [names.embeddings(t) for t in TARGETS]
    return [
        *(TopicSpec(topic, partitions, compacted) for topic in data),
        TopicSpec(names.dead_letters, partitions, dead),
        TopicSpec(names.control, 1, {"cleanup.policy": "compact"}),
    ]
