"""Exponential backoff: the pause before another attempt."""

# Larger powers of two change nothing, and would overflow a float in the end.
_DOUBLINGS_MAX = 30


def backoff_s(failures: int, first_s: float, most_s: float) -> float:
    """Return the pause in seconds after this number of failures in a row.

    It begins with `first_s` and doubles with each failure, up to `most_s`.
    """
    return min(most_s, first_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
