"""HEIC files written by hand: HEVC pictures whose blocks hold their pixels as they are (I_PCM).

No encoder of HEVC is at hand, and none is needed: a picture of blocks of 16 x 16 in raw samples
has two bins a block to encode. The numbers are those of ITU-T H.265 and ISO/IEC 23008-12.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16
# What coding the one bin with a context costs of a range, by how often it was coded before.
_LESS_PROBABLE = (240, 227, 216, 205, 195, 185, 175, 166, 158, 150, 142, 135, 128, 122, 116, 110)
BLOCKS_MAX = len(_LESS_PROBABLE)


class _Bits:
    def __init__(self) -> None:
        self.bits: list[int] = []

    def u(self, count: int, value: int = 0) -> "_Bits":
        self.bits += [(value >> place) & 1 for place in range(count - 1, -1, -1)]
        return self

    def ue(self, *values: int) -> "_Bits":
        for value in values:
            self.u(2 * (value + 1).bit_length() - 1, value + 1)
        return self

    def aligned(self) -> "_Bits":
        return self.u(-len(self.bits) % 8)

    def trailing(self) -> bytes:
        return self.u(1, 1).aligned().data()

    def data(self) -> bytes:
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()


class _Cabac:
    """The arithmetic encoder of 9.3.4, for as much as these pictures need."""

    def __init__(self, bits: _Bits) -> None:
        self._bits = bits
        self.start()

    def start(self) -> None:
        self._low, self._range, self._first, self._waiting = 0, 510, True, 0

    def more_probable(self, coded_before: int) -> None:
        self._range -= _LESS_PROBABLE[coded_before]
        self._renormalise()

    def terminate(self, value: int) -> None:
        self._range -= 2
        if value:
            self._low += self._range
            self._range = 2
        self._renormalise()
        if value:
            self._put((self._low >> 9) & 1)
            self._bits.u(2, ((self._low >> 7) & 3) | 1)

    def _renormalise(self) -> None:
        while self._range < 256:
            if self._low < 256:
                self._put(0)
            elif self._low >= 512:
                self._low -= 512
                self._put(1)
            else:
                self._low -= 256
                self._waiting += 1
            self._range <<= 1
            self._low <<= 1

    def _put(self, bit: int) -> None:
        if not self._first:
            self._bits.u(1, bit)
        self._first = False
        for _ in range(self._waiting):
            self._bits.u(1, 1 - bit)
        self._waiting = 0


def _nal(kind: int, body: bytes) -> bytes:
    escaped = bytearray()
    for byte in body:
        if byte <= 3 and escaped[-2:] == b"\0\0":
            escaped.append(3)
        escaped.append(byte)
    return struct.pack(">BB", kind << 1, 1) + bytes(escaped)


def _profile(bits: _Bits) -> _Bits:
    """Append the profile and level: Main Still Picture, level 3.1."""
    bits.u(8, 3).u(32, 1 << 28).u(4, 0b1001).u(44)
    return bits.u(8, 93)


def _video_parameters() -> bytes:
    bits = _Bits().u(4).u(2, 3).u(6).u(3).u(1, 1).u(16, 0xFFFF)
    _profile(bits).u(1, 1).ue(0, 0, 0).u(6).ue(0).u(2)
    return _nal(32, bits.trailing())


def _sequence_parameters(width: int, height: int) -> bytes:
    bits = _profile(_Bits().u(4).u(3).u(1, 1)).ue(0, 1, width, height).u(1).ue(0, 0, 0)
    bits.u(1, 1).ue(0, 0, 0)
    bits.ue(1, 0, 0, 2, 0, 0).u(3)  # blocks of 16 and no others; no lists, motion parts, offsets
    bits.u(1, 1).u(4, 7).u(4, 7).ue(1, 0).u(1, 1)  # raw samples of eight bits, not filtered
    return _nal(33, bits.ue(0).u(5).trailing())


def _picture_parameters() -> bytes:
    bits = _Bits().ue(0, 0).u(7).ue(0, 0, 0).u(3).ue(0, 0).u(10).ue(0).u(2)
    return _nal(34, bits.trailing())


def _slice(luma: NDArray[np.uint8], chroma: Sequence[NDArray[np.uint8]]) -> bytes:
    bits = _Bits().u(2, 2).ue(0, 2, 0).u(1, 1).aligned()
    cabac = _Cabac(bits)
    height, width = luma.shape
    blocks = [(y, x) for y in range(0, height, _BLOCK) for x in range(0, width, _BLOCK)]
    assert len(blocks) <= BLOCKS_MAX
    for n, (y, x) in enumerate(blocks):
        cabac.more_probable(n)  # one part
        cabac.terminate(1)  # raw samples
        bits.aligned()
        planes = [luma[y : y + _BLOCK, x : x + _BLOCK]]
        planes += [
            plane[y // 2 : (y + _BLOCK) // 2, x // 2 : (x + _BLOCK) // 2] for plane in chroma
        ]
        for plane in planes:
            bits.bits += np.unpackbits(np.ascontiguousarray(plane)).tolist()
        cabac.start()
        cabac.terminate(int(n + 1 == len(blocks)))
    return _nal(19, bits.aligned().data())


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24), *parts)


def _configuration(parameters: Sequence[bytes]) -> bytes:
    head = struct.pack(">BBI6sB", 1, 3, 1 << 28, b"\x90" + bytes(5), 93)
    head += struct.pack(">HBBBBHBB", 0xF000, 0xFC, 0xFD, 0xF8, 0xF8, 0, 0x0F, len(parameters))
    arrays = (struct.pack(">BHH", 0x80 | nal[0] >> 1, 1, len(nal)) + nal for nal in parameters)
    return _box(b"hvcC", head, *arrays)


def heic(
    rgb: NDArray[np.uint8], *, turns: int = 0, claimed: tuple[int, int] | None = None
) -> bytes:
    """A picture of at most 16 blocks of 16 x 16; pairs of pixels share their colour.

    `turns`: by quarters, anticlockwise, as the file asks its viewer to. `claimed`: the width and
    height that the file says it has.
    """
    height, width = rgb.shape[:2]
    red, green, blue = (rgb[..., n].astype(np.float64) for n in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [(blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128]
    planes = [np.rint(plane).clip(0, 255).astype(np.uint8) for plane in (luma, *chroma)]
    coded = _slice(planes[0], [plane[::2, ::2] for plane in planes[1:]])
    parameters = [_video_parameters(), _sequence_parameters(width, height), _picture_parameters()]
    properties = [
        _configuration(parameters),
        _full(b"ispe", 0, struct.pack(">II", *(claimed or (width, height)))),
        _box(b"colr", b"nclx", struct.pack(">HHHB", 1, 13, 6, 0x80)),
    ]
    if turns:
        properties.append(_box(b"irot", bytes([turns])))
    used = bytes(0x80 * (n != 3) | n for n in range(1, len(properties) + 1))
    item = struct.pack(">I", len(coded)) + coded

    def meta(offset: int) -> bytes:
        return _full(
            b"meta",
            0,
            _full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            _full(b"pitm", 0, struct.pack(">H", 1)),
            _full(
                b"iinf",
                0,
                struct.pack(">H", 1),
                _full(b"infe", 2, struct.pack(">HH4s", 1, 0, b"hvc1"), b"\0"),
            ),
            _box(
                b"iprp",
                _box(b"ipco", *properties),
                _full(b"ipma", 0, struct.pack(">IHB", 1, 1, len(used)), used),
            ),
            _full(b"iloc", 0, struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(item))),
        )

    head = _box(b"ftyp", b"heic", bytes(4), b"mif1", b"heic")
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + _box(b"mdat", item)


def flat() -> bytes:
    """Return a small grey picture."""
    return heic(np.full((16, 32, 3), 128, np.uint8))
