"""Sealed rows: an immutable block with its own index, and a bitmap of what was deleted since.

A segment's files (vectors, columns, index) are written once, by the process that builds it, and
mapped from then on. Where a snapshot was restored, its growing rows stand in a segment without an
index, scanned like a chunk, until the next rebuild.
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
    """`arrays` are the columns (index_store.segment.columns), `index` the vectors of the same rows,
    `ann` the index that nominates among them, if any."""

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
        """Over its files. Raises SnapshotRefused when they are not what they should be."""
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
        """What has these rows too, and nominates among them first."""
        return self._device

    @device.setter
    def device(self, device: Nominator) -> None:
        self._device = device
        self._reader = None

    @property
    def index_type(self) -> str:
        return "Flat" if self.ann is None else self.ann.index_type

    @cached_property
    def coder(self) -> RowQuantizer | None:
        """Its training, for rows that come after it."""
        return None if self.ann is None else RowQuantizer.from_ann(self.ann)

    def find_rows(self, ids: list[str], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The live row of each id, -1 where there is none: shape (len(ids),)."""
        return self._ids.find(ids, hashes, self._bits)

    def delete(self, numbers: Numbers) -> None:
        """Take out rows, all of them live."""
        np.bitwise_and.at(self._bits, numbers >> 3, ~(1 << (numbers & 7)).astype(np.uint8))
        self.live -= len(numbers)
        self._reader = None

    def set_alive(self, alive: NDArray[np.bool_]) -> None:
        """Make exactly these rows live: shape (capacity,)."""
        self._bits = np.packbits(alive, bitorder="little")
        self.live = int(alive.sum())
        self._reader = None

    def alive(self) -> Numbers:
        return row_numbers(self._bits)

    def bits(self) -> NDArray[np.uint8]:
        """A bit for each row that is live, low bits first."""
        return self._bits

    def reader(self) -> SegmentReader:
        """This segment as it is now; the same object until something changes."""
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
    return np.packbits(np.ones(count, np.bool_), bitorder="little")
