"""PNG and TIFF files written by hand: depths, signs and orders that no library writes."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Order = Literal["<", ">"]

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def packed(values: NDArray[Any], bits: int, order: Order = ">") -> bytes:
    """Pack rows of samples (height, samples in a row), each row filled up to whole bytes."""
    if values.dtype.kind == "f" or bits >= 16:
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    places = np.arange(bits - 1, -1, -1)
    each = (values[..., None].astype(np.int64) >> places) & 1
    return np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    values: NDArray[Any], bits: int, colour: int, *before: tuple[bytes, bytes], after: bytes = b""
) -> bytes:
    """Write samples (height, width) or (height, width, channels); `colour` is as in png_file."""
    height, width = values.shape[:2]
    rows = packed(values.reshape(height, -1), bits)
    step = len(rows) // height
    filtered = b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))
    pixels = b"IDAT", zlib.compress(filtered)
    return png_file(width, height, bits, colour, *before, pixels, after=after)


def png_file(
    width: int,
    height: int,
    bits: int,
    colour: int,
    *chunks: tuple[bytes, bytes],
    after: bytes = b"",
) -> bytes:
    """Put chunks between a header and an end; `colour` is the number of the PNG standard, and
    `after` goes before the end as it is.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join(png_chunk(name, chunk) for name, chunk in ((b"IHDR", header), *chunks))
    return PNG_HEAD + body + after + png_chunk(b"IEND", b"")


def tiff(
    values: NDArray[Any],
    bits: int,
    photometric: int,
    *,
    order: Order = "<",
    sample_format: int = 1,
    deflated: bool = False,
    fill_order: int = 1,
    extra: Sequence[int] = (),
    tags: Sequence[tuple[int, Sequence[int]]] = (),
) -> bytes:
    """Write samples (height, width) or (height, width, channels) in one strip; `tags` are of whole
    numbers.
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    strip = packed(values.reshape(height, -1), bits, order)
    if fill_order == 2:
        strip = bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip)
    if deflated:
        strip = zlib.compress(strip)
    entries: list[tuple[int, Sequence[int]]] = [
        (256, [width]),
        (257, [height]),
        (258, [bits] * channels),
        (259, [8 if deflated else 1]),
        (262, [photometric]),
        (266, [fill_order]),
        (273, [8]),
        (277, [channels]),
        (278, [height]),
        (279, [len(strip)]),
        (339, [sample_format] * channels),
        *tags,
    ]
    if extra:
        entries.append((338, extra))
    return _tiff_file(sorted(entries), strip, order)


def _tiff_file(entries: Sequence[tuple[int, Sequence[int]]], strip: bytes, order: Order) -> bytes:
    """Write header, strip, directory, and behind it the values that do not fit into it."""
    strip += b"\0" * (len(strip) % 2)
    directory = struct.pack(order + "H", len(entries))
    behind, start = b"", 8 + len(strip) + 2 + 12 * len(entries) + 4
    for tag, numbers in entries:
        long = max(numbers) > 0xFFFF
        directory += struct.pack(order + "HHI", tag, 4 if long else 3, len(numbers))
        value = struct.pack(f"{order}{len(numbers)}{'I' if long else 'H'}", *numbers)
        if len(value) <= 4:
            directory += value.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", start + len(behind))
            behind += value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(strip))
    return head + strip + directory + bytes(4) + behind
