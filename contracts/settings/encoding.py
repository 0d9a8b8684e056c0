"""How encoders work through the content topics, and what decoding one picture may take."""

import os
from typing import Annotated

from pydantic import AfterValidator, Field

from contracts.characters import require_visible
from contracts.environment import FromEnvironment
from contracts.prompts import TEMPLATES, require_distinct, require_slot
from contracts.settings.bounds import HOUR_S, MEMORY_MB_MAX, MINUTE_MS, NAMES_MAX, THREADS_MAX, Text


class EncodingSettings(FromEnvironment):
    """How encoders work through the content topics, and what decoding one picture may take."""

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
        le=MEMORY_MB_MAX,
        description="Records between fetched and committed, of one target in all; decoded pictures "
        "that wait for the model may take as much again.",
    )
    encode_known_max: int = Field(
        32_768, ge=0, le=100_000_000, description="Vectors kept for inputs that come again."
    )
    encode_drain_ms: int = Field(
        1_000,
        ge=0,
        le=10 * MINUTE_MS,
        description="How long a rebalance waits for what is under way.",
    )
    encode_wait_ms: int = Field(
        200, ge=1, le=MINUTE_MS, description="Longest wait of one poll for records."
    )
    encode_threads: int = Field(
        0,
        ge=0,
        le=THREADS_MAX,
        description="Threads of the model, and processes of decoding; 0: one a core.",
    )
    decode_seconds_max: float = Field(
        5.0,
        gt=0,
        le=HOUR_S,
        description="Processor time for the largest picture's decoding; six times that by clock.",
    )
    decode_seconds_min: float = Field(
        1.0,
        gt=0,
        le=HOUR_S,
        description="Processor time that any picture may take; in between it goes by the pixels.",
    )
    decode_memory_mb: int = Field(
        2048, ge=64, le=MEMORY_MB_MAX, description="Memory that decoding one picture may take."
    )
    labels: Annotated[
        list[Annotated[Text, AfterValidator(require_visible)]], AfterValidator(require_distinct)
    ] = Field(
        default_factory=list,
        max_length=10 * NAMES_MAX,
        description="Labels that encoders choose from for `labels` in the metadata (JSON list).",
    )
    label_templates: list[Annotated[Text, AfterValidator(require_slot)]] = Field(
        default_factory=lambda: list(TEMPLATES),
        min_length=1,
        max_length=NAMES_MAX,
        description="What a label is put into, in place of {} (JSON list).",
    )
    label_count: int = Field(1, ge=1, le=1000, description="Labels of one item at most.")
    label_probability_min: float = Field(
        0.5, ge=0, le=1, description="How likely a label must be, among all, to be given."
    )
    encode_session_ms: int = Field(
        10_000,
        ge=1_000,
        le=30 * MINUTE_MS,
        description="Kafka's session.timeout.ms: when a dead encoder is replaced.",
    )

    @property
    def encode_threads_used(self) -> int:
        """`encode_threads`, or as many as there are cores for this process."""
        return self.encode_threads or len(os.sched_getaffinity(0))
