"""A standing list: the best of all items that match a query, kept exact without searching. No I/O.

It holds exactly the items that match and rank no later than its *bound*, the score and id of an
item. An exact search sets the bound at the last item that it returned, or leaves it open if it
returned all that match. From then on the list follows whatever is put in or removed before the
bound. An item after the bound cannot be among the best k while k items are left before it. If fewer
are left, only another search finds the next one.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from api.live.limits import ListLimits

_DEFAULT_LIMITS = ListLimits()
# A list grows to this multiple of `wanted` before it is trimmed to `wanted`. If as many items come
# as go, a list of 10 is searched after 240 of them; with twice `wanted` it would be searched after
# 350, and take a quarter more memory.
_GROWTH = 1.5


class Identified(Protocol):
    """An object that stands for an item."""

    @property
    def id(self) -> str:
        """The item's id."""
        ...


T = TypeVar("T", bound=Identified)
U = TypeVar("U", bound=Identified)


class StandingList(Generic[T]):
    """The best `k` items that score `min_score` or more, and spare ones after them.

    `wanted` is the number of items that `replace_all` should be given, if as many match.
    """

    __slots__ = ("_bound", "_items", "_min_score", "_negated", "k", "wanted")

    def __init__(self, k: int, wanted: int | None = None, min_score: float | None = None) -> None:
        self.k = k
        self.wanted = _DEFAULT_LIMITS.wanted(k) if wanted is None else wanted
        self._min_score = -np.inf if min_score is None else min_score
        # Negated scores, in the order of the items: ascending is the order of an answer, in which
        # items with equal scores are ordered by id.
        self._negated = array("d")
        self._items: list[T] = []
        # None: the list holds all items that match.
        self._bound: tuple[float, str] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def floor(self) -> float:
        """The lowest score with which a new item can enter the list."""
        return self._min_score if self._bound is None else max(self._min_score, -self._bound[0])

    @property
    def is_short(self) -> bool:
        """Return whether the best `k` may include an item that it does not hold.

        Then only a search finds the rest of them.
        """
        return self._bound is not None and len(self._items) < self.k

    @property
    def is_long(self) -> bool:
        """Return whether it holds many more items than it needs, so that `trim` is due."""
        return len(self._items) > _GROWTH * self.wanted

    def items(self) -> list[T]:
        """Return all items in rank order, with the spare ones."""
        return self._items.copy()

    def top(self) -> list[tuple[float, T]]:
        """Return the best `k` in rank order: scores and items."""
        scores = [-negated for negated in self._negated[: self.k]]
        return list(zip(scores, self._items[: self.k], strict=True))

    def replace_all(self, scores: Sequence[float], items: Sequence[T]) -> None:
        """Take what an exact search for `wanted` hits returned, in its order."""
        self._negated = array("d", [-score for score in scores])
        self._items = list(items)
        self._bound = self._last() if len(items) >= self.wanted else None

    def map_items(self, replaced: Callable[[T], U]) -> "StandingList[U]":
        """Return an equal list in which each item is replaced by the result of `replaced`."""
        other: StandingList[U] = StandingList(self.k, self.wanted, self._min_score)
        other._negated = self._negated[:]
        other._items = [replaced(item) for item in self._items]
        other._bound = self._bound
        return other

    def clear(self) -> None:
        """Remove all items, and the bound."""
        self.replace_all((), ())

    def admits(self, score: float, item_id: str) -> bool:
        """Return whether an item that matches ranks no later than the bound."""
        return self._bound is None or (-score, item_id) <= self._bound

    def put(self, score: float, item: T) -> bool:
        """Insert an admitted item that is not in the list; return whether the best `k` changed."""
        row = bisect_left(self._negated, -score)
        while (
            row < len(self._items)
            and self._negated[row] == -score
            and self._items[row].id < item.id
        ):
            row += 1
        self._negated.insert(row, -score)
        self._items.insert(row, item)
        return row < self.k

    def remove(self, item_id: str) -> bool:
        """Remove an item that is in the list, and return whether the best `k` changed."""
        row = next(row for row, item in enumerate(self._items) if item.id == item_id)
        del self._negated[row], self._items[row]
        return row < self.k

    def trim(self) -> list[T]:
        """Shorten the list to `wanted` items, and return the items that were removed."""
        gone = self._items[self.wanted :]
        del self._negated[self.wanted :], self._items[self.wanted :]
        self._bound = self._last()
        return gone

    def _last(self) -> tuple[float, str]:
        return self._negated[-1], self._items[-1].id
