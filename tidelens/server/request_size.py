"""The size of a request while it arrives, and the refusal of one that is too large. No I/O."""

from collections.abc import Sized

from tidelens.server.error_answers import Refusal, too_large

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 256
# A chunked body may take this many times its own bytes, with extensions, trailers and small chunks.
_FRAMING_FACTOR = 8


class RequestSize:
    """Bytes of the request that is arriving: its header, its body, and its body with framing."""

    def __init__(self) -> None:
        self.head_bytes = 0
        self._body_bytes = self._raw_bytes = 0

    def start_body(self) -> None:
        """Begin to count a body: the header has arrived whole."""
        self.head_bytes = self._body_bytes = self._raw_bytes = 0

    def add_body(self, count: int) -> None:
        """Count bytes of the body without its framing."""
        self._body_bytes += count

    def add_framed(self, count: int) -> Refusal | None:
        """Count bytes of the body with its framing; return why they are too many, or None."""
        self._raw_bytes += count
        if self._raw_bytes > HEAD_BYTES_MAX + _FRAMING_FACTOR * self._body_bytes:
            return too_large("a chunked body's framing", HEAD_BYTES_MAX)
        return None

    def add_head(self, count: int, headers: Sized | None) -> Refusal | None:
        """Count bytes of an unfinished header; return why it is too large, or None."""
        self.head_bytes += count
        if self.head_bytes > HEAD_BYTES_MAX:
            return too_large("the header", HEAD_BYTES_MAX)
        return too_many_headers(headers) if headers is not None else None


def too_many_headers(headers: Sized) -> Refusal | None:
    """Return the refusal of a request with more than HEADERS_MAX headers, or None."""
    return too_large("headers", HEADERS_MAX) if len(headers) > HEADERS_MAX else None
