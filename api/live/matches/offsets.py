"""Positions in the partitions of one topic. No I/O."""

from collections.abc import Iterable


class Offsets(tuple[int, ...]):
    """The offset of the next record to read, for each partition of one topic in its order."""

    __slots__ = ()

    def least(self, other: Iterable[int]) -> "Offsets":
        """Return the earlier position in each partition."""
        return Offsets(min(*pair) for pair in zip(self, other, strict=True))

    def advance_to(self, other: Iterable[int]) -> "Offsets":
        """Return the later position in each partition."""
        return Offsets(max(*pair) for pair in zip(self, other, strict=True))

    def distance(self, other: Iterable[int]) -> int:
        """Return how many records lie between the two positions."""
        return sum(abs(mine - theirs) for mine, theirs in zip(self, other, strict=True))
