"""Settings that name the Kafka cluster and its topics."""

from typing import Annotated

from pydantic import Field

from contracts.partitioner import PartitionerName
from contracts.settings.bounds import Text
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Unit


class TopicSettings(EnvironmentSettings):
    """The Kafka cluster and its topics, which all processes of a collection share."""

    brokers: Basic[Text | None] = Field(
        None,
        description="Kafka's bootstrap servers, as HOST:PORT,HOST:PORT. If it is unset, "
        "`tidelens up` runs a broker of its own, and commands use that one.",
    )
    topic_prefix: Basic[str] = Field(
        "tidelens.",
        max_length=150,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.$",
        description="Start of the names of all topics, consumer groups and transactional ids; it "
        "ends in a dot. Another prefix is another collection.",
    )
    partitions: Basic[Annotated[int, Unit("partitions")]] = Field(
        4,
        ge=1,
        le=4096,
        description="Number of partitions of each content topic and embeddings topic that "
        "Tidelens creates. Topics that exist keep theirs.",
    )
    replication_factor: Basic[Annotated[int, Unit("replicas")]] = Field(
        1,
        ge=1,
        le=32767,
        description="Number of brokers that hold each partition of the topics that Tidelens "
        "creates. Kafka refuses more than it has brokers.",
    )
    min_insync_replicas: Basic[Annotated[int, Unit("replicas")]] = Field(
        1,
        ge=1,
        le=32767,
        description="Kafka's min.insync.replicas of the topics that Tidelens creates. With fewer "
        "replicas in sync, the brokers accept no records.",
    )
    partitioner: PartitionerName = Field(
        "murmur2",
        description="Rule that assigns an id to a partition: `murmur2` is that of Java's default "
        "producer, `crc32` that of librdkafka. All producers must use the same one.",
    )
