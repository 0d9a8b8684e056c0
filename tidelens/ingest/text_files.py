"""Text files of any program: a byte-order mark at the beginning is not part of the text."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from contracts.characters import is_blank
from contracts.errors import ConfigurationError

_UTF16 = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 if its mark is there. Raises UnicodeDecodeError."""
    for mark, encoding in _UTF16:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding)
    return data.decode("utf-8-sig")


def read_lines(path: Path, option: str) -> list[str]:
    """Return a file's lines without blank ones. Raises ConfigurationError, naming the option."""
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{option}: {path}: not {error.encoding.upper()} (byte {error.start})"
        ) from None
    return [line.strip() for line in lines if not is_blank(line)]


def lines_of(file: BinaryIO, line_max: int) -> Iterator[bytes]:
    """Yield lines in UTF-8. A line above `line_max` bytes is cut off at some length above it.

    Raises UnicodeDecodeError for a file in UTF-16 that is not valid.
    """
    head = file.read(len(codecs.BOM_UTF8))
    for mark, encoding in _UTF16:
        if head.startswith(mark):
            file.seek(len(mark))
            text = io.TextIOWrapper(file, encoding, newline="\n")
            try:
                while line := text.readline(line_max + 1):
                    yield line.encode()
            finally:
                text.detach()  # the caller closes the file
            return
    if head != codecs.BOM_UTF8:
        file.seek(0)
    while raw := file.readline(line_max + 1):
        yield raw
