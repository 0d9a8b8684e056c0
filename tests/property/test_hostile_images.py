"""Pictures made to break decoders: each has its expected end, and the decoders outlive them all."""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from consumers.images.decoder_pool import DecodeLimits, DecoderPool
from consumers.images.preprocess import CentralSquare
from contracts.errors import RejectedRecord
from tests.kits.heic_files import heic
from tests.kits.picture_files import png_file, saved

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FINE = "fine"
BROKEN, FORMAT = "image_broken", "image_format"
MANY_PIXELS, LONG_SIDE = "image_too_many_pixels", "image_too_long_side"

# The slowest of the good ones takes 3 s of a processor that is shared.
_LIMITS = DecodeLimits(8_000_000, 25_000_000, 20.0, 512 * 1024 * 1024)
_RSS_BYTES_MAX = 200 * 1024 * 1024


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    decoders = DecoderPool(2, _LIMITS, CentralSquare(64, 56))
    try:
        yield decoders
        # Whatever was thrown at them above:
        assert decoders.decode_now(saved(noise(), "PNG")).shape == (56, 56, 3)
        children = [
            child
            for child in psutil.Process().children()
            if "consumers.images.decoder_process" in child.cmdline()
        ]
        assert 1 <= len(children) <= 2
        assert all(child.memory_info().rss < _RSS_BYTES_MAX for child in children)
    finally:
        decoders.close()


def outcome(decoders: DecoderPool, data: bytes) -> str:
    try:
        image = decoders.decode_now(data)
    except RejectedRecord as rejection:
        assert rejection.field == "image"
        return rejection.code
    assert image.shape == (56, 56, 3)
    return FINE


def noise(width: int = 96, height: int = 80, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(
    width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, kind: int = 2
) -> bytes:
    return png_file(width, height, bits, kind, *chunks)


def rows(width: int, height: int) -> bytes:
    return zlib.compress(bytes((3 * width + 1) * height))


def tiff(entries: list[tuple[int, int, int, int]], *, then: int = 0, tail: bytes = b"") -> bytes:
    """Build a TIFF of one directory at 8; `then` is the stated offset of the next one."""
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\x00" + struct.pack("<I", 8) + body + struct.pack("<I", then) + tail


def gray_tiff(width: int, height: int, *, then: int = 0, pixels: bytes = b"") -> bytes:
    count = 8
    offset = 8 + 2 + 12 * count + 4
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, offset),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
    ]
    return tiff(entries, then=then, tail=pixels)


def gif(width: int, height: int, rest: bytes = b"") -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    palette = bytes(range(12))
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x81, 0, 0) + palette + frame + rest


def bmp(width: int, height: int, bits: int = 24, colours: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def webp(width: int, height: int) -> bytes:
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    extended += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended


def jpeg_of_scans(scans: int, side: int = 2048) -> bytes:
    """Build a progressive picture that repeats its last scan: each one visits all of its blocks."""
    data = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def frames(format_name: str, count: int) -> bytes:
    images = [Image.new("L", (8, 8), i % 251) for i in range(count)]
    return saved(images[0], format_name, save_all=True, append_images=images[1:])


def with_icc(format_name: str, profile: bytes) -> bytes:
    return saved(noise(), format_name, icc_profile=profile)


_EXIF = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01"
_BOMB = zlib.compress(bytes(300_000_000), 9)
_FLOATS = np.linspace(-5, 5, 900, dtype=np.float32).reshape(30, 30)

BY_HAND: dict[str, tuple[Callable[[], bytes], str]] = {
    # Dimensions
    "png of 2^31-1 squared": (lambda: png(2**31 - 1, 2**31 - 1), MANY_PIXELS),
    "png of 2^32-1 squared": (lambda: png(2**32 - 1, 2**32 - 1), MANY_PIXELS),
    "gif of 65,535 squared": (lambda: gif(65_535, 65_535), MANY_PIXELS),
    "bmp of 2^31-1 squared": (lambda: bmp(2**31 - 1, 2**31 - 1), MANY_PIXELS),
    "bmp upside down": (lambda: bmp(60_000, -60_000), MANY_PIXELS),
    "tiff of 2^32-1 squared": (lambda: gray_tiff(2**32 - 1, 2**32 - 1), MANY_PIXELS),
    "tiff of 60,000 squared": (lambda: gray_tiff(60_000, 60_000), MANY_PIXELS),
    "webp of 16,384 squared, empty": (lambda: webp(16_384, 16_384), BROKEN),
    "webp above the limit": (
        lambda: saved(Image.new("RGB", (5100, 5000)), "WEBP", lossless=True, method=0),
        MANY_PIXELS,
    ),
    "png of no width": (lambda: png(0, 8), BROKEN),
    "png of no height": (lambda: png(8, 0), BROKEN),
    "gif of no width": (lambda: gif(0, 8), BROKEN),
    "bmp of no width": (lambda: bmp(0, 8), BROKEN),
    "tiff of no width": (lambda: gray_tiff(0, 8), BROKEN),
    "tiff of no height": (lambda: gray_tiff(8, 0), BROKEN),
    "one pixel": (lambda: saved(Image.new("RGB", (1, 1)), "PNG"), FINE),
    "a line": (lambda: png(25_000_000, 1, (b"IDAT", rows(25_000_000, 1))), LONG_SIDE),
    "a line upright": (lambda: png(1, 65_536, (b"IDAT", rows(1, 65_536))), LONG_SIDE),
    "a strip": (lambda: png(65_535, 381, (b"IDAT", rows(65_535, 381))), FINE),
    "a strip upright": (lambda: png(1, 65_535, (b"IDAT", rows(1, 65_535))), FINE),
    "all the pixels allowed": (lambda: png(5000, 5000, (b"IDAT", rows(5000, 5000))), FINE),
    # Bombs behind modest dimensions
    "png with more data than pixels": (lambda: png(8, 8, (b"IDAT", _BOMB)), FINE),
    "png with a bomb for a profile": (
        lambda: png(8, 8, (b"iCCP", b"p\x00\x00" + _BOMB), (b"IDAT", rows(8, 8))),
        FINE,  # nobody inflates it
    ),
    "png with a bomb for a text": (
        lambda: png(8, 8, (b"zTXt", b"t\x00\x00" + _BOMB), (b"IDAT", rows(8, 8))),
        FINE,
    ),
    "png with a bomb for an international text": (
        lambda: png(8, 8, (b"iTXt", b"t\x00\x01\x00\x00\x00" + _BOMB), (b"IDAT", rows(8, 8))),
        FINE,
    ),
    "png with 20,000 texts": (
        lambda: png(8, 8, *[(b"tEXt", b"k\x00" + b"v" * 80)] * 20_000, (b"IDAT", rows(8, 8))),
        FINE,
    ),
    "png of 600,000 empty chunks": (
        lambda: png(8, 8, (b"IDAT", rows(8, 8)))[:-12] + (bytes(4) + b"zzZz" + bytes(4)) * 600_000,
        FINE,
    ),
    "jpeg of 200 scans without an end": (lambda: jpeg_of_scans(200, 256)[:-2], FINE),
    "jpeg of scans that stop": (lambda: jpeg_of_scans(20, 256)[:-30], BROKEN),
    "png without data": (lambda: png(8, 8), BROKEN),
    "png with garbage for data": (lambda: png(8, 8, (b"IDAT", b"garbage")), BROKEN),
    # Many frames: the first counts
    **{
        f"{count} frames of {name}": (lambda name=name, count=count: frames(name, count), FINE)
        for name, count in (("GIF", 3000), ("PNG", 3000), ("WEBP", 3000), ("TIFF", 1000))
    },
    "tiff whose directory follows itself": (
        lambda: gray_tiff(8, 8, then=8, pixels=bytes(64)),
        FINE,
    ),
    "tiff whose next directory lies outside": (
        lambda: gray_tiff(8, 8, then=2**32 - 1, pixels=bytes(64)),
        FINE,
    ),
    "tiff whose directory is the header": (lambda: b"II*\x00" + bytes(4), BROKEN),
    "tiff of 65,535 entries": (lambda: tiff([(256, 4, 1, 1)] * 65_535), BROKEN),
    "tiff with an entry of 2^32-1 values": (lambda: tiff([(256, 4, 2**32 - 1, 8)]), BROKEN),
    "gif of endless extensions": (
        lambda: gif(8, 8)[:25] + b"\x21\xfe\x01x\x00" * 200_000,
        BROKEN,
    ),
    "jpeg of 200 scans": (lambda: jpeg_of_scans(200, 256), FINE),
    # Not allowed, under whatever name
    **{
        name: (lambda data=data: data + bytes(100), FORMAT)
        for name, data in {
            "psd": b"8BPS\x00\x01",
            "film": b"\x00\x00\x00\x18ftypisom",
            "svg in xml": b"<?xml version='1.0'?><svg/>",
            "eps with a preview": b"\xc5\xd0\xd3\xc6",
            "big tiff": b"II+\x00\x08\x00\x00\x00",
            "html": b"<!doctype html>",
            "zip": b"PK\x03\x04",
            "elf": b"\x7fELF",
            "wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
            "zeros": b"",
        }.items()
    },
    "pdf behind a jpeg's first bytes": (lambda: b"\xff\xd8\xff%PDF-1.7" + bytes(100), BROKEN),
    "svg behind a gif's first bytes": (lambda: b"GIF89a<svg/>" + bytes(100), BROKEN),
    # Two letters are too few to go by.
    "script behind a bmp's first bytes": (lambda: b"BM=1;alert(1)//" + bytes(100), FORMAT),
    "heic's first bytes": (lambda: b"\x00\x00\x00\x18ftypheic" + bytes(100), BROKEN),
    "avif's first bytes": (lambda: b"\x00\x00\x00\x1cftypavif" + bytes(100), BROKEN),
    "heic of 60,000 squared": (
        lambda: heic(np.zeros((16, 16, 3), np.uint8), claimed=(60_000, 60_000)),
        MANY_PIXELS,
    ),
    "heic of another size than it says": (
        lambda: heic(np.zeros((16, 16, 3), np.uint8), claimed=(4000, 4000)),
        BROKEN,
    ),
    "avif of 16,384 by 3,000": (
        lambda: saved(Image.new("L", (16_384, 3_000)), "AVIF", speed=10, quality=1),
        MANY_PIXELS,
    ),
    # Modes
    "cmyk jpeg": (lambda: saved(noise(mode="CMYK"), "JPEG"), FINE),
    "cmyk tiff": (lambda: saved(noise(mode="CMYK"), "TIFF"), FINE),
    "ycbcr tiff": (lambda: saved(noise(mode="YCbCr"), "TIFF", compression="jpeg"), FINE),
    "lab tiff": (lambda: saved(noise(mode="LAB"), "TIFF"), FINE),
    "one bit png": (lambda: saved(noise(mode="1"), "PNG"), FINE),
    "one bit fax": (lambda: saved(noise(mode="1"), "TIFF", compression="group4"), FINE),
    "gray and alpha": (lambda: saved(noise(mode="LA"), "PNG"), FINE),
    "palette with alphas": (
        lambda: saved(noise(mode="P"), "PNG", transparency=bytes(range(256))),
        FINE,
    ),
    "16 bit rgb": (
        lambda: png(8, 8, (b"IDAT", zlib.compress(bytes(49 * 8))), bits=16),
        FINE,
    ),
    "float tiff": (lambda: saved(Image.fromarray(_FLOATS), "TIFF"), FINE),
    "infinite tiff": (lambda: saved(Image.fromarray(_FLOATS * np.float32(np.inf)), "TIFF"), FINE),
    "progressive jpeg": (lambda: saved(noise(), "JPEG", progressive=True), FINE),
    "interlaced gif": (lambda: saved(noise(), "GIF", interlace=1), FINE),
    # Metadata
    **{
        f"orientation {value}": (
            lambda value=value: saved(
                noise(), "JPEG", exif=_EXIF + struct.pack("<HIHHI", 3, 1, value, 0, 0)
            ),
            FINE,
        )
        for value in (0, 9, 255, 65_535)
    },
    "orientation of 2^32-1 values": (
        lambda: saved(noise(), "JPEG", exif=_EXIF + struct.pack("<HIII", 4, 2**32 - 1, 8, 0)),
        FINE,
    ),
    "exif that follows itself": (
        lambda: saved(noise(), "JPEG", exif=_EXIF + struct.pack("<HIII", 3, 1, 1, 8)),
        FINE,
    ),
    **{
        f"{what} profile in {name}": (
            lambda name=name, profile=profile: with_icc(name, profile),
            FINE,
        )
        for name in ("JPEG", "PNG", "WEBP", "TIFF")
        for what, profile in (("broken", b"\xff" * 200), ("huge", bytes(3_000_000)))
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(decoders: DecoderPool, name: str) -> None:
    make, expected = BY_HAND[name]
    assert outcome(decoders, make()) == expected


def test_what_takes_too_long() -> None:
    limits = replace(_LIMITS, seconds_max=1.0)
    with closing(DecoderPool(1, limits, CentralSquare(64, 56))) as decoders:
        assert outcome(decoders, jpeg_of_scans(20_000)) == "image_too_slow"
        assert outcome(decoders, saved(noise(), "PNG")) == FINE


@pytest.mark.parametrize("format_name", FORMATS)
def test_cut_off_anywhere(decoders: DecoderPool, format_name: str) -> None:
    """A picture is broken wherever it is cut; only the bytes behind the pixels may be missing."""
    data = saved(noise(40, 30), format_name)
    lengths = {*range(14, 80), *range(80, len(data) * 9 // 10, max(1, len(data) // 60))}
    for length in sorted(lengths):
        assert (length, outcome(decoders, data[:length])) == (length, BROKEN)
    for length in range(max(len(data) - 30, 80), len(data)):
        assert outcome(decoders, data[:length]) in {FINE, BROKEN}
    for length in range(14):
        assert outcome(decoders, data[:length]) in {FORMAT, BROKEN}


_SMALL = {
    (name, kind): saved(noise(24, 20), name, **options)
    for name in FORMATS
    for kind, options in {
        "plain": {},
        "other": {
            "JPEG": {"progressive": True},
            "PNG": {"optimize": True},
            "WEBP": {"lossless": True},
            "TIFF": {"compression": "tiff_lzw"},
        }.get(name, {}),
    }.items()
}


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.sampled_from(sorted(_SMALL.values())), flips=st.lists(st.integers(0), min_size=1))
def test_flipped_bits(decoders: DecoderPool, data: bytes, flips: list[int]) -> None:
    """Bits are flipped behind the first bytes and the size: the picture decodes or is broken."""
    flipped = bytearray(data)
    for flip in flips:
        at, bit = divmod(flip % (8 * (len(data) - 32)), 8)
        flipped[32 + at] ^= 1 << bit
    found = outcome(decoders, bytes(flipped))
    assert found in {FINE, BROKEN, MANY_PIXELS, LONG_SIDE}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    head=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*", b""]
    ),
    rest=st.binary(max_size=300),
)
def test_anything_behind_the_first_bytes(decoders: DecoderPool, head: bytes, rest: bytes) -> None:
    assert outcome(decoders, head + rest) in {FINE, BROKEN, FORMAT, MANY_PIXELS, LONG_SIDE}
