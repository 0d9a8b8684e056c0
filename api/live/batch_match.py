"""Matching a batch of new items against standing queries and alerts. No I/O."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from api.queries.prepare import PreparedQuery
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch, Matcher
from contracts.score import Vectors, exact_pair_scores

_ROWS_FIRST = 16
# Evaluations of filters on items for which the event loop has time: 10 ms.
FILTER_EVALUATIONS_MAX = 8192
# Pairs that are converted to float64 at a time: 64 MB at 512 dimensions.
_SCORED_AT_ONCE = 8192


class HasQuery(Protocol):
    """A standing query or an alert, which is matched with batches."""

    query: PreparedQuery


_Owner = TypeVar("_Owner", bound=HasQuery)


class MatchBatch:
    """An applied batch, with the hits of its items, each of which is made at most once.

    `number` counts the batches in the order of the log.
    """

    def __init__(self, applied: AppliedBatch, matcher: Matcher, number: int = 0) -> None:
        self.applied = applied
        self.number = number
        # The rows that it counts for while it waits or is kept.
        self.rows = 1 + len(applied.upserted) + len(applied.removed)
        self._matcher = matcher
        self._hits: dict[int, Hit] = {}

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids of all items that were put in or removed."""
        return frozenset(self.applied.upserted).union(self.applied.removed)

    def hit(self, number: int) -> Hit:
        """Return the n-th upserted item with its vector; each call returns the same object."""
        found = self._hits.get(number)
        if found is None:
            found = self._hits[number] = self.applied.hit(number)
        return found

    def scored(self, number: int, score: float, *, with_vector: bool) -> Hit:
        """Return the n-th upserted item as a new hit with its score for a query."""
        found = self.hit(number)
        # Written out, since dataclasses.replace takes three times as long.
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

    def matches(
        self,
        view: "QueryMatrixView[_Owner]",
        matches_max: int | None = None,
        evaluations_max: int | None = None,
    ) -> "Matches[_Owner]":
        """Find the upserted items that match each query and reach its floor. Runs in any thread.

        If that would be more than `matches_max` pairs, the owners with the most pairs are left out.
        If filters would be evaluated more than about `evaluations_max` times, the last owners are
        left out.
        """
        owners, queries, floors, filtered = view
        vectors = self.applied.vectors
        if not len(queries) or not len(vectors):
            return Matches(owners, [])
        of, row = self._matcher.nominate(queries, floors, vectors)
        # First the cheapest step. A list that is not full has no floor, so that all rows of every
        # batch are paired with it, and a filter admits few of them.
        left_out: list[_Owner] = []
        if filtered[of].any():
            kept = self._admitted(owners, of, row, left_out, evaluations_max)
            of, row = of[kept], row[kept]
        if matches_max is not None and len(of) > matches_max:
            counts = np.bincount(of, minlength=len(owners))
            lightest = np.argsort(counts, kind="stable")
            heavy = np.zeros(len(owners), np.bool_)
            heavy[lightest[np.cumsum(counts[lightest]) > matches_max]] = True
            left_out += [owners[n] for n in np.flatnonzero(heavy).tolist()]
            of, row = of[~heavy[of]], row[~heavy[of]]
        return Matches(owners, self._scored_pairs(queries, floors, of, row), left_out)

    def _scored_pairs(
        self,
        queries: NDArray[np.float32],
        floors: NDArray[np.float64],
        of: NDArray[np.intp],
        row: NDArray[np.intp],
    ) -> list[tuple[NDArray[Any], ...]]:
        """Return the pairs that reach the floor, with their exact scores, in several columns."""
        found: list[tuple[NDArray[Any], ...]] = []
        for start in range(0, len(of), _SCORED_AT_ONCE):
            some, those = (side[start : start + _SCORED_AT_ONCE] for side in (of, row))
            scores = exact_pair_scores(queries[some], self.applied.vectors[those])
            near = np.flatnonzero(scores >= floors[some])
            found.append((some[near], those[near], scores[near]))
        return found

    def _admitted(
        self,
        owners: Sequence[_Owner],
        of: NDArray[np.intp],
        row: NDArray[np.intp],
        left_out: list[_Owner],
        evaluations_max: int | None,
    ) -> NDArray[np.bool_]:
        """Return a mask of the pairs that the owners' filters admit.

        Each filter is evaluated at most once a row, and only on rows that are paired with one of
        its owners: with high floors these are few.
        """
        known: dict[object, NDArray[np.int8]] = {}
        evaluations = 0
        kept = np.ones(len(of), np.bool_)
        # Pairs come in the order of their queries.
        starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]).tolist()
        for start, end in pairwise([*starts, len(of)]):
            condition = owners[of[start]].query.filter
            if condition is None:
                continue
            admits = known.get(condition.key)
            if admits is None:
                admits = known[condition.key] = np.full(len(self.applied.upserted), -1, np.int8)
            rows = row[start:end]
            new = rows[admits[rows] < 0].tolist()
            cost = len(new) * len(condition.fields())
            over = evaluations_max is not None and evaluations + cost > evaluations_max
            if over and evaluations:
                left_out.append(owners[of[start]])
                kept[start:end] = False
                continue
            evaluations += cost
            for n in new:
                admits[n] = condition.matches(self.hit(n).metadata or {})
            kept[start:end] = admits[rows] == 1
        return kept


class Matches(Generic[_Owner]):
    """Triples of an owner, the number of an item that matches, and its score.

    `left_out` holds the owners whose matches are not among them.
    """

    def __init__(
        self,
        owners: Sequence[_Owner],
        found: Sequence[tuple[NDArray[Any], ...]],
        left_out: Sequence[_Owner] = (),
    ) -> None:
        self._owners = owners
        self._found = found
        self.left_out = left_out

    def __iter__(self) -> Iterator[tuple[_Owner, int, float]]:
        for some in self._found:
            # As lists: numpy's own numbers are slow one by one.
            for of, number, score in zip(*(column.tolist() for column in some), strict=True):
                yield self._owners[of], number, score


class QueryMatrixView(NamedTuple, Generic[_Owner]):
    """The rows of a matrix at one moment.

    While nothing is put into the matrix they stay, but for rows that are removed meanwhile.
    """

    owners: Sequence[_Owner]
    vectors: NDArray[np.float32]
    floors: NDArray[np.float64]
    filtered: NDArray[np.bool_]


class QueryMatrix(Generic[_Owner]):
    """The vectors and floors of one target's queries, dense, as the matcher needs them."""

    def __init__(self) -> None:
        self._owners: list[_Owner] = []
        self._row_of: dict[_Owner, int] = {}
        # Float32, which the product takes: to convert the vectors for each batch would take as long
        # as the product.
        self._vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._floors: NDArray[np.float64] = np.empty(0)
        # Whether the owner has a filter.
        self._filtered: NDArray[np.bool_] = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def filtered(self) -> int:
        """The number of owners that have a filter."""
        return int(np.count_nonzero(self._filtered[: len(self)]))

    def view(self) -> QueryMatrixView[_Owner]:
        """Return the rows as they are now."""
        vectors, floors, filtered = (column[: len(self)] for column in self._columns())
        return QueryMatrixView(self._owners.copy(), vectors, floors, filtered)

    def put(self, owner: _Owner, vector: Vectors, floor: float) -> None:
        """Add a row for an owner that has none."""
        row = self._row_of[owner] = len(self)
        self._owners.append(owner)
        if row >= len(self._vectors):
            self._grow(len(vector))
        self._vectors[row] = vector
        self._floors[row] = floor
        self._filtered[row] = owner.query.filter is not None

    def raise_floor(self, owner: _Owner, floor: float) -> None:
        """Set the lowest score that is of use to an owner."""
        self._floors[self._row_of[owner]] = floor

    def remove(self, owner: _Owner) -> None:
        """Remove the owner's row if there is one.

        The last row moves to its position, and its old position keeps its content for views.
        """
        row = self._row_of.pop(owner, None)
        if row is None:
            return
        last = self._owners.pop()
        if last is not owner:
            moved = len(self)
            self._owners[row] = last
            self._row_of[last] = row
            for column in self._columns():
                column[row] = column[moved]

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self._vectors, self._floors, self._filtered

    def _grow(self, dim: int) -> None:
        used, before = len(self._floors), self._columns()
        size = max(_ROWS_FIRST, 2 * used)
        # Zeros take no memory until they are written to.
        self._vectors = np.zeros((size, dim), np.float32)
        self._floors, self._filtered = np.zeros(size), np.zeros(size, np.bool_)
        if used:
            for column, written in zip(self._columns(), before, strict=True):
                column[:used] = written
