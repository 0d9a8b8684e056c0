"""The limits of decoding a published picture, and a query's picture, from the settings."""

from dataclasses import replace

from consumers.images.decoder_pool import BESIDE_QUERIES_NICE, DecodeLimits
from consumers.queries.pictures import PictureLimits
from contracts.settings import MIB, ContentSettings, Settings


def content_limits(settings: ContentSettings) -> DecodeLimits:
    """Return the limits of a published picture, when it is encoded and when it is shown."""
    return DecodeLimits(
        settings.image_bytes_max,
        settings.image_pixels_max,
        settings.decode_seconds_max,
        settings.decode_memory_mb * MIB,
        seconds_min=settings.decode_seconds_min,
        side_max=settings.image_side_max,
    )


def query_limits(settings: Settings, *, nice: int = BESIDE_QUERIES_NICE) -> PictureLimits:
    """Return the limits of queries' pictures, tighter than those of content: somebody waits."""
    decode = replace(
        content_limits(settings),
        pixels_max=min(settings.query_image_pixels_max, settings.image_pixels_max),
        seconds_max=settings.query_decode_seconds_max,
        seconds_min=settings.query_decode_seconds_min,
    )
    return PictureLimits(
        decode,
        processes=settings.query_decode_processes,
        waiting_max=settings.query_pictures_max,
        waiting_bytes_max=settings.query_pictures_mb * MIB,
        nice=nice,
    )
