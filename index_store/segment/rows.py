"""Rows of one target as columns, not row objects.

A million objects would cost memory and long garbage collections. The columns of a growing segment
are lists; those of a sealed one are packed by index_store.segment.columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors
from index_store.digest import Hashes

# Topic id and partition of a content record; one object for all rows of that partition.
Origin = tuple[str, int]
Numbers = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rows:
    """The columns of some rows: the n-th entry of each belongs to the n-th row.

    `metadata` is canonical JSON, None when empty; `origins` with `offsets` are the sources;
    `partitions` are those of the embeddings topic; `hashes` (n, 4) are shares of the digest.
    """

    ids: Sequence[str]
    items: Sequence[str | None]
    texts: Sequence[str | None]
    metadata: Sequence[bytes | None]
    origins: Sequence[Origin]
    offsets: NDArray[np.int64]
    appended_ms: NDArray[np.int64]
    partitions: NDArray[np.int32]
    hashes: Hashes
    vectors: Vectors

    @classmethod
    def blank(cls, vectors: Vectors) -> "Rows":
        """Return columns without rows, with room for as many as `vectors` (n, dim) has."""
        room = len(vectors)
        return cls(
            [],
            [],
            [],
            [],
            [],
            np.zeros(room, np.int64),
            np.zeros(room, np.int64),
            np.zeros(room, np.int32),
            np.zeros((room, 4), np.uint32),
            vectors,
        )

    def __len__(self) -> int:
        """Return the number of rows written; arrays may have room for more."""
        return len(self.ids)

    def take(self, numbers: Numbers) -> "Rows":
        """Return a copy of the rows of these numbers."""
        listed = numbers.tolist()
        return Rows(
            [self.ids[n] for n in listed],
            [self.items[n] for n in listed],
            [self.texts[n] for n in listed],
            [self.metadata[n] for n in listed],
            [self.origins[n] for n in listed],
            self.offsets[numbers],
            self.appended_ms[numbers],
            self.partitions[numbers],
            self.hashes[numbers],
            self.vectors[numbers],
        )

    def write(self, rows: "Rows", start: int, end: int) -> None:
        """Append rows start..end of `rows` to what `blank` made; there must be room."""
        done = len(self)
        into, out_of = slice(done, done + end - start), slice(start, end)
        self.vectors[into] = rows.vectors[out_of]
        self.offsets[into] = rows.offsets[out_of]
        self.appended_ms[into] = rows.appended_ms[out_of]
        self.partitions[into] = rows.partitions[out_of]
        self.hashes[into] = rows.hashes[out_of]
        # `ids` last: its length is what `len` answers.
        for name in ("items", "texts", "metadata", "origins", "ids"):
            cast(list[object], getattr(self, name)).extend(getattr(rows, name)[out_of])
