"""The picture formats that Tidelens accepts, each recognised by its first bytes alone.

Publishing, decoding and serving share this table. To add a format, add it to FORMATS.
"""

from collections.abc import Callable
from dataclasses import dataclass

from contracts.errors import RejectedRecord

HEAD_BYTES = 256
"""The number of bytes at the beginning of a file that are needed to recognise its format."""

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """A picture format. `name` is Pillow's name for it, `suffixes` are those of its file names.

    `is_shown_by_browsers` decides whether a picture is served unchanged or converted first.
    """

    name: str
    media_type: str
    suffixes: tuple[str, ...]
    is_shown_by_browsers: bool
    matches: Callable[[bytes], bool]


def _with(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


# Sizes that the second header of a BMP may have. "BM" alone could be the beginning of a text.
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}


def _bmp(head: bytes) -> bool:
    second = head[14:18]
    return head[:2] == b"BM" and (
        len(second) < 4 or int.from_bytes(second, "little") in _BMP_HEADER_SIZES
    )


def _webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _brands(head: bytes) -> set[bytes]:
    """Return the major and compatible brands of the ISO container that AVIF and HEIC share.

    The minor version, which lies between them, is skipped.
    """
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4]), len(head), HEAD_BYTES)
    return {head[at : at + 4] for at in (8, *range(16, end, 4))}


def _avif(head: bytes) -> bool:
    return not _AVIF_BRANDS.isdisjoint(_brands(head))


def _heic(head: bytes) -> bool:
    brands = _brands(head)
    return brands.isdisjoint(_AVIF_BRANDS) and not brands.isdisjoint(_HEIC_BRANDS)


_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")

FORMATS = (
    # A file of several JPEGs (MPO), which stereo cameras write, begins like its first picture.
    PictureFormat("JPEG", "image/jpeg", _JPEG_SUFFIXES, True, _with(b"\xff\xd8\xff")),
    PictureFormat("PNG", "image/png", (".png",), True, _with(b"\x89PNG\r\n\x1a\n")),
    PictureFormat("WEBP", "image/webp", (".webp",), True, _webp),
    PictureFormat("GIF", "image/gif", (".gif",), True, _with(b"GIF87a", b"GIF89a")),
    PictureFormat("BMP", "image/bmp", (".bmp",), True, _bmp),
    PictureFormat("TIFF", "image/tiff", (".tif", ".tiff"), False, _with(b"II*\x00", b"MM\x00*")),
    PictureFormat("AVIF", "image/avif", (".avif",), True, _avif),
    PictureFormat("HEIF", "image/heic", (".heic", ".heif", ".hif"), False, _heic),
)
NAMES = ", ".join(known.name for known in FORMATS)
SUFFIXES = frozenset(suffix for known in FORMATS for suffix in known.suffixes)


def format_of(data: bytes) -> PictureFormat | None:
    """Return the format of a file that begins with `data`, or None if it is not in the table."""
    head = bytes(data[:HEAD_BYTES])
    return next((known for known in FORMATS if known.matches(head)), None)


def require_format(data: bytes) -> PictureFormat:
    """Return the format of a picture. Raise RejectedRecord for one that is not in the table."""
    known = format_of(data)
    if known is None:
        raise RejectedRecord(
            "image_format",
            f"the picture is none of {NAMES}; it begins with {data[:8].hex() or 'nothing'}",
            field="image",
            limit=NAMES,
            value=data[:8].hex(),
        )
    return known


def media_type_of(data: bytes) -> str:
    """Return the media type for a record's header; `image/*`, which readers refuse, if unknown."""
    known = format_of(data)
    return "image/*" if known is None else known.media_type
