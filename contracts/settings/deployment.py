"""Where a process belongs, what it serves, and where it listens."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.partitioning import PartitionerName
from contracts.settings.bounds import NAMES_MAX, TEXT_MAX, Host, Text
from contracts.user_folders import user_data_dir


class DeploymentSettings(FromEnvironment):
    """Where a process belongs, what it serves, and where it listens."""

    brokers: Text | None = Field(None, description="Bootstrap servers; none: run Kafka itself.")
    topic_prefix: str = Field(
        "tidelens.",
        max_length=150,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.$",
        description="Starts every topic, group and transactional id; ends in a dot.",
    )
    model: str = Field(
        "starter",
        max_length=TEXT_MAX,
        description="`starter`, a folder, a Hugging Face hub name; `hash`: words only, for tests.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="Of a checkpoint's numbers; auto: as `doctor --tune` found, else a 2 s probe.",
    )
    remote_code: bool = Field(
        False, description="Run the Python that a checkpoint brings; read it before."
    )
    partitioner: PartitionerName = Field(
        "murmur2", description="Where ids live: Java's default, or librdkafka's (crc32)."
    )
    partitions: int = Field(4, ge=1, le=4096, description="Partitions of topics that we create.")
    replication_factor: int = Field(1, ge=1, le=32767, description="Of topics that we create.")
    min_insync_replicas: int = Field(1, ge=1, le=32767, description="Of topics that we create.")
    data: Path = Field(
        default_factory=user_data_dir, description="Directory for Kafka's and our files."
    )
    shard: str = Field(
        "0", max_length=50, pattern=r"^[a-z0-9-]+$", description="This index node's shard."
    )
    replica: str = Field(
        "0", max_length=50, pattern=r"^[a-z0-9-]+$", description="This index node's replica."
    )
    host: str = Field(
        "127.0.0.1", max_length=255, description="Address that the API and /metrics listen on."
    )
    port: int = Field(8080, ge=0, le=65535, description="Port that the API listens on.")
    encode_metrics_port: int = Field(
        9464,
        ge=0,
        le=65535,
        description="Port of an encoder's /metrics; not set and taken: another one; 0: none.",
    )
    hosts_allowed: list[Host] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Host names that may be in Host and Origin, beside loopback (JSON list).",
    )
    allow_roots: list[Path] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Folders that file: references may point into (JSON).",
    )

    @property
    def precision_named(self) -> str | None:
        """None: to be found."""
        return None if self.precision == "auto" else self.precision
