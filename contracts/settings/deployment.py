"""Settings of a deployment: its topics, its model, and where its processes listen."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.partitioning import PartitionerName
from contracts.settings.bounds import HOUR_S, NAMES_MAX, TEXT_MAX, Host, Text
from contracts.user_folders import user_data_dir


class DeploymentSettings(FromEnvironment):
    """The topics and the model of a deployment, and where its processes listen."""

    brokers: Text | None = Field(
        None,
        description="Kafka's bootstrap servers. Unset: `tidelens up` runs a broker of its own.",
    )
    topic_prefix: str = Field(
        "tidelens.",
        max_length=150,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.$",
        description="Beginning of the names of all topics, groups and transactional ids; "
        "ends in a dot.",
    )
    model: str = Field(
        "starter",
        max_length=TEXT_MAX,
        description="`starter`, a folder, or the hub name of a Hugging Face checkpoint. "
        "`hash` knows only words and is meant for tests.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="Numeric precision of a checkpoint's model. `auto` uses what `doctor "
        "--tune` found, or a 2-second probe.",
    )
    remote_code: bool = Field(
        False, description="Run the Python code that a checkpoint brings. Read that code first."
    )
    partitioner: PartitionerName = Field(
        "murmur2",
        description="How ids are assigned to partitions: like Java's default (murmur2) or "
        "like librdkafka's (crc32).",
    )
    partitions: int = Field(
        4, ge=1, le=4096, description="Number of partitions of the topics that Tidelens creates."
    )
    replication_factor: int = Field(
        1, ge=1, le=32767, description="Replication factor of the topics that Tidelens creates."
    )
    min_insync_replicas: int = Field(
        1, ge=1, le=32767, description="min.insync.replicas of the topics that Tidelens creates."
    )
    data: Path = Field(
        default_factory=user_data_dir,
        description="Directory for the files of Tidelens and of the broker that `tidelens "
        "up` runs.",
    )
    shard: str = Field(
        "0",
        max_length=50,
        pattern=r"^[a-z0-9-]+$",
        description="Name of the shard that this index node holds.",
    )
    replica: str = Field(
        "0",
        max_length=50,
        pattern=r"^[a-z0-9-]+$",
        description="Name of this index node among the replicas of its shard.",
    )
    host: str = Field(
        "127.0.0.1", max_length=255, description="Address that the API and /metrics listen on."
    )
    port: int = Field(8080, ge=0, le=65535, description="Port that the API listens on.")
    encode_metrics_port: int = Field(
        9464,
        ge=0,
        le=65535,
        description="Port of an encoder's /metrics. 0: none. If the default is taken, "
        "another free port is used.",
    )
    restart_pause_max_s: float = Field(
        60.0,
        ge=0.01,
        le=HOUR_S,
        description="Longest pause, in seconds, before a child process that ended is started "
        "again. The pauses begin with 0.5 s, and begin again once a process has run for this long.",
    )
    hosts_allowed: list[Host] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Host names accepted in Host and Origin besides loopback (JSON list).",
    )
    root_path: str = Field(
        "",
        max_length=255,
        pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$",
        description="Path that a proxy keeps in front of the API's own, such as `/search`. "
        "Leave it unset where there is none, or where the proxy strips it.",
    )
    allow_roots: list[Path] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Folders that file: references may point into (JSON list).",
    )

    @property
    def precision_named(self) -> str | None:
        """The precision that was set; None if it is `auto`, to be found."""
        return None if self.precision == "auto" else self.precision
