"""HEIC: decoded under the same limits as other pictures, or refused with the extra's name."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from consumers.images import heic as room
from consumers.images.decode import decode_image
from contracts.errors import RejectedRecord
from tests.kits.heic_files import heic

# Pairs of pixels have one colour, as 4:2:0 keeps them.
PIXELS = (
    np.random.default_rng(6).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
)
assert PIXELS.shape == (32, 48, 3)


def decode(data: bytes, *, pixels_max: int = 10**5) -> np.ndarray:
    return decode_image(data, bytes_max=10**6, pixels_max=pixels_max, side_hint=64).astype(int)


def code(data: bytes, **limits: int) -> str:
    with pytest.raises(RejectedRecord) as caught:
        decode(data, **limits)
    return caught.value.code


def test_it_looks_like_the_same_pixels() -> None:
    assert np.abs(decode(heic(PIXELS)) - PIXELS).max() <= 2


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_it_stands_upright(turns: int) -> None:
    assert np.abs(decode(heic(PIXELS, turns=turns)) - np.rot90(PIXELS, turns)).max() <= 2


def test_pixels_are_counted_before_they_are_decoded() -> None:
    assert code(heic(PIXELS), pixels_max=32 * 48 - 1) == "image_too_many_pixels"
    assert code(heic(PIXELS, claimed=(60_000, 60_000))) == "image_too_many_pixels"


def test_what_is_damaged_or_cut_off_is_broken() -> None:
    data = heic(PIXELS)
    for kept in (40, 200, len(data) // 2, len(data) - 200):
        assert code(data[:kept]) == "image_broken"
    assert code(heic(PIXELS, claimed=(16, 16))) == "image_broken"


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pi_heif", None)  # as if it were not installed
    room._enabled.cache_clear()
    yield
    room._enabled.cache_clear()


@pytest.mark.usefixtures("no_extra")
def test_without_the_extra_the_refusal_names_it() -> None:
    with pytest.raises(RejectedRecord, match=r"tidelens\[heic\]") as caught:
        decode(heic(PIXELS))
    assert (caught.value.code, caught.value.field) == ("image_format", "image")
