"""A clock that tests set by hand."""


class ManualClock:
    """A clock that stands still until `advance` is called."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        """Return the time in seconds that was set last."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += seconds
