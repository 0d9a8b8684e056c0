"""Standing queries and what an applied batch may change in them. No I/O.

A standing list is what an exact search returned at one state, its *cursor*. After a batch it may
differ from what a search would return now only if

- an item of the list was put in anew or taken out, or
- an item that was put in scores at or above the list's *floor*: the score of its last hit when it
  is full, else whatever the query's `min_score` lets in.

Everything else that happened lies below the list. Such a list is marked *dirty*, to be searched
again; that is all that is decided here. While a search for it runs, list and floor are those of
the past and say nothing about batches of now, so any batch at all marks it (it is *unsettled*).
Marking too often costs a search whose answer differs in nothing, and nothing is sent for it.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from api.queries import ItemRef, Question
from contracts.messages import WireHit
from contracts.ports import Applied, Matcher
from contracts.score import Vectors
from contracts.topics import Target

_ROWS_FIRST = 16


class Standing:
    """One standing query: what its last search found, and whether that may be out of date.

    `wake` is called when it becomes dirty.
    """

    def __init__(self, question: Question, wake: Callable[[], None]) -> None:
        self.question = question
        self.wake = wake
        self.dirty = False
        # Append time of the oldest record that made it dirty, where that is known.
        self.since_ms: int | None = None
        self._hits: Sequence[WireHit] = []
        self._vector: Vectors | None = None

    @property
    def target(self) -> Target:
        return self.question.target

    @property
    def vector(self) -> Vectors:
        assert self._vector is not None, "want a settled standing query, got one never searched"
        return self._vector

    @property
    def floor(self) -> float:
        """The lowest score that can still enter."""
        if len(self._hits) >= self.question.k:
            return float(self._hits[-1]["score"])
        least = self.question.min_score
        return -np.inf if least is None else least

    @property
    def items(self) -> set[ItemRef]:
        """The items whose every change concerns this list: its own, and those it asks by."""
        return {
            *(ItemRef(self.target, hit["id"]) for hit in self._hits),
            *self.question.items,
        }

    def found(self, vector: Vectors, hits: Sequence[WireHit]) -> None:
        """Take over what a search with `vector` returned."""
        self._vector = vector
        self._hits = hits

    def mark(self, since_ms: int | None = None) -> None:
        if self.since_ms is None:
            self.since_ms = since_ms
        if not self.dirty:
            self.dirty = True
            self.wake()


class StandingSet:
    """All standing queries of one node, and the matching of batches against them."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._all: set[Standing] = set()
        self._unsettled: set[Standing] = set()
        self._by_item: dict[ItemRef, set[Standing]] = {}
        self._items_of: dict[Standing, set[ItemRef]] = {}
        self._rows: dict[Target, _Rows] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, standing: Standing) -> None:
        """Register, before the first search: from here on no batch goes unnoticed."""
        self._all.add(standing)
        self._unsettled.add(standing)
        self._interest(standing, set(standing.question.items))
        standing.mark()

    def remove(self, standing: Standing) -> None:
        self._all.discard(standing)
        self._unsettled.discard(standing)
        self._interest(standing, set())
        if standing.target in self._rows:
            self._rows[standing.target].remove(standing)

    def begin(self, standing: Standing) -> None:
        """A search for it starts: it sees all batches so far, and any later one marks it again."""
        standing.dirty = False
        standing.since_ms = None
        if standing in self._all:
            self._unsettled.add(standing)

    def settle(self, standing: Standing, vector: Vectors, hits: Sequence[WireHit]) -> None:
        """Its search found `hits`: match batches against those from now on."""
        standing.found(vector, hits)
        if standing not in self._all:
            return
        self._unsettled.discard(standing)
        self._interest(standing, standing.items)
        rows = self._rows.setdefault(standing.target, _Rows())
        rows.put(standing, standing.vector, standing.floor)

    def applied(self, batches: Iterable[Applied]) -> None:
        """Mark every standing query that the batches may have changed."""
        for batch in batches:
            for standing in list(self._unsettled):
                standing.mark(batch.appended_ms)
            for item_id in (*batch.upserted, *batch.removed):
                for standing in self._by_item.get(ItemRef(batch.target, item_id), ()):
                    standing.mark(batch.appended_ms)
            rows = self._rows.get(batch.target)
            if rows is not None and len(batch.upserted):
                for standing in rows.nominated(self._matcher, batch.vectors):
                    standing.mark(batch.appended_ms)

    def mark_all(self) -> None:
        """The state became another one altogether: none of the lists holds."""
        for standing in list(self._all):
            standing.mark()

    def _interest(self, standing: Standing, items: set[ItemRef]) -> None:
        before = self._items_of.pop(standing, set())
        for item in before - items:
            holders = self._by_item[item]
            holders.discard(standing)
            if not holders:
                del self._by_item[item]
        for item in items - before:
            self._by_item.setdefault(item, set()).add(standing)
        if items:
            self._items_of[standing] = items


class _Rows:
    """Vectors and floors of one target's standing queries, dense, as the matcher wants them."""

    def __init__(self) -> None:
        self._owners: list[Standing] = []
        self._row_of: dict[Standing, int] = {}
        self._vectors: Vectors = np.empty((0, 0), np.float16)
        self._floors: NDArray[np.float64] = np.empty(0)

    def put(self, standing: Standing, vector: Vectors, floor: float) -> None:
        row = self._row_of.get(standing)
        if row is None:
            row = len(self._owners)
            self._owners.append(standing)
            self._row_of[standing] = row
            if row >= len(self._vectors):
                self._grow(len(vector))
        self._vectors[row] = vector
        self._floors[row] = floor

    def remove(self, standing: Standing) -> None:
        """The last row takes the place of the one that goes."""
        row = self._row_of.pop(standing, None)
        if row is None:
            return
        last = self._owners.pop()
        if last is not standing:
            moved = len(self._owners)
            self._owners[row] = last
            self._row_of[last] = row
            self._vectors[row] = self._vectors[moved]
            self._floors[row] = self._floors[moved]

    def nominated(self, matcher: Matcher, vectors: Vectors) -> list[Standing]:
        count = len(self._owners)
        if not count:
            return []
        found = matcher.nominate(self._vectors[:count], self._floors[:count], vectors)
        return [self._owners[row] for row in found]

    def _grow(self, dim: int) -> None:
        size = max(_ROWS_FIRST, 2 * len(self._vectors))
        vectors = np.zeros((size, dim), np.float16)
        floors = np.full(size, np.inf)
        used = len(self._floors)
        if used:
            vectors[:used], floors[:used] = self._vectors, self._floors
        self._vectors, self._floors = vectors, floors
