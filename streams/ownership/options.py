"""The options of an encoder's ownership."""

from dataclasses import dataclass

from contracts.events.record import TopicPartition
from contracts.topics import Names, Target
from streams.kafka.connection import KafkaConnection
from streams.topics.retention import RETENTION_MIN_S


@dataclass(frozen=True, slots=True)
class OwnershipOptions:
    """The settings of an ownership and of its sessions.

    `record_bytes_max` is the size of the largest content record. `drain_ms` bounds how long a
    revocation waits for commits that are under way. `retention_min_s` is a lower limit for the time
    in which a tombstone can be read, whatever the topic's `delete.retention.ms` is.
    """

    connection: KafkaConnection
    names: Names
    group: str
    record_bytes_max: int
    session_timeout_ms: int = 10_000
    transaction_timeout_ms: int = 60_000
    drain_ms: int = 1_000
    retention_min_s: float = RETENTION_MIN_S

    def target_of(self, partition: TopicPartition) -> Target:
        """Return the target of a content partition."""
        target = self.names.target_of(partition.topic)
        assert target is not None, partition
        return target

    def embeddings_of(self, partition: TopicPartition) -> TopicPartition:
        """Return the embeddings partition that belongs to a content partition."""
        return TopicPartition(self.names.embeddings(self.target_of(partition)), partition.partition)
