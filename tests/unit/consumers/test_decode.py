"""Decoding pictures: every format, every limit, and nothing but RejectedRecord on hostile bytes."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from consumers.images.decode import decode_image
from consumers.images.preprocess import Resized
from contracts.errors import RejectedRecord
from contracts.ports.encoder import RgbImage
from tests.kits.picture_files import saved

RED, WHITE = (255, 0, 0), (255, 255, 255)


def decode(
    data: bytes, *, bytes_max: int = 10**7, pixels_max: int = 10**6, side_hint: int = 256
) -> RgbImage:
    return decode_image(data, bytes_max=bytes_max, pixels_max=pixels_max, side_hint=side_hint)


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    across = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = across
    pixels[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return Image.fromarray(pixels)


def rejected(data: bytes, **limits: int) -> RejectedRecord:
    with pytest.raises(RejectedRecord) as caught:
        decode(data, **limits)
    assert caught.value.field == "image"
    return caught.value


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_allowed_format_is_decoded(format_name: str) -> None:
    original = gradient()
    decoded = decode(saved(original, format_name))
    assert decoded.dtype == np.uint8
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - np.asarray(original)).mean() < 8  # GIF has 256 colours


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE)]
    for format_name in ("GIF", "WEBP", "TIFF", "PNG"):
        data = saved(frames[0], format_name, save_all=True, append_images=frames[1:])
        assert np.abs(decode(data).astype(int) - RED).max() <= 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"RIFF\x00\x00\x00\x00WAVE",
    ],
)
def test_other_content_is_refused_by_its_first_bytes(data: bytes) -> None:
    assert rejected(data).code == "image_format"


def test_formats_off_the_list_are_refused_although_pillow_reads_them() -> None:
    for format_name in ("ICO", "PPM", "TGA", "PCX", "JPEG2000"):
        assert rejected(saved(gradient(), format_name)).code == "image_format"


def test_byte_limit() -> None:
    data = saved(gradient(), "PNG")
    assert decode(data, bytes_max=len(data)).shape == (48, 64, 3)
    error = rejected(data, bytes_max=len(data) - 1)
    assert error.code == "image_too_large_bytes"
    assert (error.limit, error.value) == (len(data) - 1, len(data))


def test_pixel_limit_is_exact() -> None:
    data = saved(gradient(), "JPEG")
    assert decode(data, pixels_max=64 * 48).shape == (48, 64, 3)
    error = rejected(data, pixels_max=64 * 48 - 1)
    assert error.code == "image_too_many_pixels"
    assert (error.limit, error.value) == (64 * 48 - 1, 64 * 48)


def test_pixel_limit_holds_before_anything_is_decoded() -> None:
    """The PNG is a header of 60,000 x 60,000 without data, so only that can have been read."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk
    data += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 4) + b"IDAT"
    error = rejected(data)
    assert error.code == "image_too_many_pixels"
    assert error.value == 3_600_000_000


def test_no_pillow_limit_or_warning_below_ours() -> None:
    """Pillow by itself warns from 89 million pixels on, and refuses from 179 million on."""
    data = saved(Image.new("L", (9_000, 10_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, pixels_max=200_000_000, side_hint=64).shape[2] == 3


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_pictures_are_broken(format_name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format_name)
    for kept in (12, 40, len(data) // 2, len(data) * 9 // 10):
        assert rejected(data[:kept]).code == "image_broken"


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_pictures_raise_nothing_else(
    format_name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    data = saved(gradient(), format_name, exif=exif)
    rolls = random.Random(7)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rolls.randint(1, 6)):
            damaged[rolls.randrange(len(damaged))] = rolls.randrange(256)
        try:
            decoded = decode(bytes(damaged))
        except RejectedRecord as error:
            too_large = {"image_too_many_pixels", "image_too_long_side"}
            assert error.code in {"image_format", "image_broken", *too_large}
        else:
            assert decoded.dtype == np.uint8
            assert decoded.shape[2] == 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format_name: str, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = RED  # top left
    upright[:16, 24:] = (0, 255, 0)  # top right
    upright[16:, :24] = (0, 0, 255)  # bottom left
    # How a camera stores the picture so that this orientation makes it upright (EXIF 2.32, 4.6.4).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if format_name == "WEBP" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    decoded = decode(saved(image, format_name, exif=exif, **lossless))
    assert decoded.shape == upright.shape
    corners = decoded[4::24, 4::40].astype(int) - upright[4::24, 4::40]
    assert np.abs(corners).max() < 24


def test_broken_exif_does_not_reject_a_picture() -> None:
    data = saved(gradient(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x00")
    assert decode(data).shape == (48, 64, 3)


def half_transparent(mode: str) -> Image.Image:
    """Make a picture whose left half is opaque black and whose right half is transparent."""
    alpha = Image.new("L", (8, 8), 255)
    alpha.paste(0, (4, 0, 8, 8))
    image = Image.new("LA" if mode == "LA" else "RGBA", (8, 8))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("mode", "format_name"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "TIFF")]
)
def test_transparency_lies_over_white(mode: str, format_name: str) -> None:
    decoded = decode(saved(half_transparent(mode), format_name))
    assert (decoded[:, :4] == 0).all()
    assert (decoded[:, 4:] == 255).all()


def test_palette_and_key_colour_transparency_lie_over_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([10, 20, 30, *RED])
    palette.paste(0, (4, 0, 8, 8))
    for format_name, transparency in (("PNG", 0), ("PNG", b"\x00\xff"), ("GIF", 0)):
        decoded = decode(saved(palette, format_name, transparency=transparency))
        assert (decoded[0, 0] == RED).all()
        assert (decoded[0, 7] == WHITE).all()
    keyed = Image.new("RGB", (8, 8), RED)
    assert (decode(saved(keyed, "PNG", transparency=RED)) == 255).all()
    bits = Image.new("1", (8, 8), 0)
    assert (decode(saved(bits, "PNG", transparency=0)) == 255).all()


def test_palette_without_transparency() -> None:
    palette = gradient().quantize(64)
    for format_name in ("PNG", "GIF", "BMP", "TIFF"):
        decoded = decode(saved(palette, format_name))
        assert (decoded == np.asarray(palette.convert("RGB"))).all()


def test_cmyk_jpeg_keeps_its_colours() -> None:
    decoded = decode(saved(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG"))
    assert np.abs(decoded.astype(int) - RED).max() < 8


def test_sixteen_bits_keep_their_high_bytes() -> None:
    values = np.linspace(0, 65_535, 64, dtype=np.uint16)[None].repeat(8, axis=0)
    for format_name in ("PNG", "TIFF"):
        decoded = decode(saved(Image.fromarray(values), format_name))
        assert (decoded == (values >> 8)[..., None]).all()


def test_numbers_without_a_range_are_stretched() -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)[None].repeat(8, axis=0)
    decoded = decode(saved(Image.fromarray(values), "TIFF"))
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[0, -1].tolist() == [255, 255, 255]
    flat = np.full((4, 4), np.nan, np.float32)
    assert decode(saved(Image.fromarray(flat), "TIFF")).shape == (4, 4, 3)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(500, 400), (900, 700), (1600, 1200), (333, 2900)])
def test_large_pictures_come_back_about_as_large_as_asked(
    format_name: str, size: tuple[int, int]
) -> None:
    original = gradient(*size)
    decoded = decode(saved(original, format_name), pixels_max=10**7, side_hint=100)
    height, width = decoded.shape[:2]
    assert 100 <= min(height, width) < 400
    assert width / height == pytest.approx(size[0] / size[1], rel=0.03)
    small = np.asarray(original.resize((width, height), Image.Resampling.BOX)).astype(int)
    assert np.abs(decoded - small).mean() < 4


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "BMP", "TIFF", "JPEG"])
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "noise"])
def test_what_is_made_smaller_before_differs_by_little(format_name: str, smooth: bool) -> None:
    """The limits of the difference from a resizing of all pixels are in docs/ARCHITECTURE.md."""
    if smooth:
        image = gradient(1000, 1000)
    else:
        dice = np.random.default_rng(3)
        image = Image.fromarray(dice.integers(0, 256, (1000, 1000, 3), dtype=np.uint8))
    data = saved(image, format_name, **({"lossless": True} if format_name == "WEBP" else {}))
    resize = Resized(224, (224, 224), int(Image.Resampling.BICUBIC))
    with Image.open(io.BytesIO(data)) as whole:
        wanted = resize(np.asarray(whole.convert("RGB"))).astype(int)
    found = resize(decode(data, bytes_max=10**8, side_hint=resize.side)).astype(int)
    greatest = 2 if smooth else 39 if format_name == "JPEG" else 18
    assert np.abs(found - wanted).max() <= greatest
    # Below four times the model's side nothing is done before.
    small = saved(image.crop((0, 0, 895, 895)), "PNG")
    with Image.open(io.BytesIO(small)) as whole:
        exact = resize(np.asarray(whole.convert("RGB")))
    assert np.array_equal(resize(decode(small, bytes_max=10**8, side_hint=resize.side)), exact)


def test_a_strip_is_no_problem() -> None:
    assert decode(saved(Image.new("RGB", (1, 60_000)), "PNG")).shape == (60_000, 1, 3)
