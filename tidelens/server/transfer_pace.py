"""Decides whether bytes move fast enough for a client to keep its connection. No I/O."""


class TransferRate:
    """Requires a number of bytes in each window of time.

    A limit on the whole time would cut off large bodies on slow lines; one on silence alone would
    let a client that sends a byte a second hold its memory for months.
    """

    def __init__(self, window_s: float, bytes_per_s_min: float) -> None:
        self._window_s = window_s
        self._rate = bytes_per_s_min
        self._began = 0.0
        self._moved = 0

    def start(self, now: float) -> None:
        """Begin a new window."""
        self._began, self._moved = now, 0

    def moved(self, count: int) -> None:
        self._moved += count

    def too_slow(self, now: float) -> bool:
        """Whether the window has ended with too little; otherwise the next one may begin."""
        if now - self._began <= self._window_s:
            return False
        if self._moved < self._rate * self._window_s:
            return True
        self.start(now)
        return False

    def behind(self, now: float, grace_s: float) -> bool:
        """Whether, past `grace_s` of its window, fewer bytes have moved than the rate asks for."""
        elapsed = now - self._began
        return elapsed > grace_s and self._moved < self._rate * elapsed


class SendProgress:
    """Decides by looks at the send buffer's size whether a client reads its answers."""

    def __init__(self, window_s: float, bytes_per_s_min: float) -> None:
        self._pace = TransferRate(window_s, bytes_per_s_min)
        self._size = 0

    def emptied(self) -> None:
        """Note that the buffer is nearly empty, so that the next look begins a new window."""
        self._size = 0

    def stuck(self, size: int, now: float) -> bool:
        before, self._size = self._size, size
        if not size:
            return False
        if not before:
            self._pace.start(now)
        # Where new answers were written meanwhile, the client took more than is seen here.
        self._pace.moved(max(0, before - size))
        return self._pace.too_slow(now)
