"""Limits of content records, of the pictures in them, and of decoding one of those."""

from pydantic import Field

from contracts.settings.bounds import GIB, HOUR_S, MEMORY_MB_MAX, MIB
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Bytes, Mebibytes, Pixels, Seconds


class ContentSettings(EnvironmentSettings):
    """Limits of content records, of the pictures in them, and of decoding one of those."""

    record_bytes_max: Bytes = Field(
        4 * MIB,
        ge=1,
        le=GIB,
        description="Largest content record, in bytes. A larger one is refused when it is "
        "published, and topics are created with this max.message.bytes.",
    )
    inline_bytes_max: Bytes = Field(
        2 * MIB,
        ge=0,
        le=GIB,
        description="Largest picture, in bytes, that a content record may hold. `tidelens "
        "publish` sends larger files by reference; the API refuses them.",
    )
    image_bytes_max: Bytes = Field(
        20 * MIB,
        ge=1,
        le=GIB,
        description="Largest picture, in bytes of its file. A larger published one becomes a dead "
        "letter; a larger one in a query is refused.",
    )
    image_pixels_max: Pixels = Field(
        50_000_000,
        ge=1,
        le=1_000_000_000,
        description="Largest picture, in pixels, width times height. A larger one becomes a dead "
        "letter.",
    )
    image_side_max: Pixels = Field(
        65_535,
        ge=1,
        le=1_000_000_000,
        description="Longest side of a picture, in pixels. A picture with a longer one becomes a "
        "dead letter.",
    )
    decode_seconds_max: Seconds = Field(
        5.0,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, for decoding a picture of the largest size; then "
        "it becomes a dead letter. The wall clock may take six times as long.",
    )
    decode_seconds_min: Seconds = Field(
        1.0,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, that decoding any picture may take. From there "
        "the limit grows with the pixels, up to the maximum.",
    )
    decode_memory_mb: Mebibytes = Field(
        2048,
        ge=64,
        le=MEMORY_MB_MAX,
        description="Memory, in MiB, that decoding one picture may take. A picture that needs "
        "more becomes a dead letter.",
    )
