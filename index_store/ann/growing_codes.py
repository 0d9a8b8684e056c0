"""Codes of growing rows, by the quantizer that a sealed segment was trained with.

A scan of growing rows reads all their bytes; of their codes it reads an eighth, and compares them
in SIMD registers. Measured (512 dimensions, one core, the best of them scored by their rows):
8,192 rows in 0.08 ms instead of 0.47, 32,768 in 0.22 instead of 2.5. A code takes 10 us to make,
so rows get them that are searched as they come, and not those of a replay.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors
from index_store.ann.faiss_index import (
    REFUSED_ROW,
    SCANNED_ROW_MS,
    SKIPPED_ROW,
    AnnIndex,
    OperatingPoint,
    cheapest_point,
)
from index_store.ann.flat import Flat
from index_store.segment.rows import Numbers

# What a code costs a search, against a row that is scanned (see above), and the call.
_CODED_ROW = 0.1
_CALL_MS = 0.05
# With these all of 8,192 rows are found that should be, and 99.6 % of 32,768.
_DEPTH_MIN, _DEPTH_MAX = 4, 8


class RowQuantizer:
    """The quantizer of a segment's index, for rows that come after it; a copy, since chunks live on
    when the segment is replaced."""

    def __init__(self, quantizer: faiss.ProductQuantizer, depths: Sequence[OperatingPoint]) -> None:
        dim, codes, bits = quantizer.d, quantizer.M, quantizer.nbits
        self._shape = dim, codes, bits
        self._model: Any = faiss.IndexPQFastScan(dim, codes, bits, faiss.METRIC_INNER_PRODUCT)
        self._model.pq = quantizer
        self._points = list(depths)

    @classmethod
    def from_ann(cls, ann: AnnIndex) -> "RowQuantizer | None":
        """None where rows have no codes that stand by themselves."""
        ivf = faiss.try_extract_index_ivf(ann.index)
        found: Any = None if ivf is None else faiss.downcast_index(ivf)
        is_bare = isinstance(faiss.downcast_index(ann.index), faiss.IndexIVFPQFastScan)
        if not is_bare or found.by_residual:
            return None
        return cls(found.pq, ann.points)

    def blank(self) -> Any:
        """A trained IndexPQFastScan without rows."""
        index = faiss.IndexPQFastScan(*self._shape, faiss.METRIC_INNER_PRODUCT)
        index.pq = self._model.pq
        index.is_trained = True
        return index

    def codes(self, vectors: Vectors) -> NDArray[np.uint8]:
        """One after the other, not as Faiss packs them: shape (n, bytes a code)."""
        # A few rows; Faiss's threads would wait for each other. It is this thread's own setting.
        faiss.omp_set_num_threads(1)
        found: Any = self._model.pq.compute_codes(vectors.astype(np.float32))
        return found  # type: ignore[no-any-return]

    def depth(self, recall: float) -> int:
        """How many to score by their rows for each one nominated."""
        found = cheapest_point(self._points, recall)
        return _DEPTH_MAX if found is None else min(max(_DEPTH_MIN, found.depth), _DEPTH_MAX)


class GrowingCodes:
    """Of the first rows of a chunk: written by one thread, searched by any.

    Faiss's memory for them is there from the start and never moves. A search may meet rows that
    are newer than the view which it is for; the view's bitmap refuses them.
    """

    def __init__(self, coder: RowQuantizer, rows: Flat) -> None:
        """`rows` are the chunk's, with all the room there is."""
        self._coder = coder
        self._index = coder.blank()
        self._packer = self._index.get_CodePacker()
        room = -(-rows.ntotal // self._packer.nvec)
        self._index.codes.resize(room * self._packer.block_size)
        packed: Any = faiss.rev_swig_ptr(self._index.codes.get(), self._index.codes.size())
        self._packed = packed.reshape(room, -1)
        self._packed[:] = 0
        self._codes = np.zeros((room * self._packer.nvec, self._packer.code_size), np.uint8)
        # It wants as many rows on both sides, but only when it is made.
        self._index.ntotal = rows.ntotal
        self._refined = faiss.IndexRefine(self._index, rows)
        self._index.ntotal = 0
        self._last: tuple[float, Any] = 0.0, None

    def __len__(self) -> int:
        found: int = self._index.ntotal
        return found

    def take(self, numbers: Numbers) -> NDArray[np.uint8]:
        """Of these rows, to be appended elsewhere."""
        return self._codes[numbers]

    def append(self, vectors: Vectors, codes: NDArray[np.uint8] | None = None) -> None:
        """Of the rows that follow, (n, dim), which are in the chunk already; made unless given."""
        done = len(self)
        end = done + len(vectors)
        self._codes[done:end] = self._coder.codes(vectors) if codes is None else codes
        # Blocks of some rows each, their codes interleaved; the last one is packed again with
        # what it holds already, which leaves those bytes as they were.
        per_block = self._packer.nvec
        block = np.zeros(self._packer.block_size, np.uint8)
        for n in range(done // per_block, -(-end // per_block)):
            codes = self._codes[n * per_block : (n + 1) * per_block]
            self._packer.pack_all(faiss.swig_ptr(codes), faiss.swig_ptr(block))
            self._packed[n] = block
        self._index.ntotal2 = -(-end // per_block) * per_block
        self._index.ntotal = end

    def cost_ms(self, share: float, recall: float) -> float:
        """About what a search for as many as usual takes."""
        return _CALL_MS + len(self) * _CODED_ROW * SCANNED_ROW_MS / share

    def is_cheaper_than_scan(self, selected: int, most: int, share: float, recall: float) -> bool:
        """As `Ann.pays`."""
        scored = ceil(most / share) * self._coder.depth(recall)
        cost = len(self) * _CODED_ROW + scored * (1 + (1 - share) * REFUSED_ROW)
        return selected > most and cost < selected + len(self) * SKIPPED_ROW

    def search(
        self, queries: NDArray[np.float32], most: int, share: float, recall: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `Ann.search`."""
        rows = len(self)
        most = min(ceil(most / share), rows)
        factor = min(most * self._coder.depth(recall), rows) / most
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self._refined.search(
            queries, most, params=self._parameters(factor)
        )
        return found

    def _parameters(self, factor: float) -> Any:
        """Making them takes a tenth of a search; any thread's will do."""
        known, made = self._last
        if made is None or known != factor:
            # The Python layer takes keywords that the stubs do not know.
            made = faiss.IndexRefineSearchParameters(k_factor=factor)  # type: ignore[call-arg]
            self._last = factor, made
        return made
