"""Sealed segments: immutable rows with their own index, and a bitmap of those deleted since.

A segment's files (vectors, columns, index) are written once, by the process that builds it, and
mapped from then on. The growing rows of a restored snapshot are a sealed segment without an index,
which is scanned like a growing one until the next merge.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contracts.errors import SnapshotRefused
from index_store.ann import faiss_index, flat
from index_store.ann.faiss_index import AnnIndex
from index_store.ann.growing_codes import RowQuantizer
from index_store.metadata.bitmaps import row_numbers
from index_store.metadata.segment_fields import SegmentFields
from index_store.segment import columns
from index_store.segment.columns import Arrays
from index_store.segment.files import SegmentFiles
from index_store.segment.id_lookup import SealedIdLookup, sorted_hashes
from index_store.segment.reader import Nominator, SegmentReader
from index_store.segment.rows import Numbers


class SealedSegment:
    """A sealed segment, named by `uid`. One thread deletes rows, any thread reads its readers.

    `arrays` are the columns (index_store.segment.columns), `index` holds the vectors of the same
    rows, `ann` nominates among them (None: they are scanned), `files` are where all of these are.
    """

    def __init__(
        self,
        uid: str,
        arrays: Arrays,
        index: flat.Flat,
        ann: AnnIndex | None = None,
        files: SegmentFiles | None = None,
    ) -> None:
        self.uid = uid
        self.arrays = arrays
        self.flat_index = index
        self.ann = ann
        self.files = files
        self.rows = columns.unpack_columns(arrays, flat.index_vectors(index))
        self.capacity = len(self.rows)
        self.live = self.capacity
        self._bits = all_bits(self.capacity)
        self._fields = SegmentFields(self.rows)
        self._reader: SegmentReader | None = None
        self._device: Nominator | None = None
        hashes, order = arrays.get("ids.hashes"), arrays.get("ids.order")
        if hashes is None or order is None:
            hashes, order = sorted_hashes(self.rows.ids)
        self._ids = SealedIdLookup(hashes, order, self.rows.ids)

    @classmethod
    def mapped(cls, files: SegmentFiles, dim: int) -> "SealedSegment":
        """Map a segment's files. Raises SnapshotRefused unless they are what `files` says."""
        index = flat.mapped_index(files.vectors, dim, files.rows)
        arrays = columns.load_columns(files.columns)
        if columns.count_rows(arrays) != files.rows:
            raise SnapshotRefused(
                f"{files.columns.name}: want {files.rows} rows, got {columns.count_rows(arrays)}"
            )
        ann = None
        if files.ann is not None and files.index_type is not None:
            ann = faiss_index.load_ann(files.index_type, files.ann, index, files.points)
        return cls(files.name, arrays, index, ann, files)

    @property
    def device(self) -> Nominator | None:
        """The device that has these rows too and is asked first, if any."""
        return self._device

    @device.setter
    def device(self, device: Nominator) -> None:
        self._device = device
        self._reader = None

    @property
    def index_type(self) -> str:
        """The Faiss factory string of the index, or `Flat` without one."""
        return "Flat" if self.ann is None else self.ann.index_type

    @cached_property
    def quantizer(self) -> RowQuantizer | None:
        """The quantizer of the segment's index, for codes of the rows that come after it."""
        return None if self.ann is None else RowQuantizer.from_ann(self.ann)

    def find_rows(self, ids: list[str], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the live row of each id, or -1: shape (n,). `hashes` (n,) are those of `ids`."""
        return self._ids.find(ids, hashes, self._bits)

    def delete(self, numbers: Numbers) -> None:
        """Mark rows as deleted; all of them are live."""
        np.bitwise_and.at(self._bits, numbers >> 3, ~(1 << (numbers & 7)).astype(np.uint8))
        self.live -= len(numbers)
        self._reader = None

    def set_alive(self, alive: NDArray[np.bool_]) -> None:
        """Make exactly these rows live: shape (capacity,)."""
        self._bits = np.packbits(alive, bitorder="little")
        self.live = int(alive.sum())
        self._reader = None

    def alive(self) -> Numbers:
        """Return the numbers of the live rows, ascending."""
        return row_numbers(self._bits)

    def bits(self) -> NDArray[np.uint8]:
        """Return the bitmap of the live rows, low bits first."""
        return self._bits

    def reader(self) -> SegmentReader:
        """Return this segment as it is now: the same object until something changes."""
        if self._reader is None:
            self._reader = SegmentReader(
                self.rows,
                self.flat_index,
                self._bits.copy(),
                self.live,
                self.capacity,
                self.capacity,
                self._fields,
                self.ann,
                self.uid,
                self.files,
                self._device,
            )
        return self._reader


def all_bits(count: int) -> NDArray[np.uint8]:
    """Return a bitmap with the first `count` bits set, low bits first."""
    return np.packbits(np.ones(count, np.bool_), bitorder="little")
