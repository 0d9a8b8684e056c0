"""A standing list: the best of all that matches a query, kept without searching. No I/O.

It holds exactly the items that match and come no later than its *bound*: the place, in the order
of an answer, behind which it has lost sight. An exact search sets the bound, at the last of what it
returned, or nowhere when that is all there is. From then on whatever is put in or taken out before
the bound is followed; what lies behind it cannot be in the list while enough stands before it. Once
fewer than k are left, only another search can tell the next one.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

# Held beyond k, so that as many must go before the list has to be searched again: so many, and so
# many times k. And how far it grows before it is cut back to that: where as many come as go, one of
# 10 is searched after 240 of them; it would be 350 with twice, at a quarter more memory.
_SPARE = 10
_SPARE_PER_K = 1
_GROWTH = 1.5


class Identified(Protocol):
    """Whatever stands for an item."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Identified)
U = TypeVar("U", bound=Identified)


class StandingList(Generic[T]):
    """Of the best `k` that score `least` or more.

    `wanted` is how many items `fill` should be given, if there are so many.
    """

    __slots__ = ("_bound", "_items", "_least", "_negated", "k", "wanted")

    def __init__(self, k: int, wanted: int | None = None, least: float | None = None) -> None:
        self.k = k
        self.wanted = k + max(_SPARE_PER_K * k, _SPARE) if wanted is None else wanted
        self._least = -np.inf if least is None else least
        # Scores negated, side by side with the items: ascending is the order of an answer, in which
        # equal scores are ordered by id.
        self._negated = array("d")
        self._items: list[T] = []
        # None: nothing that matches is left out.
        self._bound: tuple[float, str] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def floor(self) -> float:
        """The lowest score that can be of use."""
        return self._least if self._bound is None else max(self._least, -self._bound[0])

    @property
    def is_short(self) -> bool:
        """Whether one that it does not know belongs into the list."""
        return self._bound is not None and len(self._items) < self.k

    @property
    def is_long(self) -> bool:
        """Whether it holds many more than it needs: then `cut` it."""
        return len(self._items) > _GROWTH * self.wanted

    def items(self) -> list[T]:
        """All that it holds, the list itself first."""
        return self._items.copy()

    def top(self) -> list[tuple[float, T]]:
        """The list itself: scores and items."""
        scores = [-negated for negated in self._negated[: self.k]]
        return list(zip(scores, self._items[: self.k], strict=True))

    def fill(self, scores: Sequence[float], items: Sequence[T]) -> None:
        """Begin anew with what an exact search for `wanted` hits returned, in its order."""
        self._negated = array("d", [-score for score in scores])
        self._items = list(items)
        self._bound = self._last() if len(items) >= self.wanted else None

    def with_items(self, replaced: Callable[[T], U]) -> "StandingList[U]":
        """The same list, in which something else stands for each item."""
        other: StandingList[U] = StandingList(self.k, self.wanted, self._least)
        other._negated = self._negated[:]
        other._items = [replaced(item) for item in self._items]
        other._bound = self._bound
        return other

    def clear(self) -> None:
        self.fill((), ())

    def admits(self, score: float, item_id: str) -> bool:
        """Whether an item that matches comes before the bound."""
        return self._bound is None or (-score, item_id) <= self._bound

    def put(self, score: float, item: T) -> bool:
        """Put in an item that is admitted and not in it; whether the list itself changed."""
        place = bisect_left(self._negated, -score)
        while (
            place < len(self._items)
            and self._negated[place] == -score
            and self._items[place].id < item.id
        ):
            place += 1
        self._negated.insert(place, -score)
        self._items.insert(place, item)
        return place < self.k

    def remove(self, item_id: str) -> bool:
        """Take out an item that it holds; whether the list itself changed."""
        place = next(place for place, item in enumerate(self._items) if item.id == item_id)
        del self._negated[place], self._items[place]
        return place < self.k

    def cut(self) -> list[T]:
        """Lose sight of what stands last, and return it."""
        gone = self._items[self.wanted :]
        del self._negated[self.wanted :], self._items[self.wanted :]
        self._bound = self._last()
        return gone

    def _last(self) -> tuple[float, str]:
        return self._negated[-1], self._items[-1].id
