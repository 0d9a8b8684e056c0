"""Rows of one target: chunks that grow, are sealed, and never change what a reader holds.

A chunk is a fixed number of rows. While it grows, its float16 rows have a float32 mirror, which a
scan multiplies directly. A full chunk is sealed: the mirror goes, and a Faiss flat float16 index
does the scan (0.29 ms for 10,000 rows of 512, against 3 ms by converting in numpy). Rows are only
ever appended, and deletions live in a bitmap that is copied before it is changed, so a reader that
holds (chunk, row count, bitmap) sees the same rows for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.records import Source
from contracts.score import Vectors

CHUNK_ROWS = 8192


class Row(NamedTuple):
    """What is kept of an item beside its vector; `hash` is its share of the digest."""

    id: str
    item: str | None
    text: str | None
    metadata: Mapping[str, Any] | None
    source: Source
    appended_ms: int
    partition: int
    hash: int


class Place(NamedTuple):
    """Where a live row stands."""

    chunk: "Chunk"
    row: int


class Chunk:
    """Up to `capacity` rows; written by one thread, read by any through a `ChunkView`."""

    def __init__(self, dim: int, capacity: int) -> None:
        self.capacity = capacity
        self.vectors: Vectors = np.zeros((capacity, dim), np.float16)
        self.wide: NDArray[np.float32] | None = np.zeros((capacity, dim), np.float32)
        self.sealed: faiss.IndexScalarQuantizer | None = None
        self.rows: list[Row] = []
        self.deleted: NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self.dead = 0
        self._deleted_is_shared = False

    @property
    def full(self) -> bool:
        return len(self.rows) == self.capacity

    @property
    def live(self) -> int:
        return len(self.rows) - self.dead

    def append(self, rows: Sequence[Row], vectors: Vectors) -> int:
        """Add rows that fit; returns the number of the first."""
        start, end = len(self.rows), len(self.rows) + len(rows)
        assert end <= self.capacity and self.wide is not None
        self.vectors[start:end] = vectors
        self.wide[start:end] = vectors
        self.rows.extend(rows)
        if self.full:
            self._seal()
        return start

    def delete(self, row: int) -> None:
        if self._deleted_is_shared:
            self.deleted = self.deleted.copy()
            self._deleted_is_shared = False
        self.deleted[row] = True
        self.dead += 1

    def view(self) -> "ChunkView":
        """A frozen sight of this chunk; the next deletion copies the bitmap."""
        self._deleted_is_shared = True
        return ChunkView(self, len(self.rows), self.deleted, self.dead, self.wide, self.sealed)

    def _seal(self) -> None:
        dim = self.vectors.shape[1]
        sealed = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        assert self.wide is not None
        sealed.add(self.wide)
        # Readers that hold the mirror keep it alive through their views.
        self.sealed, self.wide = sealed, None


@dataclass(frozen=True, slots=True)
class ChunkView:
    """A chunk as it was at one moment."""

    chunk: Chunk
    count: int
    deleted: NDArray[np.bool_]
    dead: int
    wide: NDArray[np.float32] | None
    sealed: "faiss.IndexScalarQuantizer | None"

    @property
    def live(self) -> int:
        return self.count - self.dead

    def live_rows(self) -> NDArray[np.intp]:
        return np.flatnonzero(~self.deleted[: self.count])

    def nominate(
        self, queries: NDArray[np.float32], most: int
    ) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """For each query (q, dim) the `most` best live rows and their float32 scores.

        The scores err by less than contracts.score.NOMINATION_SLACK; all live rows come when
        there are no more than `most`.
        """
        if self.sealed is not None:
            return self._by_faiss(queries, min(most, self.live))
        assert self.wide is not None
        scores = queries @ self.wide[: self.count].T
        scores[:, self.deleted[: self.count]] = -np.inf
        return [_best(row, min(most, self.live)) for row in scores]

    def _by_faiss(
        self, queries: NDArray[np.float32], most: int
    ) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        assert self.sealed is not None
        parameters = None
        if self.dead:
            live = np.packbits(~self.deleted[: self.count], bitorder="little")
            # The Python layer takes arrays and keywords that the stubs do not know.
            selector = faiss.IDSelectorBitmap(live)  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        scores, rows = self.sealed.search(queries, most, params=parameters)
        return [(r[r >= 0].astype(np.intp), s[r >= 0]) for r, s in zip(rows, scores, strict=True)]


def _best(scores: NDArray[np.float32], most: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    if most < len(scores):
        best = np.argpartition(scores, -most)[-most:] if most else np.empty(0, np.intp)
    else:
        best = np.arange(len(scores))
    best = best[np.isfinite(scores[best])]
    return best, scores[best]


class Table:
    """The writer's side of one target: chunks, and where each live id stands."""

    def __init__(self, dim: int, chunk_rows: int = CHUNK_ROWS) -> None:
        self._dim = dim
        self._chunk_rows = chunk_rows
        self.chunks: list[Chunk] = []
        self.places: dict[str, Place] = {}

    def put(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Append rows of distinct ids, replacing those that have a row already."""
        for row in rows:
            self.remove(row.id)
        done = 0
        while done < len(rows):
            if not self.chunks or self.chunks[-1].full:
                self.chunks.append(Chunk(self._dim, self._chunk_rows))
            chunk = self.chunks[-1]
            some = rows[done : done + chunk.capacity - len(chunk.rows)]
            start = chunk.append(some, vectors[done : done + len(some)])
            for number, row in enumerate(some, start):
                self.places[row.id] = Place(chunk, number)
            done += len(some)

    def remove(self, item_id: str) -> Row | None:
        """The row that went, or None."""
        place = self.places.pop(item_id, None)
        if place is None:
            return None
        place.chunk.delete(place.row)
        return place.chunk.rows[place.row]

    def merge(self) -> bool:
        """Rewrite at most one full chunk that is more than half dead; whether one was.

        Bounded work a batch, and endless upserts keep at most twice the live rows.
        """
        for chunk in self.chunks:
            if chunk.full and chunk.dead * 2 > chunk.capacity:
                live = np.flatnonzero(~chunk.deleted)
                rows, vectors = [chunk.rows[i] for i in live], chunk.vectors[live]
                self.chunks.remove(chunk)
                for row in rows:
                    del self.places[row.id]
                self.put(rows, vectors)
                return True
        return False

    def views(self) -> tuple[ChunkView, ...]:
        return tuple(chunk.view() for chunk in self.chunks if chunk.live)
