"""The pause before something that failed is tried again."""

# Beyond it a power of two says nothing more, and a float of it overflows at last.
_DOUBLINGS_MAX = 30


def pause_after(failures: int, first_s: float, most_s: float) -> float:
    """Return the pause after so many failures in a row: twice as long each time, up to `most_s`."""
    return min(most_s, first_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
