"""How the texts and pictures of queries are encoded."""

from typing import Annotated

from pydantic import AfterValidator, Field

from contracts.environment import FromEnvironment
from contracts.prompts import PLAIN, require_slot
from contracts.settings.bounds import HOUR_S, MEMORY_MB_MAX, MINUTE_MS, Text


class QuerySettings(FromEnvironment):
    """How the texts and pictures of queries are encoded."""

    query_templates: list[Annotated[Text, AfterValidator(require_slot)]] = Field(
        default_factory=lambda: list(PLAIN),
        min_length=1,
        max_length=128,
        description="Texts that a query's text is put into, in place of {}; their vectors "
        "are averaged (JSON list).",
    )
    query_batch_max: int = Field(
        32,
        ge=1,
        le=4096,
        description="Most pictures, or texts in each template, encoded together for queries.",
    )
    query_queue_max: int = Field(
        256, ge=1, le=1_000_000, description="Most queries waiting to be encoded."
    )
    query_cache_max: int = Field(4096, ge=0, le=10_000_000, description="Query vectors kept.")
    query_pictures_max: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Pictures of queries that have arrived and are not yet answered; more "
        "are refused with 429.",
    )
    query_pictures_mb: int = Field(
        64,
        ge=1,
        le=MEMORY_MB_MAX,
        description="Total size of those pictures, in MiB; decoded ones may take as much again.",
    )
    query_pictures_at_once: int = Field(
        8,
        ge=1,
        le=10_000,
        description="Pictures of one request that are read and encoded at the same time.",
    )
    query_picture_turn_ms: float = Field(
        25.0,
        gt=0,
        le=MINUTE_MS,
        description="How long, in milliseconds, pictures may keep the model from texts at a "
        "time; a single picture may take longer.",
    )
    query_encode_timeout_s: float = Field(
        60.0,
        gt=0,
        le=HOUR_S,
        description="Longest wait, in seconds, for the model to encode a batch of queries; then "
        "its process is started again.",
    )
    query_image_pixels_max: int = Field(
        25_000_000, ge=1, le=1_000_000_000, description="Largest picture of a query, in pixels."
    )
    query_decode_seconds_max: float = Field(
        2.0,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, to decode a query's picture of the largest "
        "size; smaller ones have less.",
    )
    query_decode_seconds_min: float = Field(
        0.5,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, that any query's picture may take.",
    )
    query_decode_processes: int = Field(
        1, ge=1, le=256, description="Processes that decode the pictures of queries."
    )
    query_reference_timeout_s: float = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Longest wait, in seconds, for the picture that a query's image.ref names.",
    )
