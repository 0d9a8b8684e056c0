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
        le=MEMORY_MB_MAX,
        description="Their bytes in all; decoded ones may take as much.",
    )
    query_pictures_at_once: int = Field(
        8, ge=1, le=10_000, description="Pictures of one request that are read and encoded at once."
    )
    query_picture_turn_ms: float = Field(
        25.0,
        gt=0,
        le=MINUTE_MS,
        description="How long pictures may keep the model from texts; one picture has its time.",
    )
    query_image_pixels_max: int = Field(
        25_000_000, ge=1, le=1_000_000_000, description="Largest picture of a query, in pixels."
    )
    query_decode_seconds_max: float = Field(
        2.0,
        gt=0,
        le=HOUR_S,
        description="Processor time for a query's picture of so many pixels; fewer have less.",
    )
    query_decode_seconds_min: float = Field(
        0.5, gt=0, le=HOUR_S, description="Processor time that any query's picture may take."
    )
    query_decode_processes: int = Field(
        1, ge=1, le=256, description="Processes that decode the pictures of queries."
    )
    query_reference_timeout_s: float = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Longest wait for the picture that a query's image.ref names.",
    )
