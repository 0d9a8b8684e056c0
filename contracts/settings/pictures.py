"""Limits of GET /v1/pictures."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import MEMORY_MB_MAX


class PictureSettings(FromEnvironment):
    """Limits of GET /v1/pictures."""

    pictures_cached_mb: int = Field(
        64,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Size, in MiB, of the cache of pictures shown lately.",
    )
    pictures_reading_max: int = Field(
        64, ge=1, le=10_000, description="Pictures read at the same time to be shown."
    )
    pictures_remote_max: int = Field(
        16, ge=1, le=10_000, description="Of these, pictures read from https: and s3: references."
    )
    pictures_converting_max: int = Field(
        16,
        ge=1,
        le=10_000,
        description="Of these, pictures converted because browsers do not show their format.",
    )
    picture_side_max: int = Field(
        2048, ge=16, le=16_384, description="Longest side, in pixels, of a converted picture."
    )
