"""The codes of growing rows, made by the quantizer that a sealed segment was trained with.

A scan of growing rows reads all their bytes; codes have an eighth of them, and are compared in SIMD
registers. Measured (512 dimensions, one core, the best scored by their rows): 8,192 rows take
0.08 ms instead of 0.47, and 32,768 rows 0.22 ms instead of 2.5. A code takes 10 us to make, so rows
get codes if they are searched as they come, and not during a replay.
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

# The cost of a code in a search, in scanned rows (see above), and that of the call.
_CODED_ROW = 0.1
_CALL_MS = 0.05
# Scoring so many rows for each one nominated finds all of the best among 8,192 rows, and 99.6 %
# among 32,768.
_DEPTH_MIN, _DEPTH_MAX = 4, 8


class RowQuantizer:
    """The quantizer of a sealed segment's index, for the codes of rows that come after it.

    It is a copy, since growing segments live on when the sealed one is replaced. `points` are the
    operating points of the index.
    """

    def __init__(self, quantizer: faiss.ProductQuantizer, points: Sequence[OperatingPoint]) -> None:
        dim, codes, bits = quantizer.d, quantizer.M, quantizer.nbits
        self._shape = dim, codes, bits
        self._model: Any = faiss.IndexPQFastScan(dim, codes, bits, faiss.METRIC_INNER_PRODUCT)
        self._model.pq = quantizer
        self._points = list(points)

    @classmethod
    def from_ann(cls, ann: AnnIndex) -> "RowQuantizer | None":
        """Return the quantizer of `ann`, or None if its codes depend on the list of a row."""
        ivf = faiss.try_extract_index_ivf(ann.index)
        found: Any = None if ivf is None else faiss.downcast_index(ivf)
        is_bare = isinstance(faiss.downcast_index(ann.index), faiss.IndexIVFPQFastScan)
        if not is_bare or found.by_residual:
            return None
        return cls(found.pq, ann.points)

    def blank(self) -> Any:
        """Return a trained IndexPQFastScan without rows."""
        index = faiss.IndexPQFastScan(*self._shape, faiss.METRIC_INNER_PRODUCT)
        index.pq = self._model.pq
        index.is_trained = True
        return index

    def codes(self, vectors: Vectors) -> NDArray[np.uint8]:
        """Return the codes of rows (n, dim), not packed as Faiss does: (n, bytes of a code)."""
        # There are few rows, and Faiss's threads would wait for each other. The setting is this
        # thread's own.
        faiss.omp_set_num_threads(1)
        found: Any = self._model.pq.compute_codes(vectors.astype(np.float32))
        return found  # type: ignore[no-any-return]

    def depth(self, recall: float) -> int:
        """Return the number of rows to score for each one nominated."""
        found = cheapest_point(self._points, recall)
        return _DEPTH_MAX if found is None else min(max(_DEPTH_MIN, found.depth), _DEPTH_MAX)


class GrowingCodes:
    """The codes of a growing segment's rows: one thread writes, any thread searches.

    Faiss's memory for them is allocated at the start and never moves. A search may find rows that
    are newer than its view; the view's bitmap refuses them.
    """

    def __init__(self, quantizer: RowQuantizer, rows: Flat) -> None:
        """Make room for the codes of all `rows` that the growing segment can hold."""
        self._quantizer = quantizer
        self._index = quantizer.blank()
        self._packer = self._index.get_CodePacker()
        room = -(-rows.ntotal // self._packer.nvec)
        self._index.codes.resize(room * self._packer.block_size)
        packed: Any = faiss.rev_swig_ptr(self._index.codes.get(), self._index.codes.size())
        self._packed = packed.reshape(room, -1)
        self._packed[:] = 0
        self._codes = np.zeros((room * self._packer.nvec, self._packer.code_size), np.uint8)
        # Faiss compares the numbers of rows here, and never later.
        self._index.ntotal = rows.ntotal
        self._refined = faiss.IndexRefine(self._index, rows)
        self._index.ntotal = 0
        self._last: tuple[float, Any] = 0.0, None

    def __len__(self) -> int:
        found: int = self._index.ntotal
        return found

    def take(self, numbers: Numbers) -> NDArray[np.uint8]:
        """Return the codes of these rows, to be appended elsewhere."""
        return self._codes[numbers]

    def append(self, vectors: Vectors, codes: NDArray[np.uint8] | None = None) -> None:
        """Append codes of rows (n, dim) that the segment has already; make them unless given."""
        done = len(self)
        end = done + len(vectors)
        self._codes[done:end] = self._quantizer.codes(vectors) if codes is None else codes
        # Faiss interleaves the codes of a block of rows. The last block is packed again with the
        # codes that it holds already, which leaves their bytes as they were.
        per_block = self._packer.nvec
        block = np.zeros(self._packer.block_size, np.uint8)
        for n in range(done // per_block, -(-end // per_block)):
            codes = self._codes[n * per_block : (n + 1) * per_block]
            self._packer.pack_all(faiss.swig_ptr(codes), faiss.swig_ptr(block))
            self._packed[n] = block
        self._index.ntotal2 = -(-end // per_block) * per_block
        self._index.ntotal = end

    def cost_ms(self, share: float, recall: float) -> float:
        """Estimate the milliseconds of a search with a filter that admits `share` of the rows."""
        return _CALL_MS + len(self) * _CODED_ROW * SCANNED_ROW_MS / share

    def is_cheaper_than_scan(self, selected: int, most: int, share: float, recall: float) -> bool:
        """Decide as `AnnIndex.is_cheaper_than_scan` does."""
        scored = ceil(most / share) * self._quantizer.depth(recall)
        cost = len(self) * _CODED_ROW + scored * (1 + (1 - share) * REFUSED_ROW)
        return selected > most and cost < selected + len(self) * SKIPPED_ROW

    def search(
        self, queries: NDArray[np.float32], most: int, share: float, recall: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nominate as `AnnIndex.search` does."""
        rows = len(self)
        most = min(ceil(most / share), rows)
        factor = min(most * self._quantizer.depth(recall), rows) / most
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self._refined.search(
            queries, most, params=self._parameters(factor)
        )
        return found

    def _parameters(self, factor: float) -> Any:
        """Return Faiss's parameters; the last ones are kept, as making them takes some time."""
        known, made = self._last
        if made is None or known != factor:
            # The Python layer takes keywords that the stubs do not know.
            made = faiss.IndexRefineSearchParameters(k_factor=factor)  # type: ignore[call-arg]
            self._last = factor, made
        return made
