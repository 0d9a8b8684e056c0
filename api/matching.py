"""What matching a batch against standing queries looks things up in. No I/O."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from api.queries import Question
from api.standing import Standing
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


class Holders:
    """Whose list holds an item: mostly one or none, and a set takes 200 bytes."""

    def __init__(self) -> None:
        self._of: dict[str, Standing | set[Standing]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, item_id: str) -> Sequence[Standing]:
        found = self._of.get(item_id)
        if found is None:
            return ()
        return [found] if isinstance(found, Standing) else list(found)

    def add(self, standing: Standing, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            found = self._of.setdefault(item_id, standing)
            if isinstance(found, set):
                found.add(standing)
            elif found is not standing:
                self._of[item_id] = {found, standing}

    def discard(self, standing: Standing, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            found = self._of.get(item_id)
            if isinstance(found, set):
                found.discard(standing)
                if len(found) == 1:
                    [self._of[item_id]] = found
            elif found is standing:
                del self._of[item_id]


class Batch:
    """An applied batch, with what is looked up in it at most once."""

    def __init__(self, applied: Applied, matcher: Matcher) -> None:
        self.applied = applied
        # What it counts for while it is kept.
        self.rows = 1 + len(applied.upserted) + len(applied.removed)
        self._matcher = matcher
        self._hits: dict[int, Hit] = {}

    def entering(
        self,
        owners: Sequence[_Owner],
        queries: NDArray[np.float32],
        floors: NDArray[np.float64],
    ) -> Iterator[tuple[_Owner, Hit]]:
        """Of the items put in, those that match a query and reach its floor, with their score.

        Floors may rise meanwhile; the owners of queries must stay.
        """
        vectors = self.applied.vectors
        if not len(queries) or not len(vectors):
            return
        pairs = self._matcher.nominate(queries, floors, vectors)
        admitted: dict[object, NDArray[np.bool_]] = {}
        for start in range(0, len(pairs[0]), _SCORED_AT_ONCE):
            of, row = (side[start : start + _SCORED_AT_ONCE] for side in pairs)
            # First what costs least. A list that is not full has no floor, so that all rows of
            # every batch are paired with it, and a filter leaves few.
            kept = self._admitted(owners, of, row, admitted)
            of, row = of[kept], row[kept]
            # Float32 holds float16 numbers as they are, and the sum is exact in any order.
            scores = np.einsum(
                "ij,ij->i", queries[of].astype(np.float64), vectors[row].astype(np.float64)
            )
            near = np.flatnonzero(scores >= floors[of])
            for n in near.tolist():
                owner = owners[of[n]]
                yield owner, self._hit(owner, int(row[n]), float(scores[n]))

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
        starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]) if len(of) else of
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(of)], strict=True):
            condition = owners[of[start]].question.filter
            if condition is None:
                continue
            lets = known.get(condition.key)
            if lets is None:
                rows = range(len(self.applied.upserted))
                lets = known[condition.key] = np.array(
                    [condition.matches(self._looked_up(n).metadata or {}) for n in rows], np.bool_
                )
            kept[start:end] = lets[row[start:end]]
        return kept

    def _hit(self, owner: Asking, number: int, score: float) -> Hit:
        found = self._looked_up(number)
        vector = found.vector if owner.question.with_vector else None
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
            vector,
        )

    def _looked_up(self, number: int) -> Hit:
        found = self._hits.get(number)
        if found is None:
            found = self._hits[number] = self.applied.hit(number)
        return found


class Rows(Generic[_Owner]):
    """Vectors and floors of one target's standing queries, dense, as the matcher wants them."""

    def __init__(self) -> None:
        self._owners: list[_Owner] = []
        self._row_of: dict[_Owner, int] = {}
        # Float32, which the product takes: to widen them for each batch would cost as much as it.
        self._vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._floors: NDArray[np.float64] = np.empty(0)

    def all(self) -> tuple[list[_Owner], NDArray[np.float32], NDArray[np.float64]]:
        """Owners, vectors, floors: until one is put or removed."""
        count = len(self._owners)
        return self._owners, self._vectors[:count], self._floors[:count]

    def put(self, owner: _Owner, vector: Vectors, floor: float) -> None:
        row = self._row_of.get(owner)
        if row is None:
            row = len(self._owners)
            self._owners.append(owner)
            self._row_of[owner] = row
            if row >= len(self._vectors):
                self._grow(len(vector))
            self._vectors[row] = vector
        self._floors[row] = floor

    def remove(self, owner: _Owner) -> None:
        """The last row takes the place of the one that goes."""
        row = self._row_of.pop(owner, None)
        if row is None:
            return
        last = self._owners.pop()
        if last is not owner:
            moved = len(self._owners)
            self._owners[row] = last
            self._row_of[last] = row
            self._vectors[row] = self._vectors[moved]
            self._floors[row] = self._floors[moved]

    def _grow(self, dim: int) -> None:
        size = max(_ROWS_FIRST, 2 * len(self._vectors))
        vectors = np.zeros((size, dim), np.float32)
        floors = np.full(size, np.inf)
        used = len(self._floors)
        if used:
            vectors[:used], floors[:used] = self._vectors, self._floors
        self._vectors, self._floors = vectors, floors
