"""Pictures that are small to send and large to decode, for tests and for attacks on our own nodes.

`python -m tests.faults.hostile_pictures FOLDER` writes one file of each type.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from PIL import Image

from tests.kits.picture_files import png_file, saved

SIDE = 7_000  # squared: 49 megapixels, just below the limit of content
STRIP = (65_500, 748)  # as long as a JPEG can be, and 49 megapixels too


def png(width: int, height: int, *, bits: int = 8, kind: int = 0, channels: int = 1) -> bytes:
    """Build a black PNG without ever holding its pixels. `kind`: 0 is grey, 2 RGB, 6 RGBA."""
    line = bytes(1 + (width * channels * bits + 7) // 8)
    together = max(1, (1 << 20) // len(line))
    packer, left, body = zlib.compressobj(9), height, []
    while left:
        some = min(together, left)
        body.append(packer.compress(line * some))
        left -= some
    body.append(packer.flush())
    return png_file(width, height, bits, kind, (b"IDAT", b"".join(body)))


def plain(format_name: str, width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """Build a picture of one colour."""
    return saved(Image.new(mode, (width, height), 9), format_name, **options)


def many_scans(width: int, height: int, scans: int) -> bytes:
    """Build a progressive JPEG that repeats its last scan: each one visits all of its blocks."""
    data = plain("JPEG", width, height, "L", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:start] + data[start:end] * scans + data[end:]


KINDS: dict[str, Callable[[int], bytes]] = {
    "png": lambda side: png(side, side),
    "png-rgba-16": lambda side: png(side, side, bits=16, kind=6, channels=4),
    "webp": lambda side: plain("WEBP", side, side, quality=1, method=0),
    "webp-lossless": lambda side: plain(
        "WEBP", side, side, "RGBA", lossless=True, quality=0, method=0
    ),
    "gif": lambda side: plain("GIF", side, side, "P", transparency=0),
    "jpeg": lambda side: plain("JPEG", side, side),
    "jpeg-many-scans": lambda side: many_scans(side, side, 400),
    "tiff": lambda side: plain("TIFF", side, side, compression="tiff_lzw"),
    "png-long": lambda side: png(STRIP[0], side * side // STRIP[0]),
    "jpeg-long": lambda side: plain("JPEG", STRIP[0], side * side // STRIP[0]),
    "png-column": lambda side: png(1, side * side),
    "png-row": lambda side: png(side * side, 1),
}
"""Each makes a bomb of as many pixels as a square of that side has."""


@cache
def bomb(kind: str, side: int = SIDE) -> bytes:
    return KINDS[kind](side)


def bombs(
    count: int, *, side: int = SIDE, kinds: tuple[str, ...] = tuple(KINDS)
) -> Iterator[bytes]:
    """Yield `count` bombs of all types in turn; the bytes behind each picture's end differ."""
    for number, kind in enumerate(islice(cycle(kinds), count)):
        yield bomb(kind, side) + b"%010d" % number


def main(folder: str) -> None:
    for kind in KINDS:
        path = Path(folder, f"{kind}.bin")
        path.write_bytes(bomb(kind))
        print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
