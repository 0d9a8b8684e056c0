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
        32, ge=1, le=4096, description="Pictures in one batch of the encoder."
    )
    encode_batch_captions: int = Field(
        256, ge=1, le=65_536, description="Captions in one batch of the encoder."
    )
    encode_ahead_batches: int = Field(
        4,
        ge=2,
        le=1000,
        description="Batches that one partition may have fetched and not yet committed.",
    )
    encode_ahead_mb: int = Field(
        256,
        ge=1,
        le=MEMORY_MB_MAX,
        description="Records that one target may have fetched and not yet committed, in "
        "MiB. Decoded pictures that wait for the model may take as much again.",
    )
    encode_known_max: int = Field(
        32_768, ge=0, le=100_000_000, description="Vectors kept for inputs that come again."
    )
    encode_drain_ms: int = Field(
        1_000,
        ge=0,
        le=10 * MINUTE_MS,
        description="How long, in milliseconds, a rebalance waits for batches under way.",
    )
    encode_wait_ms: int = Field(
        200,
        ge=1,
        le=MINUTE_MS,
        description="Longest wait, in milliseconds, of one poll for records.",
    )
    encode_threads: int = Field(
        0,
        ge=0,
        le=THREADS_MAX,
        description="Threads of the model, and processes that decode pictures. 0: one per core.",
    )
    decode_seconds_max: float = Field(
        5.0,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, to decode a picture of the largest size. "
        "The wall clock may take six times as long.",
    )
    decode_seconds_min: float = Field(
        1.0,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, that any picture may take. Between this "
        "and the maximum, the limit grows with the pixels.",
    )
    decode_memory_mb: int = Field(
        2048,
        ge=64,
        le=MEMORY_MB_MAX,
        description="Memory, in MiB, that decoding one picture may take.",
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
        description="Texts that each label is put into, in place of {} (JSON list).",
    )
    label_count: int = Field(1, ge=1, le=1000, description="Most labels given to one item.")
    label_probability_min: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least probability, among all labels, of a label that is given.",
    )
    encode_session_ms: int = Field(
        10_000,
        ge=1_000,
        le=30 * MINUTE_MS,
        description="Kafka's session.timeout.ms, in milliseconds: how soon a dead encoder "
        "is replaced.",
    )

    @property
    def encode_threads_used(self) -> int:
        """`encode_threads`, or as many as there are cores for this process."""
        return self.encode_threads or len(os.sched_getaffinity(0))
