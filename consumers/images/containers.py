"""The removal of the parts of picture files that a decoder does not need.

Pillow refuses a good picture for what is beside its pixels: a profile or a text that inflates past
a limit, or metadata cut off behind the pixels. Nothing is inflated here beyond a bound, and the
parts that the pixels come from are passed on unchanged.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_PNG_HEAD = 8
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_CRC_BYTES = 4
_PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_PNG_OF_USE = {b"tRNS", b"eXIf"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# Keywords of texts that may hold the orientation, as eXIf does.
_PNG_TEXTS_OF_USE = {b"XML:com.adobe.xmp", b"Raw profile type exif"}
_TEXT_BYTES_MAX = 256 * 1024

_RIFF_HEAD = 12
_RIFF_CHUNK = struct.Struct("<4sI")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk from `start` to `end` of the file, whose body is from `body` to `body_end`."""

    name: bytes
    start: int
    body: int
    body_end: int
    end: int


def strip_metadata(format_name: str, data: bytes) -> bytes:
    """Return the file with only what its pixels and its orientation come from."""
    if format_name == "PNG":
        return _stripped_png(data)
    if format_name == "WEBP":
        return _whole_webp(data)
    return data


def _stripped_png(data: bytes) -> bytes:
    """Leave out profiles, texts, further frames of an animation, and damaged chunks."""
    kept = [data[:_PNG_HEAD]]
    seen: set[bytes] = set()
    start = end = _PNG_HEAD  # the range of chunks that are copied in one piece
    for chunk in _png_chunks(data):
        if not _is_needed(data, chunk, seen):
            kept.append(data[start : chunk.start])
            start = chunk.end
        end = chunk.end
    if start == _PNG_HEAD:
        return data
    kept.append(data[start:end])
    return b"".join(kept)


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to IEND whose headers are whole; the last one may be cut off."""
    at, name = _PNG_HEAD, b""
    while at + _PNG_CHUNK.size <= len(data) and name != b"IEND":
        length, name = _PNG_CHUNK.unpack_from(data, at)
        body = at + _PNG_CHUNK.size
        end = body + length + _PNG_CRC_BYTES
        yield _Chunk(name, at, body, body + length, min(end, len(data)))
        at = end


def _is_needed(data: bytes, chunk: _Chunk, seen: set[bytes]) -> bool:
    if chunk.name in _PNG_PIXELS or chunk.name[:1].isupper():
        return True
    if chunk.end < chunk.body_end + _PNG_CRC_BYTES:
        return False  # cut off
    if chunk.name in _PNG_TEXTS:
        return _text_is_needed(data, chunk, seen)
    return chunk.name in _PNG_OF_USE and _is_sound(data, chunk)


def _text_is_needed(data: bytes, chunk: _Chunk, seen: set[bytes]) -> bool:
    """Return whether a text may hold the orientation: it is the first of its keyword, and short."""
    if chunk.body_end - chunk.body > _TEXT_BYTES_MAX:
        return False
    body = data[chunk.body : chunk.body_end]
    keyword, _, rest = body.partition(b"\0")
    if keyword not in _PNG_TEXTS_OF_USE or keyword in seen or not _is_sound(data, chunk):
        return False
    seen.add(keyword)
    if chunk.name == b"zTXt":
        return _inflates_within_bounds(rest[1:])
    if chunk.name == b"iTXt" and rest[:1] == b"\x01":
        return _inflates_within_bounds(rest[2:].split(b"\0", 2)[-1])
    return True


def _inflates_within_bounds(deflated: bytes) -> bool:
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(deflated, _TEXT_BYTES_MAX)
    except zlib.error:
        return False
    return not inflating.unconsumed_tail


def _is_sound(data: bytes, chunk: _Chunk) -> bool:
    found = zlib.crc32(data[chunk.start + 4 : chunk.body_end])
    return data[chunk.body_end : chunk.end] == struct.pack(">I", found)


def _whole_webp(data: bytes) -> bytes:
    """Leave out a chunk that is cut off: metadata behind the pixels, or a later frame."""
    size = struct.unpack_from("<I", data, 4)[0] + 8
    if size <= len(data):
        return data
    whole = _RIFF_HEAD
    padding = b""
    while whole + _RIFF_CHUNK.size <= len(data):
        _, length = _RIFF_CHUNK.unpack_from(data, whole)
        end = whole + _RIFF_CHUNK.size + length
        if end > len(data):
            break
        padding = b"\0" * (end + length % 2 - len(data))
        whole = min(end + length % 2, len(data))
    body = data[8:whole] + padding
    return data[:4] + struct.pack("<I", len(body)) + body
