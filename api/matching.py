"""What matching a batch against standing queries looks things up in. No I/O."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from api.queries import Question
from contracts.hits import Hit
from contracts.ports import Applied, Matcher
from contracts.score import Vectors

_ROWS_FIRST = 16
# Pairs: bounds what is converted to float64 at a time (64 MB at 512 dimensions).
_SCORED_AT_ONCE = 8192


class Asking(Protocol):
    """Whatever is matched with batches."""

    question: Question


_Owner = TypeVar("_Owner", bound=Asking)


class Batch:
    """An applied batch, with what is looked up in it at most once."""

    def __init__(self, applied: Applied, matcher: Matcher) -> None:
        self.applied = applied
        # What it counts for while it is kept.
        self.rows = 1 + len(applied.upserted) + len(applied.removed)
        self._matcher = matcher
        self._hits: dict[int, Hit] = {}

    @cached_property
    def ids(self) -> frozenset[str]:
        """Of all items that were put in or taken out."""
        return frozenset(self.applied.upserted).union(self.applied.removed)

    def hit(self, number: int) -> Hit:
        """An item put in, with its vector: the same object whoever asks."""
        found = self._hits.get(number)
        if found is None:
            found = self._hits[number] = self.applied.hit(number)
        return found

    def scored(self, number: int, score: float, *, with_vector: bool) -> Hit:
        """The same as a hit of its own, of a search for a query."""
        found = self.hit(number)
        # By hand: dataclasses.replace takes three times as long.
        return Hit(
            found.target,
            found.id,
            0,
            score,
            found.source,
            found.item,
            found.text,
            found.metadata,
            found.vector if with_vector else None,
        )

    def entering(self, rows: "Rows[_Owner]") -> Iterator[tuple[_Owner, int, float]]:
        """Numbers of the items put in that match a query and reach its floor, with their score.

        Floors may rise meanwhile; which rows there are must stay.
        """
        vectors = self.applied.vectors
        if not len(rows) or not len(vectors):
            return
        queries, floors = rows.vectors, rows.floors
        pairs = self._matcher.nominate(queries, floors, vectors)
        admitted: dict[object, NDArray[np.bool_]] = {}
        for start in range(0, len(pairs[0]), _SCORED_AT_ONCE):
            of, row = (side[start : start + _SCORED_AT_ONCE] for side in pairs)
            # First what costs least. A list that is not full has no floor, so that all rows of
            # every batch are paired with it, and a filter leaves few.
            if rows.filtered[of].any():
                kept = self._admitted(rows.owners, of, row, admitted)
                of, row = of[kept], row[kept]
            # Float32 holds float16 numbers as they are, and the sum is exact in any order.
            scores = np.einsum(
                "ij,ij->i", queries[of].astype(np.float64), vectors[row].astype(np.float64)
            )
            near = np.flatnonzero(scores >= floors[of])
            # As lists: numpy's own numbers are slow one by one.
            found = (side[near].tolist() for side in (of, row, scores))
            for query, number, score in zip(*found, strict=True):
                yield rows.owners[query], number, score

    def _admitted(
        self,
        owners: Sequence[Asking],
        of: NDArray[np.intp],
        row: NDArray[np.intp],
        known: dict[object, NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """Which pairs the owners' filters let through; each filter looks at a row once."""
        kept = np.ones(len(of), np.bool_)
        # Pairs come in the order of their queries.
        starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]).tolist()
        for start, end in pairwise([*starts, len(of)]):
            condition = owners[of[start]].question.filter
            if condition is None:
                continue
            lets = known.get(condition.key)
            if lets is None:
                numbers = range(len(self.applied.upserted))
                lets = known[condition.key] = np.array(
                    [condition.matches(self.hit(n).metadata or {}) for n in numbers], np.bool_
                )
            kept[start:end] = lets[row[start:end]]
        return kept


class Rows(Generic[_Owner]):
    """What one target's standing queries are matched by, dense, as the matcher wants it."""

    def __init__(self) -> None:
        self.owners: list[_Owner] = []
        self._row_of: dict[_Owner, int] = {}
        # Float32, which the product takes: to widen them for each batch would cost as much as it.
        self._vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._floors: NDArray[np.float64] = np.empty(0)
        self._filtered: NDArray[np.bool_] = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def vectors(self) -> NDArray[np.float32]:
        return self._vectors[: len(self)]

    @property
    def floors(self) -> NDArray[np.float64]:
        return self._floors[: len(self)]

    @property
    def filtered(self) -> NDArray[np.bool_]:
        """Who has a filter."""
        return self._filtered[: len(self)]

    def put(self, owner: _Owner, vector: Vectors, floor: float) -> None:
        """One that is not among them."""
        row = self._row_of[owner] = len(self)
        self.owners.append(owner)
        if row >= len(self._vectors):
            self._grow(len(vector))
        self._vectors[row] = vector
        self._floors[row] = floor
        self._filtered[row] = owner.question.filter is not None

    def raise_floor(self, owner: _Owner, floor: float) -> None:
        self._floors[self._row_of[owner]] = floor

    def remove(self, owner: _Owner) -> None:
        """The last row takes the place of the one that goes."""
        row = self._row_of.pop(owner, None)
        if row is None:
            return
        last = self.owners.pop()
        if last is not owner:
            moved = len(self)
            self.owners[row] = last
            self._row_of[last] = row
            for column in self._columns():
                column[row] = column[moved]

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self._vectors, self._floors, self._filtered

    def _grow(self, dim: int) -> None:
        used, before = len(self._floors), self._columns()
        size = max(_ROWS_FIRST, 2 * used)
        # Zeros, which take no memory until they are written to.
        self._vectors = np.zeros((size, dim), np.float32)
        self._floors, self._filtered = np.zeros(size), np.zeros(size, np.bool_)
        if used:
            for column, written in zip(self._columns(), before, strict=True):
                column[:used] = written
