"""A standing list: the best of all that matches a query, kept without searching. No I/O.

It holds exactly the items that match and come no later than its *bound*: the place, in the order
of an answer, behind which it has lost sight. An exact search sets the bound, at the last of what it
returned, or nowhere when that is all there is. From then on whatever is put in or taken out before
the bound is followed; what lies behind it cannot be in the list while enough stands before it. Once
fewer than k are left, only another search can tell the next one.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from contracts.hits import Hit

# Held beyond k, so that as many must go before the list has to be searched again: so many, and so
# many times k. And how far it grows before it is cut back to that.
_SPARE = 10
_SPARE_PER_K = 1
_GROWTH = 2

# Score negated, id: sorts in the order of an answer.
_Key = tuple[float, str]


class StandingList:
    """Of the best `k`; hits have scores, and ranks only where `top` gives them.

    `wanted` is how many hits `fill` should be given, if there are so many.
    """

    def __init__(self, k: int, wanted: int | None = None) -> None:
        self.k = k
        self.wanted = k + max(_SPARE_PER_K * k, _SPARE) if wanted is None else wanted
        self._keys: list[_Key] = []
        self._hits: dict[str, Hit] = {}
        # None: nothing that matches is left out.
        self._bound: _Key | None = None

    @property
    def floor(self) -> float:
        """The lowest score that can be of use."""
        return -np.inf if self._bound is None else -self._bound[0]

    @property
    def is_short(self) -> bool:
        """Whether one that it does not know belongs into the list."""
        return self._bound is not None and len(self._keys) < self.k

    @property
    def is_long(self) -> bool:
        """Whether it holds many more than it needs: then `cut` it."""
        return len(self._keys) > _GROWTH * self.wanted

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._hits

    def ids(self) -> list[str]:
        return list(self._hits)

    def top(self) -> list[Hit]:
        """The list itself."""
        return [
            replace(self._hits[item_id], rank=rank)
            for rank, (_, item_id) in enumerate(self._keys[: self.k], start=1)
        ]

    def fill(self, hits: Sequence[Hit]) -> None:
        """Begin anew with what an exact search for `wanted` hits returned, in its order."""
        self._keys = [(-hit.score, hit.id) for hit in hits]
        self._hits = {hit.id: hit for hit in hits}
        self._bound = self._keys[-1] if len(hits) >= self.wanted else None

    def remove(self, item_id: str) -> bool:
        """Take an item out; whether the list itself may have changed."""
        hit = self._hits.pop(item_id, None)
        if hit is None:
            return False
        place = bisect_left(self._keys, (-hit.score, item_id))
        del self._keys[place]
        return place < self.k

    def put(self, hit: Hit) -> bool:
        """Put in an item that matches and is not in it; whether the list itself changed."""
        key = (-hit.score, hit.id)
        if self._bound is not None and key > self._bound:
            return False
        place = bisect_left(self._keys, key)
        self._keys.insert(place, key)
        self._hits[hit.id] = hit
        return place < self.k

    def cut(self) -> list[str]:
        """Lose sight of what stands last; the ids of that."""
        gone = [item_id for _, item_id in self._keys[self.wanted :]]
        for item_id in gone:
            del self._hits[item_id]
        del self._keys[self.wanted :]
        self._bound = self._keys[-1]
        return gone
