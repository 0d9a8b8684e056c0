"""Limits of the pictures that a node shows: GET /v1/pictures."""

from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import MEMORY_MB_MAX
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Mebibytes, Pixels, Unit


class PictureSettings(EnvironmentSettings):
    """Limits of the pictures that a node shows: GET /v1/pictures."""

    pictures_cached_mb: Mebibytes = Field(
        64,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Size, in MiB, of the cache of pictures that were shown lately. 0 caches none.",
    )
    pictures_reading_max: Annotated[int, Unit("pictures")] = Field(
        64,
        ge=1,
        le=10_000,
        description="Largest number of pictures that are read at the same time to be shown. "
        "Beyond it, a request is refused with 503.",
    )
    pictures_remote_max: Annotated[int, Unit("pictures")] = Field(
        16,
        ge=1,
        le=10_000,
        description="Largest number of pictures that are read from https: and s3: references at "
        "the same time to be shown. Beyond it, a request is refused with 503.",
    )
    pictures_converting_max: Annotated[int, Unit("pictures")] = Field(
        16,
        ge=1,
        le=10_000,
        description="Largest number of pictures that are converted at the same time because "
        "browsers do not show their format. Beyond it, a request is refused with 503.",
    )
    picture_side_max: Pixels = Field(
        2048,
        ge=16,
        le=16_384,
        description="Longest side, in pixels, of a converted picture. A larger picture is made "
        "smaller.",
    )
