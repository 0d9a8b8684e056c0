"""Bytes in texts: base64, and data: URIs (RFC 2397), which are accepted wherever base64 is."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from contracts.errors import RejectedRecord

# Characters of base64 that are decoded at a time. It takes 3 ms, in which no other thread runs.
_DECODED_CHARS = 1024 * 1024


def is_reference(image: str) -> bool:
    """Return whether `image` is a URL to read from, not base64 (no colon) and not a data: URI."""
    return ":" in image[:16] and not is_data_uri(image)


def is_data_uri(image: str) -> bool:
    """Return whether `image` is a data: URI (RFC 2397), whose scheme may be in capitals."""
    return image[:5].lower() == "data:"


def decode_base64(data: str, field: str) -> bytes:
    """Return the bytes of a base64 string or of a data: URI.

    Raises RejectedRecord: `invalid_base64`, or `invalid_data_uri`, naming `field`.
    """
    if is_data_uri(data):
        head, comma, body = data.partition(",")
        if not comma:
            raise RejectedRecord(
                "invalid_data_uri",
                f"{field}: a data: URI needs a comma before its data",
                field=field,
            )
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        data = unquote_to_bytes(body).decode("latin-1") if "%" in body else body
    try:
        return _decoded(data)
    except (binascii.Error, ValueError) as error:
        raise RejectedRecord(
            "invalid_base64", f"{field}: not base64 ({error})", field=field
        ) from None


def _decoded(data: str) -> bytes:
    """Decode in pieces. Raises binascii.Error and ValueError, as base64.b64decode does."""
    if len(data) <= _DECODED_CHARS:
        return base64.b64decode(data, validate=True)
    pieces: list[bytes] = []
    for start in range(0, len(data), _DECODED_CHARS):
        if pieces and len(pieces[-1]) < _DECODED_CHARS // 4 * 3:
            raise binascii.Error("padding before the end")
        pieces.append(base64.b64decode(data[start : start + _DECODED_CHARS], validate=True))
    return b"".join(pieces)
