"""Build the limits for decoding published pictures and queries' pictures from the settings."""

from dataclasses import replace

from consumers.images.decoder_pool import BESIDE_QUERIES_NICE, DecodeLimits
from consumers.queries.pictures import PictureLimits
from contracts.settings import MIB, ContentSettings, Settings


def content_limits(settings: ContentSettings) -> DecodeLimits:
    """Return the limits for decoding a published picture, to encode it and to display it."""
    return DecodeLimits(
        settings.image_bytes_max,
        settings.image_pixels_max,
        settings.decode_seconds_max,
        settings.decode_memory_mb * MIB,
        seconds_min=settings.decode_seconds_min,
        side_max=settings.image_side_max,
    )


def query_limits(settings: Settings, *, nice: int = BESIDE_QUERIES_NICE) -> PictureLimits:
    """Return the limits of queries' pictures, tighter than content's, since a client waits."""
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
