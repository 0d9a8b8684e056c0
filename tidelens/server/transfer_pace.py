"""Minimum rates at which a client must send its bodies and read its answers. No I/O."""


class TransferRate:
    """A number of bytes that must move in each window of time.

    A limit on the whole time would cut off large bodies on slow lines. A limit on silence alone
    would let a client that sends a byte a second occupy memory for months.
    """

    def __init__(self, window_s: float, bytes_per_s_min: float) -> None:
        self._window_s = window_s
        self._bytes_per_s_min = bytes_per_s_min
        self._began = 0.0
        self._moved = 0

    def start(self, now: float) -> None:
        """Begin a new window."""
        self._began, self._moved = now, 0

    def moved(self, count: int) -> None:
        """Count bytes that have moved."""
        self._moved += count

    def too_slow(self, now: float) -> bool:
        """Return whether the window has ended with too few bytes; begin the next if with enough."""
        if now - self._began <= self._window_s:
            return False
        if self._moved < self._bytes_per_s_min * self._window_s:
            return True
        self.start(now)
        return False

    def behind(self, now: float, grace_s: float) -> bool:
        """Return whether, past `grace_s` of its window, fewer bytes have moved than required."""
        elapsed = now - self._began
        return elapsed > grace_s and self._moved < self._bytes_per_s_min * elapsed


class SendProgress:
    """A client's reading of its answers, judged by the size of the send buffer."""

    def __init__(self, window_s: float, bytes_per_s_min: float) -> None:
        self._rate = TransferRate(window_s, bytes_per_s_min)
        self._size = 0

    def emptied(self) -> None:
        """Record that the buffer is nearly empty, so that the next check begins a new window."""
        self._size = 0

    def stuck(self, size: int, now: float) -> bool:
        """Return whether too little was read of a buffer that now has `size` bytes."""
        before, self._size = self._size, size
        if not size:
            return False
        if not before:
            self._rate.start(now)
        # If new answers were written in the meantime, the client read more than this difference.
        self._rate.moved(max(0, before - size))
        return self._rate.too_slow(now)
