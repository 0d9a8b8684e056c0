"""Limits of content records and of the pictures in them."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import GIB, MIB


class RecordSettings(FromEnvironment):
    """Limits of content records and of the pictures in them."""

    record_bytes_max: int = Field(
        4 * MIB, ge=1, le=GIB, description="Largest content record, in bytes."
    )
    inline_bytes_max: int = Field(
        2 * MIB,
        ge=0,
        le=GIB,
        description="Largest picture, in bytes, that may stand in a content record; larger "
        "ones go by reference.",
    )
    image_bytes_max: int = Field(
        20 * MIB, ge=1, le=GIB, description="Largest picture, in bytes, as compressed."
    )
    image_pixels_max: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="Largest picture, in pixels."
    )
    image_side_max: int = Field(
        65_535, ge=1, le=1_000_000_000, description="Longest side of a picture, in pixels."
    )
