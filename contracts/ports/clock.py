"""The port of the wall clock."""

from typing import Protocol


class Clock(Protocol):
    """A wall clock; tests set it by hand."""

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        ...
