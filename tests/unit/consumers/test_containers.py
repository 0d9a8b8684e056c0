"""A good picture is not refused for anything that is beside its pixels in the file."""

import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from consumers.images.containers import strip_metadata
from consumers.images.decode import decode_image
from contracts.errors import RejectedRecord
from contracts.ports.encoder import RgbImage
from tests.kits.picture_files import png, png_chunk, saved

PIXELS = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
MUCH = bytes(3 * 1024 * 1024)
TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RAW = b"\nexif\n%8d\n" % len(b"Exif\0\0" + TURNED) + (b"Exif\0\0" + TURNED).hex().encode() + b"\n"


def decode(data: bytes) -> RgbImage:
    return decode_image(data, bytes_max=10**8, pixels_max=10**5, side_hint=256)


def with_chunk(kind: bytes, body: bytes) -> bytes:
    return png(PIXELS, 8, 2, (kind, body))


PROFILES_AND_TEXTS = {
    "iCCP": with_chunk(b"iCCP", b"p\0\0" + zlib.compress(MUCH)),
    "iCCP, no profile": with_chunk(b"iCCP", b"p\0\0garbage"),
    "zTXt": with_chunk(b"zTXt", b"t\0\0" + zlib.compress(MUCH)),
    "iTXt": with_chunk(b"iTXt", b"t\0\x01\0\0\0" + zlib.compress(MUCH)),
    "iTXt as it is": with_chunk(b"iTXt", b"t\0\0\0\0\0" + MUCH),
    "iTXt of XMP": with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(MUCH)),
    "zTXt of EXIF": with_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(MUCH)),
    "tEXt": with_chunk(b"tEXt", b"t\0" + MUCH),
    "texts above 64 MiB": png(PIXELS, 8, 2, *[(b"tEXt", b"t\0" + MUCH)] * 23),
    "eXIf": with_chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0" + MUCH),
    "behind the pixels": png(
        PIXELS, 8, 2, after=png_chunk(b"zTXt", b"t\0\0" + zlib.compress(MUCH))
    ),
}


@pytest.mark.parametrize("name", PROFILES_AND_TEXTS)
def test_large_profiles_and_texts_of_a_png(name: str) -> None:
    assert np.array_equal(decode(PROFILES_AND_TEXTS[name]), PIXELS)


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("kind", ["exif", "xmp", "icc_profile"])
def test_large_metadata_of_other_formats(format_name: str, kind: str) -> None:
    much = MUCH if format_name != "JPEG" or kind == "icc_profile" else MUCH[:60_000]
    body = b"Exif\0\0" + TURNED.replace(b"\x06", b"\x01") + much if kind == "exif" else much
    assert np.array_equal(
        decode(saved(PICTURE, format_name, **{kind: body})), decode(saved(PICTURE, format_name))
    )


@pytest.mark.parametrize("kind", [b"tRNS", b"eXIf", b"gAMA", b"iCCP", b"tEXt", b"zzZz"])
def test_a_damaged_chunk_that_is_not_needed_is_passed_over(kind: bytes) -> None:
    damaged = bytearray(with_chunk(kind, b"k\0" + bytes(40)))
    damaged[damaged.index(kind) + 20] ^= 1  # its checksum is wrong
    assert np.array_equal(decode(bytes(damaged)), PIXELS)


def test_what_comes_behind_the_pixels_may_be_cut_off() -> None:
    data = png(PIXELS, 8, 2, after=png_chunk(b"tEXt", b"t\0" + bytes(500)))
    pixels_end = data.index(b"tEXt") - 4
    for length in range(pixels_end, len(data), 7):
        assert np.array_equal(decode(data[:length]), PIXELS)
    with pytest.raises(RejectedRecord, match="cannot be decoded"):
        decode(data[: pixels_end - 60])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"eXIf", TURNED),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        (b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(XMP)),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
        (b"tEXt", b"Raw profile type exif\0" + RAW),
    ],
)
def test_the_orientation_of_a_png_is_found(kind: bytes, body: bytes) -> None:
    assert np.array_equal(decode(with_chunk(kind, body)), np.rot90(PIXELS, -1))


def test_a_png_with_nothing_to_leave_out_is_not_copied() -> None:
    data = png(PIXELS, 8, 2)
    assert strip_metadata("PNG", data) is data


@pytest.mark.parametrize("kind", ["exif", "xmp"])
@pytest.mark.parametrize("lossless", [False, True])
def test_metadata_of_a_webp_may_be_cut_off(kind: str, lossless: bool) -> None:
    plain = saved(PICTURE, "WEBP", lossless=lossless)
    metadata = {"exif": b"Exif\0\0" + TURNED, "xmp": XMP}
    data = saved(PICTURE, "WEBP", lossless=lossless, **{kind: metadata[kind] + bytes(200)})
    pixels_end = data.index({"exif": b"EXIF", "xmp": b"XMP "}[kind])
    for length in (pixels_end, pixels_end + 1, pixels_end + 8, len(data) - 2):
        assert np.array_equal(decode(data[:length]), decode(plain))
    for length in (pixels_end - 20, pixels_end // 2):
        with pytest.raises(RejectedRecord, match="cannot be decoded"):
            decode(data[:length])


def test_a_webp_may_lack_the_byte_that_makes_it_even() -> None:
    def odd(data: bytes) -> bool:
        return bool(struct.unpack_from("<I", data, 16)[0] % 2)

    sizes = (PICTURE.resize((side, 9)) for side in range(5, 40))
    made = (saved(image, "WEBP", lossless=True) for image in sizes)
    data = next(filter(odd, made))
    assert np.array_equal(decode(data[:-1]), decode(data))


def test_the_first_frame_of_a_webp_that_is_cut_off() -> None:
    frames = [PICTURE, Image.new("RGB", (30, 20)), PICTURE.rotate(180)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(decode(data[: data.rindex(b"ANMF") + 30]), PIXELS)
    with pytest.raises(RejectedRecord, match="cannot be decoded"):
        decode(data[: data.index(b"ANMF") + 60])


@pytest.mark.parametrize("format_name", ["GIF", "BMP"])
def test_formats_that_end_with_nothing_of_use(format_name: str) -> None:
    data = saved(PICTURE, format_name)
    assert np.array_equal(decode(data[:-1]), decode(data))
    with pytest.raises(RejectedRecord, match="cannot be decoded"):
        decode(data[:-200])


def bits_flipped(data: bytes, rolls: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(rolls.randint(1, 6)):
        flipped[rolls.randrange(16, len(flipped))] ^= 1 << rolls.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
        lambda: with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(XMP)),
        lambda: saved(PICTURE, "WEBP", exif=b"Exif\0\0" + TURNED)[:-9],
        lambda: png(PIXELS, 8, 2, (b"tRNS", bytes(6))),
    ],
)
def test_damaged_containers_are_read_or_refused(make: Callable[[], bytes]) -> None:
    rolls = random.Random(8)
    data = make() + bytes(16)
    for _ in range(150):
        try:
            decode(bits_flipped(data, rolls))
        except RejectedRecord as error:
            assert error.code in {"image_broken", "image_too_many_pixels"}
