"""JPEG files that lack their end marker: whole pictures, or ones cut off.

Decoders disagree about a missing end: Pillow refuses such a file, and viewers show it. Once an end
is added, libjpeg decodes any file, since it fills in what is missing. So three questions are asked:
do the scans hold every coefficient in full, does each scan have all its restart markers, and is the
last scan whole? It is whole if data that is added to it changes no pixel.
"""

import hashlib
import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a marker that ends a scan's data
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SCAN, _RESTARTS = 0xDA, 0xDD
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_COEFFICIENTS = 64
_BLOCK = 8
# These continue a scan that breaks off; after a whole one a decoder skips them.
_TAILS = tuple(bytes([byte]) * 64 for byte in (0b01010101, 0b10101010))


def complete_jpeg(data: bytes) -> bytes | None:
    """Return the file with an end marker, or None if more than the marker is missing.

    It is decoded up to three times, so call this only for a file that was refused already.
    """
    data = data.rstrip(b"\xff")
    try:
        if not _scans_are_complete(data):
            return None
        filled = _filled_up(data)
        seen = _pixels(filled + _END)
        whole = all(_pixels(filled + tail + _END) == seen for tail in _TAILS)
    except MemoryError:
        raise
    except Exception:  # the file cannot be read at all
        return None
    return data + _END if whole else None


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return hashlib.blake2b(image.tobytes()).digest()


def _filled_up(data: bytes) -> bytes:
    """Return the file with its size rounded up to whole blocks.

    The pixels that fill the last blocks are then compared too.
    """
    changed = bytearray(data)
    scans = sum(marker == _SCAN for marker, _, _, _ in _segments(data))
    for marker, start, body, _ in _segments(data):
        if marker in _FRAMES:
            width, height = _Frame.parse(body).filled_up(single_scan=scans == 1)
            struct.pack_into(">HH", changed, start + 1, height, width)
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A picture's size, and the blocks of each component in a unit, across and down."""

    width: int
    height: int
    sampling: dict[int, tuple[int, int]]

    @classmethod
    def parse(cls, body: bytes) -> "_Frame":
        height, width, count = struct.unpack_from(">HHB", body, 1)
        parts = (body[at : at + 2] for at in range(6, 6 + 3 * count, 3))
        return cls(width, height, {name: (both >> 4, both & 15) for name, both in parts})

    @property
    def unit(self) -> tuple[int, int]:
        """The blocks of the largest component in an interleaved unit, across and down."""
        across, down = (max(both[n] for both in self.sampling.values()) for n in (0, 1))
        return across, down

    def filled_up(self, *, single_scan: bool) -> tuple[int, int]:
        """Return width and height rounded up to whole blocks, if no scan then has more blocks."""
        across, down = self.unit
        if not single_scan:
            if any(across % own[0] or down % own[1] for own in self.sampling.values()):
                return self.width, self.height
            across = down = 1
        if len(self.sampling) == 1:
            across = down = 1
        return (
            _BLOCK * across * _ceil_div(self.width, _BLOCK * across),
            _BLOCK * down * _ceil_div(self.height, _BLOCK * down),
        )

    def units(self, names: Sequence[int]) -> int:
        """Return the number of units in the data of a scan of these components."""
        across, down = self.unit
        width, height = self.width, self.height
        if len(names) == 1:  # not interleaved: its units are its own blocks
            own_across, own_down = self.sampling[names[0]]
            width = _ceil_div(width * own_across, across)
            height = _ceil_div(height * own_down, down)
            across = down = 1
        return _ceil_div(width, _BLOCK * across) * _ceil_div(height, _BLOCK * down)


def _ceil_div(number: int, by: int) -> int:
    return -(-number // by)


def _scans_are_complete(data: bytes) -> bool:
    """Return whether the scans hold each coefficient of each component down to its lowest bit."""
    frame: _Frame | None = None
    interval = 0
    wanted: set[tuple[int, int]] = set()
    for marker, _, body, coded in _segments(data):
        if marker in _FRAMES:
            frame = _Frame.parse(body)
            wanted = {(name, n) for name in frame.sampling for n in range(_COEFFICIENTS)}
        elif marker == _RESTARTS:
            (interval,) = struct.unpack_from(">H", body)
        elif marker == _SCAN and frame is not None:
            names = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            if bits & 15 == 0:
                wanted -= {(name, n) for name in names for n in range(first, last + 1)}
            restarts = _ceil_div(frame.units(names), interval) - 1 if interval else 0
            if sum(1 for _ in _RESTART.finditer(coded)) != restarts:
                return False
    return frame is not None and not wanted


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes, memoryview]]:
    """Yield each marker, the start of its body, the body, and the data of a scan behind it."""
    view = memoryview(data)
    found = _MARKER.search(data, 2)
    while found:
        (length,) = struct.unpack_from(">H", data, found.end())
        end = found.end() + length
        following = _MARKER.search(data, end)
        coded = view[end : following.start() if following else len(data)]
        start = found.end() + 2
        yield data[found.start() + 1], start, data[start:end], coded
        found = following
