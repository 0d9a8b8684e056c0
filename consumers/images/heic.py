"""HEIC pictures, which Pillow opens if the extra `heic` is installed."""

from functools import cache

from contracts.errors import RejectedRecord


def enable_heic() -> None:
    """Let Pillow open HEIC. Raises RejectedRecord if the extra is missing."""
    if not _enabled():
        raise RejectedRecord(
            "image_format",
            "the picture is HEIC, which needs the extra heic: pip install 'tidelens[heic]'",
            field="image",
            value="HEIC",
        )


@cache
def _enabled() -> bool:
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    # One thread, as in every decoder, and only the picture itself.
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True
