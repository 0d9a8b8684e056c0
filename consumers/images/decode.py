"""The decoding of a picture's bytes to pixels, with every limit checked before the work it limits.

Pillow reads pictures from strangers here. So the format is known by the first bytes and from a
short list, the size in pixels is read from the header before anything is decoded, and whatever
Pillow raises becomes a RejectedRecord. Pictures come back about as large as the model can use.
"""

import io
import re
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError

from consumers.images.containers import strip_metadata
from consumers.images.heic import enable_heic
from consumers.images.jpeg_end import complete_jpeg
from consumers.images.samples import complete_pillow, eight_bits, sample_format_of
from contracts.errors import RejectedRecord
from contracts.picture_formats import require_format
from contracts.ports.encoder import RgbImage

_PILLOW = r"PIL\."
_QUIET = ("ignore", None, Warning, re.compile(_PILLOW), 0)  # as `warnings` stores it

_ORIENTATION_TAG = 0x0112
_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# The longest side that JPEG and GIF can have. A longer picture is not a photo, and lines of one
# pixel cost the most: 49 million of them took 3 to 17 s, and as many pixels in a square 0.1 s.
IMAGE_SIDE_MAX = 65_535


# Raises RejectedRecord for a size in the header that is not allowed.
_Check = Callable[[Image.Image], None]


def decode_image(
    data: bytes,
    *,
    bytes_max: int,
    pixels_max: int,
    side_hint: int,
    side_max: int = IMAGE_SIDE_MAX,
    sized: Callable[[int], None] = lambda pixels: None,
) -> RgbImage:
    """Decode a picture to uint8 (height, width, 3), upright, over white, the first frame only.

    A picture whose shorter side is many times `side_hint` comes back smaller, with a shorter side
    between one and four times the hint: less to decode, and a bound on the memory of a batch.
    `sized` is called with the number of pixels before the work that grows with it.

    Raises RejectedRecord with the code `image_too_large_bytes`, `image_format` (not in the
    table of picture_formats, or HEIC without its extra), `image_too_long_side`,
    `image_too_many_pixels` or `image_broken`. Raises MemoryError when memory runs out,
    and no other error.
    """
    if len(data) > bytes_max:
        raise RejectedRecord(
            "image_too_large_bytes",
            f"the picture has {len(data)} bytes, the limit is {bytes_max}",
            field="image",
            limit=bytes_max,
            value=len(data),
        )

    def check(image: Image.Image) -> None:
        _check_pixels(image, pixels_max)
        _check_side(image, side_max)
        sized(image.width * image.height)

    format_name = _format_name(data)
    _prepare_pillow()
    _quiet_pillow()
    try:
        return _decode_with_end(format_name, data, check, side_hint)
    except (RejectedRecord, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _broken(format_name, "its header cannot be read") from None
    except Exception as error:  # Pillow's readers raise almost anything on hostile input
        raise _broken(format_name, str(error) or type(error).__name__) from error


def _decode_with_end(format_name: str, data: bytes, check: _Check, side_hint: int) -> RgbImage:
    try:
        return _decode_once(format_name, strip_metadata(format_name, data), check, side_hint)
    except OSError:
        ended = complete_jpeg(data) if format_name == "JPEG" else None
        if ended is None:
            raise
        return _decode_once(format_name, ended, check, side_hint)


def _decode_once(format_name: str, data: bytes, check: _Check, side_hint: int) -> RgbImage:
    with Image.open(io.BytesIO(data), formats=[format_name]) as image:
        check(image)
        return _pixels(image, data, side_hint)


@cache
def _prepare_pillow() -> None:
    """Set Pillow up for the whole process, at its first decoding and not at the import."""
    # decode_image checks its own limit, exactly and before decoding; Pillow's would come first.
    Image.MAX_IMAGE_PIXELS = None
    complete_pillow()
    # Each processor that may decode has a decoder process of its own.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _quiet_pillow() -> None:
    """Ignore Pillow's warnings about odd metadata, which say nothing about the picture.

    The filter stays: `warnings.catch_warnings` around each decoding is not safe in threads.
    """
    if list(warnings.filters[:1]) != [_QUIET]:
        warnings.filterwarnings("ignore", module=_PILLOW)


def _format_name(data: bytes) -> str:
    known = require_format(data)
    if known.name == "HEIF":
        enable_heic()
    return known.name


def _check_side(image: Image.Image, side_max: int) -> None:
    side = max(image.size)
    if side > side_max:
        raise RejectedRecord(
            "image_too_long_side",
            f"the picture has {image.width} x {image.height} pixels, the limit of a side is "
            f"{side_max}",
            field="image",
            limit=side_max,
            value=side,
        )


def _check_pixels(image: Image.Image, pixels_max: int) -> None:
    pixels = image.width * image.height
    if pixels > pixels_max:
        raise RejectedRecord(
            "image_too_many_pixels",
            f"the picture has {image.width} x {image.height} = {pixels} pixels, "
            f"the limit is {pixels_max}",
            field="image",
            limit=pixels_max,
            value=pixels,
        )


def _pixels(image: ImageFile.ImageFile, data: bytes, side_hint: int) -> RgbImage:
    samples = sample_format_of(image)
    image.draft(None, (side_hint, side_hint))  # decodes a JPEG at 1/2, 1/4 or 1/8 if that suffices
    image.load()
    upright_by = _UPRIGHT_BY.get(_orientation(image))
    plain = eight_bits(image, samples, data)
    factor = min(plain.size) // (side_hint * 2)
    if factor > 1:
        plain = plain.reduce(factor)
    if upright_by is not None:
        plain = plain.transpose(upright_by)
    return np.array(_over_white(plain))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1 (upright) if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata does not make a picture unreadable
        return 1


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _broken(format_name: str, why: str) -> RejectedRecord:
    return RejectedRecord(
        "image_broken", f"the {format_name} picture cannot be decoded: {why}", field="image"
    )
