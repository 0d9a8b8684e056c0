"""The conversion of samples of any depth and sign to eight bits, as a viewer shows them.

Pillow passes samples of more than eight bits on as they are in the file, and says only in part what
they mean: white may be zero, numbers may be signed, and one colour may be transparent.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

Numbers = NDArray[Any]

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2
_UNSIGNED = (1,)

# Samples that are stretched at a time: a copy of all of them in float64 would take 400 MB.
_BAND_NUMBERS = 1 << 20

# Samples that libtiff unpacks are in the byte order of the machine. Pillow knows that only of
# unsigned samples of 16 bits.
_AS_LIBTIFF_GIVES = {
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
}

_GREY = {  # (sample format, bits): Pillow's mode and raw mode, little-endian and big-endian
    (1, 12): (("I;16", "I;12"), ("I;16", "I;12")),
    (1, 16): (("I;16", "I;16"), ("I;16B", "I;16B")),
    (2, 16): (("I", "I;16S"), ("I", "I;16BS")),
    (1, 32): (("I", "I;32S"), ("I", "I;32BS")),
    (2, 32): (("I", "I;32S"), ("I", "I;32BS")),
    (3, 32): (("F", "F;32F"), ("F", "F;32BF")),
}
"""The modes of grey TIFF, of which Pillow's own table lacks some. Unsigned numbers of 32 bits keep
their bits in a mode for signed ones; `eight_bits` reads them as what they are."""


def complete_pillow() -> None:
    """Let Pillow open the grey TIFF of the table, in both byte orders, with white or black as 0."""
    for (sample_format, bits), by_order in _GREY.items():
        for order, modes in zip((b"II", b"MM"), by_order, strict=True):
            for photometric in (0, 1):
                key = (order, photometric, (sample_format,), 1, (bits,), ())
                TiffImagePlugin.OPEN_INFO.setdefault(key, modes)


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """The properties of a picture that `eight_bits` needs and Pillow forgets when it loads it."""

    bits: int = 8
    signed: bool = False
    white_is_zero: bool = False
    key: tuple[int, ...] | None = None
    """The transparent colour of a PNG, one sample of `bits` bits for each channel."""


def sample_format_of(image: ImageFile.ImageFile) -> SampleFormat:
    """Describe a picture that is opened and not loaded yet, and correct its raw mode if needed."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_format(image)
    if image.format == "PNG":
        return _png_format(image)
    return SampleFormat()


def _tiff_format(image: TiffImagePlugin.TiffImageFile) -> SampleFormat:
    tags = image.tag_v2
    image.tile = [_correct_tile(tile) for tile in image.tile]
    return SampleFormat(
        bits=max(tags.get(_BITS, (1,))),
        signed=_SIGNED in tags.get(_SAMPLE_FORMAT, _UNSIGNED),
        white_is_zero=tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO,
    )


def _correct_tile(tile: ImageFile._Tile) -> ImageFile._Tile:
    if tile.codec_name != "libtiff" or not isinstance(tile.args, tuple):
        return tile
    raw_mode, *rest = tile.args
    return tile._replace(args=(_AS_LIBTIFF_GIVES.get(raw_mode, raw_mode), *rest))


def _png_format(image: ImageFile.ImageFile) -> SampleFormat:
    args = image.tile[0].args if image.tile else ""
    raw_mode = args if isinstance(args, str) else str(args and args[0])
    depth = raw_mode.partition(";")[2].rstrip("BL")
    bits = int(depth) if depth.isdigit() else 8
    key = image.info.get("transparency")
    if image.mode not in ("L", "RGB", "I;16") or key is None:
        return SampleFormat(bits=bits)
    # The samples of the key have 16 bits, of which the lowest `bits` count.
    parts = key if isinstance(key, tuple) else (key,)
    return SampleFormat(bits=bits, key=tuple(part & ((1 << bits) - 1) for part in parts))


def eight_bits(image: Image.Image, samples: SampleFormat, data: bytes) -> Image.Image:
    """Return a loaded picture in mode RGB, or RGBA if it is transparent; `data` is its file."""
    if samples.key is not None:
        del image.info["transparency"]
    plain = _plain(image, samples)
    if samples.key is None:
        return plain
    plain.putalpha(Image.fromarray(_alpha(image, samples, samples.key, data)))
    return plain


def _plain(image: Image.Image, samples: SampleFormat) -> Image.Image:
    if image.mode.startswith("I;16"):
        bits = samples.bits if samples.bits > 8 else 16
        return _grey((np.asarray(image) >> (bits - 8)).astype(np.uint8), samples)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        unsigned = image.mode == "I" and samples.bits == 32 and not samples.signed
        return _grey(_stretch(values.view(np.uint32) if unsigned else values), samples)
    if image.mode == "L" and samples.signed:
        return _grey(_stretch(np.asarray(image).view(np.int8)), samples)
    if image.mode == "La":  # Pillow converts it to LA only
        image = image.convert("LA")
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _grey(values: NDArray[np.uint8], samples: SampleFormat) -> Image.Image:
    return Image.fromarray(255 - values if samples.white_is_zero else values).convert("RGB")


def _stretch(values: Numbers) -> NDArray[np.uint8]:
    """Stretch numbers without an agreed range from black, the least finite one, to white.

    NaN becomes black, and the infinities become what the least and the greatest become.
    """
    low, high = _finite_range(values)
    scale = 255 / (high - low) if high > low else 0.0
    found = np.empty(values.shape, np.uint8)
    for band in _bands(values):
        numbers = np.nan_to_num(values[band].astype(np.float64), nan=low, posinf=high, neginf=low)
        found[band] = np.rint((numbers - low) * scale)
    return found


def _finite_range(values: Numbers) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for band in _bands(values):
        finite = values[band][np.isfinite(values[band])]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _bands(values: Numbers) -> Iterator[slice]:
    rows = max(1, _BAND_NUMBERS // values.shape[1])
    return (slice(start, start + rows) for start in range(0, values.shape[0], rows))


def _alpha(
    image: Image.Image, samples: SampleFormat, key: tuple[int, ...], data: bytes
) -> NDArray[np.uint8]:
    """Compute the opacity of a PNG that has one transparent colour, compared in all its bits."""
    values = np.asarray(image)
    if image.mode == "RGB" and samples.bits == 16:
        high, low = (np.array(key, np.uint16) >> shift for shift in (8, 0))
        same = (values == high.astype(np.uint8)) & (_low_bytes(data) == low.astype(np.uint8))
    else:
        # Pillow spread samples of fewer than eight bits over eight.
        top = (1 << min(samples.bits, 8)) - 1
        wanted = [part * 255 // top if samples.bits < 8 else part for part in key]
        same = values == np.array(wanted, values.dtype)
    if same.ndim == 3:
        same = same.all(axis=2)
    return np.where(same, 0, 255).astype(np.uint8)


def _low_bytes(data: bytes) -> NDArray[np.uint8]:
    """Return the lower bytes of a PNG's samples of 16 bits: Pillow gives the higher ones only."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        assert isinstance(image, ImageFile.ImageFile)
        # Little-endian: the higher byte stands where a PNG has the lower one.
        image.tile = [tile._replace(args=_little(tile.args)) for tile in image.tile]
        image.load()
        return np.asarray(image)


def _little(args: Any) -> Any:
    if isinstance(args, tuple):
        return (_little(args[0]), *args[1:])
    return args.replace("16B", "16L")
