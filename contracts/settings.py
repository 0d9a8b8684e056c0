"""Every setting, read from the environment in this one place.

A setting `name` is the variable TIDELENS_NAME; `tidelens config` prints each with its value,
origin and meaning. Command-line options override them. Every limit of the system stands here or
beside the contract it limits (contracts/events.py), with a name and a default.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from contracts.characters import require_visible
from contracts.environment import FromEnvironment, read, variable_of
from contracts.partitioning import PartitionerName
from contracts.prompts import PLAIN, TEMPLATES, require_distinct, require_slot
from contracts.user_folders import user_data_dir
from contracts.variables import Variables, sorted_out

MIB = 1024 * 1024
GIB = 1024 * MIB

# Far beyond what is sensible, so that a slip of the keyboard is seen and nothing overflows.
_TEXT_MAX = 4096
_NAMES_MAX = 1000
_THREADS_MAX = 4096
_MEMORY_MB_MAX = 16 * MIB
_HOUR_S = 3600.0
_YEAR_S = 366 * 24 * _HOUR_S
_MINUTE_MS = 60_000

Text = Annotated[str, Field(max_length=_TEXT_MAX)]
Secret = Annotated[SecretStr, Field(max_length=_TEXT_MAX)]
Host = Annotated[str, Field(max_length=255)]
Port = Annotated[int, Field(ge=1, le=65535)]


class KafkaSettings(FromEnvironment):
    """How every Kafka client connects, Faust's included: TIDELENS_KAFKA_*."""

    model_config = SettingsConfigDict(
        env_prefix="TIDELENS_KAFKA_", frozen=True, allow_inf_nan=False
    )

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Kafka's security.protocol."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="Kafka's sasl.mechanism."
    )
    sasl_username: Text | None = Field(None, description="User for SASL.")
    sasl_password: Secret | None = Field(None, description="Password for SASL.")
    ssl_cafile: Path | None = Field(None, description="CA certificates, PEM.")
    ssl_certfile: Path | None = Field(None, description="Client certificate, PEM.")
    ssl_keyfile: Path | None = Field(None, description="Client key, PEM.")
    ssl_password: Secret | None = Field(None, description="Password of the client key.")
    client_id: str = Field(
        "tidelens", max_length=255, description="client.id, seen in the broker's logs."
    )


class Settings(FromEnvironment):
    """All other settings: TIDELENS_*."""

    model_config = SettingsConfigDict(env_prefix="TIDELENS_", frozen=True, allow_inf_nan=False)

    # What is served
    brokers: Text | None = Field(None, description="Bootstrap servers; none: run Kafka itself.")
    topic_prefix: str = Field(
        "tidelens.",
        max_length=150,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.$",
        description="Starts every topic, group and transactional id; ends in a dot.",
    )
    model: str = Field(
        "starter",
        max_length=_TEXT_MAX,
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

    # Addresses
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
        max_length=_NAMES_MAX,
        description="Host names that may be in Host and Origin, beside loopback (JSON list).",
    )
    allow_roots: list[Path] = Field(
        default_factory=list,
        max_length=_NAMES_MAX,
        description="Folders that file: references may point into (JSON).",
    )

    # Limits of records
    record_bytes_max: int = Field(4 * MIB, ge=1, le=GIB, description="Largest content record.")
    inline_bytes_max: int = Field(
        2 * MIB, ge=0, le=GIB, description="Pictures above this go by reference."
    )
    image_bytes_max: int = Field(20 * MIB, ge=1, le=GIB, description="Largest picture, compressed.")
    image_pixels_max: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="Largest picture, in pixels."
    )
    image_side_max: int = Field(
        65_535, ge=1, le=1_000_000_000, description="Longest side of a picture, in pixels."
    )

    # Limits of references
    reference_schemes: list[Literal["file", "http", "https", "s3"]] = Field(
        ["file", "https", "s3"],
        max_length=4,
        description="Schemes of image.ref that are followed; file: not from HTTP (JSON list).",
    )
    reference_ports: list[Port] = Field(
        default_factory=lambda: [443],
        max_length=_NAMES_MAX,
        description="Ports that references may name (JSON list).",
    )
    reference_hosts_allowed: list[Host] = Field(
        default_factory=list,
        max_length=_NAMES_MAX,
        description="Hosts that references may name though their addresses are not public (JSON).",
    )
    reference_buckets: list[Host] = Field(
        default_factory=list,
        max_length=_NAMES_MAX,
        description="Buckets that s3: references may name (JSON list).",
    )
    reference_timeout_s: float = Field(
        20.0,
        gt=0,
        le=_HOUR_S,
        description="Longest fetch of one reference, its redirects included.",
    )
    reference_redirects_max: int = Field(3, ge=0, le=20, description="Redirects of one reference.")
    reference_per_host_max: int = Field(
        4,
        ge=1,
        le=1000,
        description="References fetched at once from the hosts of one domain, or one bucket.",
    )
    reference_held_max: int = Field(
        16, ge=1, le=1000, description="Pictures of references in memory."
    )
    reference_attempts_max: int = Field(
        3, ge=1, le=100, description="Fetches of one reference whose host fails."
    )
    reference_patience_s: float = Field(
        300.0,
        ge=0,
        le=_YEAR_S,
        description="How long references wait while network, resolver or S3 is away.",
    )

    # Limits of encoding
    encode_batch_pictures: int = Field(
        32, ge=1, le=4096, description="Pictures of one encoder batch."
    )
    encode_batch_captions: int = Field(
        256, ge=1, le=65_536, description="Captions of one encoder batch."
    )
    encode_ahead_batches: int = Field(
        4,
        ge=2,
        le=1000,
        description="What a partition may have between fetched and committed, in batches.",
    )
    encode_ahead_mb: int = Field(
        256,
        ge=1,
        le=_MEMORY_MB_MAX,
        description="Records between fetched and committed, of one target in all; decoded pictures "
        "that wait for the model may take as much again.",
    )
    encode_known_max: int = Field(
        32_768, ge=0, le=100_000_000, description="Vectors kept for inputs that come again."
    )
    encode_drain_ms: int = Field(
        1_000,
        ge=0,
        le=10 * _MINUTE_MS,
        description="How long a rebalance waits for what is under way.",
    )
    encode_wait_ms: int = Field(
        200, ge=1, le=_MINUTE_MS, description="Longest wait of one poll for records."
    )
    encode_threads: int = Field(
        0,
        ge=0,
        le=_THREADS_MAX,
        description="Threads of the model, and processes of decoding; 0: one a core.",
    )
    decode_seconds_max: float = Field(
        5.0,
        gt=0,
        le=_HOUR_S,
        description="Processor time for the largest picture's decoding; six times that by clock.",
    )
    decode_seconds_min: float = Field(
        1.0,
        gt=0,
        le=_HOUR_S,
        description="Processor time that any picture may take; in between it goes by the pixels.",
    )
    decode_memory_mb: int = Field(
        2048, ge=64, le=_MEMORY_MB_MAX, description="Memory that decoding one picture may take."
    )
    labels: Annotated[
        list[Annotated[Text, AfterValidator(require_visible)]], AfterValidator(require_distinct)
    ] = Field(
        default_factory=list,
        max_length=10 * _NAMES_MAX,
        description="Labels that encoders choose from for `labels` in the metadata (JSON list).",
    )
    label_templates: list[Annotated[Text, AfterValidator(require_slot)]] = Field(
        default_factory=lambda: list(TEMPLATES),
        min_length=1,
        max_length=_NAMES_MAX,
        description="What a label is put into, in place of {} (JSON list).",
    )
    label_count: int = Field(1, ge=1, le=1000, description="Labels of one item at most.")
    label_probability_min: float = Field(
        0.5, ge=0, le=1, description="How likely a label must be, among all, to be given."
    )
    encode_session_ms: int = Field(
        10_000,
        ge=1_000,
        le=30 * _MINUTE_MS,
        description="Kafka's session.timeout.ms: when a dead encoder is replaced.",
    )
    query_templates: list[Annotated[Text, AfterValidator(require_slot)]] = Field(
        default_factory=lambda: list(PLAIN),
        min_length=1,
        max_length=128,
        description="What a query's text is put into, in place of {}; the vectors are averaged.",
    )
    query_batch_max: int = Field(
        32, ge=1, le=4096, description="Pictures and texts, in each template, encoded together."
    )
    query_queue_max: int = Field(
        256, ge=1, le=1_000_000, description="Queries waiting to be encoded."
    )
    query_cache_max: int = Field(4096, ge=0, le=10_000_000, description="Query vectors kept.")
    query_pictures_max: int = Field(
        64, ge=1, le=10_000, description="Pictures of queries between arrived and answered."
    )
    query_pictures_mb: int = Field(
        64,
        ge=1,
        le=_MEMORY_MB_MAX,
        description="Their bytes in all; decoded ones may take as much.",
    )
    query_pictures_at_once: int = Field(
        8, ge=1, le=10_000, description="Pictures of one request that are read and encoded at once."
    )
    query_picture_turn_ms: float = Field(
        25.0,
        gt=0,
        le=_MINUTE_MS,
        description="How long pictures may keep the model from texts; one picture has its time.",
    )
    query_image_pixels_max: int = Field(
        25_000_000, ge=1, le=1_000_000_000, description="Largest picture of a query, in pixels."
    )
    query_decode_seconds_max: float = Field(
        2.0,
        gt=0,
        le=_HOUR_S,
        description="Processor time for a query's picture of so many pixels; fewer have less.",
    )
    query_decode_seconds_min: float = Field(
        0.5, gt=0, le=_HOUR_S, description="Processor time that any query's picture may take."
    )
    query_decode_processes: int = Field(
        1, ge=1, le=256, description="Processes that decode the pictures of queries."
    )

    query_reference_timeout_s: float = Field(
        10.0,
        gt=0,
        le=_HOUR_S,
        description="Longest wait for the picture that a query's image.ref names.",
    )

    # Limits of the pictures that are shown
    pictures_cached_mb: int = Field(
        64, ge=0, le=_MEMORY_MB_MAX, description="Pictures kept in memory that were shown lately."
    )
    pictures_reading_max: int = Field(
        64, ge=1, le=10_000, description="Pictures read at once, to be shown."
    )
    pictures_remote_max: int = Field(
        16, ge=1, le=10_000, description="Of these, read from where https: and s3: point."
    )
    pictures_converting_max: int = Field(
        16, ge=1, le=10_000, description="Of these, converted, since no browser shows them."
    )
    picture_side_max: int = Field(
        2048, ge=16, le=16_384, description="Longest side of a picture that is converted."
    )

    # Limits of indexing
    index_batch_records: int = Field(
        2048, ge=1, le=1_000_000, description="Records applied in one step."
    )
    index_wait_ms: int = Field(
        200, ge=1, le=_MINUTE_MS, description="Longest wait of one poll for records."
    )
    index_kind: str = Field(
        "auto",
        max_length=200,
        description="Of sealed segments: auto, Flat, or a Faiss factory string (IVF,SQ8; HNSW32).",
    )
    scanned_rows_max: int = Field(
        8_192,
        ge=1,
        le=1_000_000_000,
        description="Rows that each search scans; more than these get an index.",
    )
    target_recall: float = Field(
        0.95, gt=0, le=1, description="Recall@10 that searches are tuned to; 1: always exact."
    )
    index_mb_max: int = Field(
        0,
        ge=0,
        le=_MEMORY_MB_MAX,
        description="Memory of one target's index; more gets coarser codes. 0: no limit.",
    )
    gpu_memory_mb: int = Field(
        8192,
        ge=0,
        le=_MEMORY_MB_MAX,
        description="Of a GPU, for sealed segments; the rest stays on the CPU.",
    )
    rebuild_threads: int = Field(
        1, ge=1, le=_THREADS_MAX, description="Threads of the process that builds."
    )
    snapshots: Text | None = Field(
        None,
        description="Where snapshots go: file:PATH, s3://BUCKET/PREFIX; none: the data directory.",
    )
    snapshot_every_s: float = Field(
        60.0, gt=0, le=_YEAR_S, description="Snapshot when this old and changed."
    )
    snapshot_every_records: int = Field(
        100_000, ge=1, le=1_000_000_000_000, description="Snapshot after so many records applied."
    )
    snapshot_refresh_s: float = Field(
        900.0,
        gt=0,
        le=_YEAR_S,
        description="An unchanged state is written again after this, for its time.",
    )
    snapshots_kept: int = Field(2, ge=1, le=1000, description="Snapshots kept.")
    stale_after_s: float = Field(
        3600.0,
        gt=0,
        le=_YEAR_S,
        description="Not ready when last caught up this long ago, or min.compaction.lag.ms ago.",
    )

    # Limits of serving
    k_max: int = Field(1000, ge=1, le=1_000_000, description="Largest k + offset of a query.")
    answer_bytes_max: int = Field(
        32 * MIB, ge=MIB, le=GIB, description="Largest answer of one HTTP request."
    )
    answers_bytes_max: int = Field(
        256 * MIB,
        ge=MIB,
        le=64 * GIB,
        description="Answers in memory together; more are refused with 503.",
    )
    body_bytes_max: int = Field(32 * MIB, ge=1, le=GIB, description="Largest HTTP request body.")
    body_values_max: int = Field(
        1_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Values in one request body or frame: commas, and lists and objects twice.",
    )
    publish_items_max: int = Field(
        1000, ge=1, le=100_000, description="Items in one POST /v1/items."
    )
    queries_max: int = Field(64, ge=1, le=10_000, description="Queries in one POST /v1/search.")
    classify_prompts_max: int = Field(
        4096, ge=1, le=1_000_000, description="Labels times templates in one POST /v1/classify."
    )
    wait_s_max: float = Field(60.0, ge=0, le=_YEAR_S, description="Longest wait_for.")
    connections_max: int = Field(1000, ge=0, le=1_000_000, description="Live connections.")
    subscriptions_max: int = Field(
        100, ge=0, le=1_000_000, description="Subscriptions on one connection."
    )
    standing_max: int = Field(
        100_000, ge=0, le=10_000_000, description="Subscriptions of one node."
    )
    idle_s_max: float = Field(
        300.0,
        gt=0,
        le=_YEAR_S,
        description="A live connection without subscriptions is closed after this.",
    )
    standing_searches_max: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Live lists that wait to be searched; at more, no new ones.",
    )
    frame_bytes_max: int = Field(
        8 * MIB, ge=1, le=GIB, description="Largest WebSocket frame received."
    )
    send_timeout_s: float = Field(
        10.0, gt=0, le=_HOUR_S, description="A client that takes longer is closed, 1013."
    )

    # Limits of the HTTP server, and of the encoders' /metrics
    http_connections_max: int = Field(
        4096,
        ge=16,
        le=1_000_000,
        description="Connections of all clients; fewer where the system allows fewer open files.",
    )
    http_connections_per_address_max: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="Connections of one client address (IPv6: /64 network). Behind a proxy all "
        "clients have the proxy's: set it to TIDELENS_HTTP_CONNECTIONS_MAX there.",
    )
    header_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="Longest wait for the header of a request or handshake."
    )
    body_timeout_s: float = Field(
        15.0,
        gt=0,
        le=3600,
        description="In each such time a body or an unfinished frame must move on by "
        "TIDELENS_CLIENT_BYTES_PER_S_MIN, or it is refused.",
    )
    client_bytes_per_s_min: int = Field(
        8192, ge=0, le=2**30, description="Slowest pace at which clients send bodies, take answers."
    )
    bodies_mb_max: int = Field(
        256, ge=1, le=1_048_576, description="Bodies and unfinished frames in memory, of all."
    )
    bodies_per_address_mb_max: int = Field(
        128,
        ge=1,
        le=1_048_576,
        description="The same of one client address. Behind a proxy: TIDELENS_BODIES_MB_MAX.",
    )
    message_bytes_max: int = Field(
        16 * MIB, ge=MIB, le=GIB, description="Largest message of a live connection."
    )

    log_format: Literal["auto", "human", "json"] = Field(
        "auto", description="auto: human on a terminal, JSON else."
    )

    @property
    def precision_named(self) -> str | None:
        """None: to be found."""
        return None if self.precision == "auto" else self.precision

    @property
    def encode_threads_used(self) -> int:
        """`encode_threads`, or as many as there are cores for this process."""
        return self.encode_threads or len(os.sched_getaffinity(0))


def load(**overrides: Any) -> Settings:
    """Settings from the environment, `overrides` (None: not given) before it."""
    return read(Settings, overrides, variables())


def load_kafka() -> KafkaSettings:
    """Connection settings from the environment."""
    return read(KafkaSettings, {}, variables())


def variables() -> Variables:
    """The variables of the environment that begin with TIDELENS_, told apart."""
    kinds = (Settings, KafkaSettings)
    return sorted_out(
        os.environ, [variable_of(kind, name) for kind in kinds for name in kind.model_fields]
    )
