"""The short stay of a refused client, in which it may read the reason.

A connection that is closed while bytes of the client are in transit is reset, and the reset may
overtake the answer. The server therefore reads on, discards what it reads, and closes later.
"""

from tidelens.server.request_size import HEAD_BYTES_MAX

# Seconds that a refused client has to read the reason.
LINGER_S = 1.0


class Lingering:
    """The bytes that one refused connection has sent since, and the time that it has stayed."""

    def __init__(self) -> None:
        self._discarded_bytes = 0
        self._first_check_s: float | None = None

    def discard(self, count: int) -> bool:
        """Count `count` discarded bytes; return True if the client has sent more than it may."""
        self._discarded_bytes += count
        return self._discarded_bytes > HEAD_BYTES_MAX

    def is_over(self, now: float) -> bool:
        """Return True once LINGER_S have passed since the first call; `now` is in seconds."""
        if self._first_check_s is None:
            self._first_check_s = now
        return now - self._first_check_s > LINGER_S
