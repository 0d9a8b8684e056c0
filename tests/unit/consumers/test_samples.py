"""Every mode and depth that Pillow opens looks like the same pixels in eight bits."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from consumers.images.decode import decode_image
from consumers.images.samples import SampleFormat, eight_bits
from contracts.ports.encoder import RgbImage
from tests.kits.picture_files import Order, png, saved, tiff

Pixels = NDArray[np.int64]
Case = tuple[Callable[[], bytes], Pixels, int]
"""A file, its pixels as grey (height, width) or RGB, and by how much rounding may change them."""

DICE = np.random.default_rng(7)
GREY: Pixels = np.arange(256, dtype=np.int64).reshape(16, 16)
COLOUR: Pixels = DICE.integers(0, 256, (16, 16, 3))
# Neighbours are equal, so that other colour models lose little.
SMOOTH = COLOUR[::4, ::4].repeat(4, axis=0).repeat(4, axis=1)
ALPHA: Pixels = DICE.integers(0, 256, (16, 16, 1))
PALETTE: Pixels = DICE.integers(0, 256, (256, 3))
INDEX = GREY.T


def decode(data: bytes) -> RgbImage:
    return decode_image(data, bytes_max=10**6, pixels_max=10**5, side_hint=256)


def spread(values: Pixels, bits: int) -> Pixels:
    """Scale eight bits to `bits`; the greatest value stays the greatest."""
    if bits <= 8:
        return values >> (8 - bits)
    if bits == 12:
        return (values << 4) | (values >> 4)
    return values * (0x101 if bits == 16 else 0x1010101)


def shown(values: Pixels, bits: int) -> Pixels:
    """Return samples of at most eight bits as a viewer shows them."""
    return values * 255 // ((1 << bits) - 1)


def unsigned(values: Pixels, bits: int) -> NDArray[Any]:
    found = spread(values, bits)
    return found.astype({16: np.uint16, 32: np.uint32}.get(bits, np.int64))


def signed(values: Pixels, bits: int) -> NDArray[Any]:
    found = spread(values, bits) - (1 << (bits - 1))
    return found & 0xFF if bits == 8 else found.astype({16: np.int16, 32: np.int32}[bits])


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    return np.rint((colour * alpha + 255 * (255 - alpha)) / 255).astype(np.int64)


def with_alpha(colour: Pixels) -> Pixels:
    return np.concatenate([colour, ALPHA], axis=2)


def grey_tiffs() -> Iterator[tuple[str, Case]]:
    """Yield grey TIFF of 1 to 32 bits, in both orders, raw and by libtiff, white or black as 0."""
    kinds: list[tuple[str, NDArray[Any], int, int, Pixels]] = [
        (f"{bits} bits", unsigned(GREY, bits), bits, 1, shown(spread(GREY, bits), bits))
        for bits in (1, 2, 4, 8)
    ]
    kinds += [(f"{bits} bits", unsigned(GREY, bits), bits, 1, GREY) for bits in (12, 16, 32)]
    kinds += [(f"signed {bits} bits", signed(GREY, bits), bits, 2, GREY) for bits in (8, 16, 32)]
    kinds.append(("floats", (GREY / 255).astype(np.float32), 32, 3, GREY))
    orders: tuple[Order, ...] = ("<", ">")
    for name, values, bits, sample_format, wanted in kinds:
        for order, white_is_zero, deflated in (
            (order, white, deflated)
            for order in orders
            for white in (False, True)
            for deflated in (False, True)
        ):
            if white_is_zero and name == "signed 8 bits":
                continue  # Pillow does not open it

            options: dict[str, Any] = {"order": order, "sample_format": sample_format}
            photometric = 0 if white_is_zero else 1
            make = partial(tiff, values, bits, photometric, deflated=deflated, **options)
            title = f"TIFF {name} {order} {'white' if white_is_zero else 'black'} is zero"
            pixels = 255 - wanted if white_is_zero else wanted
            yield f"{title}{' deflated' if deflated else ''}", (make, pixels, 0)


def colour_tiffs() -> Iterator[tuple[str, Case]]:
    colours = [(320, (PALETTE * 257).T.ravel().tolist())]
    faded = over_white(COLOUR, ALPHA)
    ink = np.concatenate([255 - COLOUR, 255 - ALPHA], axis=2)
    lab = Image.fromarray(SMOOTH.astype(np.uint8)).convert("LAB")
    # Eight bits of LAB lose up to 40 of an RGB that is far from grey.
    seen = np.asarray(lab.convert("RGB")).astype(np.int64)
    grey = COLOUR[..., :1]
    indexed = INDEX[..., None]
    kinds: dict[str, tuple[Pixels, int, dict[str, Any], Pixels, int]] = {
        "RGB": (COLOUR, 2, {}, COLOUR, 0),
        "RGBX": (with_alpha(COLOUR), 2, {"extra": [0]}, COLOUR, 0),
        "RGBA": (with_alpha(COLOUR), 2, {"extra": [2]}, faded, 1),
        "RGBa": (with_alpha(COLOUR * ALPHA // 255), 2, {"extra": [1]}, faded, 2),
        "CMYK": (ink, 5, {}, COLOUR * ALPHA // 255, 1),
        "YCbCr": (ycbcr(SMOOTH), 6, {"tags": [(530, [1, 1])]}, SMOOTH, 3),
        "LAB": (np.asarray(lab).astype(np.int64), 8, {}, seen, 1),
        "LA": (with_alpha(grey), 1, {"extra": [2]}, over_white(grey, ALPHA)[..., 0], 1),
        "LX": (with_alpha(grey), 1, {"extra": [0]}, grey[..., 0], 0),
        "La": (
            with_alpha(grey * ALPHA // 255),
            1,
            {"extra": [1]},
            over_white(grey, ALPHA)[..., 0],
            2,
        ),
        "P": (INDEX, 3, {"tags": colours}, PALETTE[INDEX], 0),
        "PA": (
            with_alpha(indexed),
            3,
            {"extra": [2], "tags": colours},
            over_white(PALETTE[INDEX], ALPHA),
            1,
        ),
    }
    for name, (values, photometric, options, wanted, slack) in kinds.items():
        for bits in (8, 16) if name in ("RGB", "RGBX", "RGBA", "RGBa", "CMYK") else (8,):
            for order in ("<", ">"):
                stored = unsigned(values, bits)
                make = partial(tiff, stored, bits, photometric, order=order, **options)
                yield f"TIFF {name} {bits} bits {order}", (make, wanted, slack)


def ycbcr(colour: Pixels) -> Pixels:
    image = Image.fromarray(colour.astype(np.uint8)).convert("YCbCr")
    return np.asarray(image).astype(np.int64)


def pngs() -> Iterator[tuple[str, Case]]:
    for bits in (1, 2, 4, 8, 16):
        values = unsigned(GREY, bits)
        wanted = GREY if bits == 16 else shown(spread(GREY, bits), bits)
        yield f"PNG grey {bits} bits", (partial(png, values, bits, 0), wanted, 0)
        for key in {0, 1, (1 << bits) - 1}:
            chunk = (b"tRNS", key.to_bytes(2))
            keyed = np.where(values == key, 255, wanted)
            yield (
                f"PNG grey {bits} bits without {key}",
                (partial(png, values, bits, 0, chunk), keyed, 0),
            )
    for bits in (1, 2, 4, 8):
        index = spread(INDEX, bits)
        chunks = (b"PLTE", PALETTE[: 1 << bits].astype(np.uint8).tobytes())
        alphas = ALPHA.ravel()[: 1 << bits]
        rest = (b"tRNS", alphas.astype(np.uint8).tobytes())
        faded = over_white(PALETTE[index], alphas[index][..., None])
        yield (
            f"PNG palette {bits}",
            (
                partial(png, index, bits, 3, chunks),
                PALETTE[index],
                0,
            ),
        )
        yield (
            f"PNG palette {bits} with alphas",
            (
                partial(png, index, bits, 3, chunks, rest),
                faded,
                1,
            ),
        )
    for bits in (8, 16):
        colour = unsigned(COLOUR, bits)
        both = unsigned(with_alpha(COLOUR), bits)
        grey = unsigned(with_alpha(COLOUR[..., :1]), bits)
        key_chunk = (b"tRNS", b"".join(int(part).to_bytes(2) for part in colour[0, 0]))
        near = colour.copy()
        near[0, 1] = near[0, 0]
        keyed = COLOUR.copy()
        keyed[0, 1] = keyed[0, 0]
        keyed[0, 0] = 255
        # Another colour of 16 bits, of which the higher bytes are those of the transparent one.
        near[0, 1, 0] ^= 1
        keyed[0, 1, 0] ^= bits == 8
        yield f"PNG RGB {bits}", (partial(png, colour, bits, 2), COLOUR, 0)
        yield (
            f"PNG RGB {bits} without one",
            (
                partial(png, near, bits, 2, key_chunk),
                keyed,
                0,
            ),
        )
        yield (
            f"PNG RGBA {bits}",
            (
                partial(png, both, bits, 6),
                over_white(COLOUR, ALPHA),
                1,
            ),
        )
        yield (
            f"PNG LA {bits}",
            (
                partial(png, grey, bits, 4),
                over_white(COLOUR[..., :1], ALPHA)[..., 0],
                1,
            ),
        )


def others() -> Iterator[tuple[str, Case]]:
    smooth = Image.fromarray(SMOOTH.astype(np.uint8))
    best = {"quality": 100, "subsampling": 0}
    grey = smooth.convert("L")
    grey_pixels = np.asarray(grey).astype(np.int64)
    yield "JPEG RGB", (partial(saved, smooth, "JPEG", **best), SMOOTH, 6)
    yield "JPEG L", (partial(saved, grey, "JPEG", quality=100), grey_pixels, 2)
    # As Adobe writes it: inverted.
    yield "JPEG CMYK", (partial(saved, smooth.convert("CMYK"), "JPEG", **best), SMOOTH, 6)
    indexed = Image.fromarray(INDEX.astype(np.uint8), "L").copy()
    indexed.putpalette(PALETTE.ravel().tolist())
    for format_name in ("GIF", "BMP", "PNG", "TIFF"):
        yield (
            f"{format_name} P",
            (
                partial(saved, indexed, format_name),
                PALETTE[INDEX],
                0,
            ),
        )
    keyed = np.where((INDEX == 9)[..., None], 255, PALETTE[INDEX])
    yield "GIF P without one", (partial(saved, indexed, "GIF", transparency=9), keyed, 0)
    for mode in ("1", "L", "RGB"):
        image = smooth.convert(mode)
        wanted = np.asarray(image.convert("RGB")).astype(np.int64)
        yield f"BMP {mode}", (partial(saved, image, "BMP"), wanted, 0)
    faded = Image.fromarray(with_alpha(COLOUR).astype(np.uint8), "RGBA")
    exact = {"lossless": True, "exact": True}
    yield "WEBP RGB", (partial(saved, smooth, "WEBP", **exact), SMOOTH, 0)
    yield "WEBP RGBA", (partial(saved, faded, "WEBP", **exact), over_white(COLOUR, ALPHA), 1)
    yield "WEBP L", (partial(saved, grey, "WEBP", **exact), grey_pixels, 0)


CASES = dict([*grey_tiffs(), *colour_tiffs(), *pngs(), *others()])


@pytest.mark.parametrize("name", CASES)
def test_it_looks_like_the_same_pixels_in_eight_bits(name: str) -> None:
    make, wanted, slack = CASES[name]
    decoded = decode(make()).astype(np.int64)
    if wanted.ndim == 2:
        wanted = np.broadcast_to(wanted[..., None], decoded.shape)
    assert np.abs(decoded - wanted).max() <= slack


_MODES = (
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "I;16", "I;16B", "I;16L", "F"),
)


@pytest.mark.parametrize("mode", _MODES)
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Black and white are the same in every colour model."""
    values = {"I": (0, 100_000), "F": (-1.0, 1.0)}
    through = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
    if mode.startswith("I;16"):
        image = Image.frombytes(mode, (2, 1), b"\0\0\xff\xff")
    elif mode in values:
        image = Image.new(mode, (2, 1), values[mode][0])
        image.putpixel((1, 0), values[mode][1])
    else:
        pixels = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
        if mode in through:
            pixels = pixels.convert(through[mode])
        image = pixels.convert("P") if mode == "PA" else pixels
        image = image.convert(mode)
    plain = eight_bits(image, SampleFormat(), b"")
    assert plain.mode in ("RGB", "RGBA")
    found = np.asarray(plain.convert("RGB"))[0].astype(int)
    assert np.abs(found - [[0, 0, 0], [255, 255, 255]]).max() <= 1


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_what_is_not_finite_does_not_set_the_range(odd: float, offset: float) -> None:
    values = (GREY + offset).astype(np.float32)
    values[3, 3] = odd
    wanted = GREY.copy()
    wanted[3, 3] = 255 if odd == np.inf else 0
    decoded = decode(tiff(values, 32, 1, sample_format=3))
    assert (decoded == wanted[..., None]).all()


def test_the_greatest_numbers_there_are() -> None:
    top = np.finfo(np.float32).max
    values = np.array([[-top, 0, top]], np.float32)
    assert decode(tiff(values, 32, 1, sample_format=3))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_orientation_of_a_tiff_of_any_depth(bits: int, order: Order) -> None:
    turned = tiff(unsigned(GREY, bits), bits, 1, order=order, tags=[(274, [6])])
    assert (decode(turned) == np.rot90(GREY, -1)[..., None]).all()


def test_bands_are_stretched_alike() -> None:
    """There are several bands here, and the range is that of all of them."""
    values = np.arange(1 << 21, dtype=np.float32).reshape(2048, 1024)
    found = np.asarray(eight_bits(Image.fromarray(values), SampleFormat(), b""))[..., 0]
    assert np.abs(found - values * (255 / values.max())).max() <= 0.5001
