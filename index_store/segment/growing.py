"""Growing rows: chunks that fill up and never change what a reader holds.

A chunk is a fixed number of rows, allocated at once. A reader holds a bitmap of the rows that were
live then; rows are only ever written behind those that any bitmap names, so a view answers the
same for ever while the writer goes on. Measured (512 dimensions, one core): a scan of 100 rows in
a chunk takes 0.02 ms; a float32 mirror of 8,192 growing rows took 1.7 ms and 16 MB. Where a
sealed segment's quantizer gives them codes (index_store.ann.growing_codes), those are scanned
instead.
"""

import uuid

import numpy as np
from numpy.typing import NDArray

from index_store.ann import flat
from index_store.ann.growing_codes import GrowingCodes, RowQuantizer
from index_store.metadata.segment_fields import SegmentFields
from index_store.segment.reader import SegmentReader
from index_store.segment.rows import Numbers, Rows

GROWING_SEGMENT_ROWS = 8192


class GrowingSegment:
    """Up to `capacity` rows; written by one thread, read by any through its parts."""

    def __init__(self, dim: int, capacity: int, coder: RowQuantizer | None = None) -> None:
        self.uid = uuid.uuid4().hex
        self.capacity = capacity
        # The Faiss index counts all rows from the start and is never changed again: rows are
        # written into its memory, and bitmaps say which of them a search may see.
        self.flat_index = flat.blank_index(dim, capacity)
        self.rows = Rows.blank(flat.index_vectors(self.flat_index))
        self.coder = coder
        self.codes = None if coder is None else GrowingCodes(coder, self.flat_index)
        self.live = 0
        self._fields = SegmentFields(self.rows)
        self._alive = np.zeros(capacity, np.bool_)
        self._reader: SegmentReader | None = None

    @property
    def room(self) -> int:
        return self.capacity - len(self.rows)

    @property
    def is_mostly_deleted(self) -> bool:
        return self.live * 2 < self.capacity

    def append(
        self, rows: Rows, start: int, end: int, codes: NDArray[np.uint8] | None = None
    ) -> None:
        """Add rows start..end of `rows`; `codes` are those of its coder, if they are known."""
        assert end - start <= self.room
        done = len(self.rows)
        self.rows.write(rows, start, end)
        if self.codes is not None:
            self.codes.append(
                self.rows.vectors[done : done + end - start],
                None if codes is None else codes[start:end],
            )
        self._alive[done : done + end - start] = True
        self.live += end - start
        self._reader = None

    def delete(self, numbers: Numbers) -> None:
        """Take out rows, all of them live."""
        self._alive[numbers] = False
        self.live -= len(numbers)
        self._reader = None

    def alive(self) -> Numbers:
        return np.flatnonzero(self._alive)

    def bits(self) -> NDArray[np.uint8]:
        """A bit for each row that is live, low bits first."""
        return np.packbits(self._alive, bitorder="little")

    def reader(self) -> SegmentReader:
        """This chunk as it is now; the same object until something changes."""
        if self._reader is None:
            self._reader = SegmentReader(
                self.rows,
                self.flat_index,
                self.bits(),
                self.live,
                self.capacity,
                len(self.rows),
                self._fields,
                self.codes,
                self.uid,
            )
        return self._reader
