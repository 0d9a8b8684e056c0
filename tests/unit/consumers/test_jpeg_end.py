"""JPEG without its end marker: read where all pixels are there, refused where they are not."""

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from consumers.images.decode import decode_image
from consumers.images.jpeg_end import complete_jpeg
from contracts.errors import RejectedRecord
from contracts.ports.encoder import RgbImage
from tests.kits.picture_files import saved

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("RGB", {}),
    "optimised": ("RGB", {"optimize": True}),
    "all colours": ("RGB", {"subsampling": 0, "quality": 95}),
    "progressive": ("RGB", {"progressive": True}),
    "grey": ("L", {}),
    "grey progressive": ("L", {"progressive": True}),
    "CMYK": ("CMYK", {}),
    "restarts": ("RGB", {"restart_marker_blocks": 2}),
    "restarts by rows": ("RGB", {"restart_marker_rows": 1}),
    "progressive with restarts": ("RGB", {"progressive": True, "restart_marker_rows": 1}),
}


def jpeg(kind: str, format_name: str = "JPEG") -> bytes:
    """Make a picture of 45 x 61 pixels, whose last blocks are not full."""
    mode, options = KINDS[kind]
    down, across = np.mgrid[0:61, 0:45]
    pixels = np.stack([across * 5, down * 4, (across + down) * 2], axis=2)
    pixels += np.random.default_rng(4).integers(-9, 9, pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)
    return saved(image, format_name, **options)


def decode(data: bytes) -> RgbImage:
    return decode_image(data, bytes_max=10**6, pixels_max=10**5, side_hint=256)


def refusal(data: bytes) -> str:
    with pytest.raises(RejectedRecord) as caught:
        decode(data)
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_end_it_looks_the_same(kind: str) -> None:
    whole = jpeg(kind)
    for data in (whole[:-2], whole[:-1], whole[:-2] + b"\xff\xff"):
        assert np.array_equal(decode(data), decode(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_off_stays_refused(kind: str) -> None:
    """Cut at every boundary of a scan or of restarts, just before the end, and anywhere."""
    whole = jpeg(kind)
    scans = whole.index(b"\xff\xda")
    boundaries = {
        at
        for at in range(scans, len(whole) - 2)
        if whole[at] == 0xFF and whole[at + 1] not in (0, 0xFF)
    }
    anywhere = random.Random(3).sample(range(100, len(whole) - 12), 12)
    for length in sorted({*boundaries, *anywhere, *range(len(whole) - 12, len(whole) - 4)}):
        assert complete_jpeg(whole[:length]) is None, length
    assert refusal(whole[: len(whole) // 2]) == "image_broken"


def test_a_scan_that_brings_no_more_than_the_high_bits_is_not_the_last() -> None:
    """A file without its last scans ends as a whole file does."""
    whole = jpeg("progressive")
    starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
    assert len(starts) > 4
    for start in starts:
        # Its tables of Huffman codes stand before it.
        assert refusal(whole[: whole.rindex(b"\xff\xc4", 0, start)]) == "image_broken"


def test_the_first_picture_of_several_is_whole_by_itself() -> None:
    first = Image.new("RGB", (40, 30), (200, 30, 30))
    data = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    second = data.rindex(b"\xff\xd8\xff")
    for cut in (data, data[:-2], data[: second + 60]):
        assert np.abs(decode(cut).astype(int) - (200, 30, 30)).max() < 8
    assert refusal(data[: second // 2]) == "image_broken"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_without_an_end_are_read_or_refused(seed: int) -> None:
    rolls = random.Random(seed)
    whole = jpeg(rolls.choice(list(KINDS)))[:-2]
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rolls.randint(1, 4)):
            damaged[rolls.randrange(3, len(damaged))] = rolls.randrange(256)
        try:
            decode(bytes(damaged))
        except RejectedRecord as error:
            assert error.code in {"image_broken", "image_too_many_pixels"}
