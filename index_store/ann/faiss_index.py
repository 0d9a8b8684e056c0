"""A segment's index: any Faiss factory string, searched at a tuned effort.

The index only nominates, coarse to fine: codes are compared first, the best of them are scored by
their float16 rows in float32, and the best of those are nominated for the exact score. What that
may cost is two numbers: the *effort*, nprobe of an IVF or efSearch of an HNSW graph; and the
*depth*, how many are scored by their rows for each that is nominated. Both are measured on the
segment (index_store.ann.tuning) and kept with it as `OperatingPoint` points; a search takes the
cheapest that reached the recall asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.errors import SnapshotRefused
from index_store.ann.flat import Flat

# One row of a float16 scan: 8,192 of 512 dimensions take 0.46 ms on one core; 0.24 with AVX-512
# while a cache holds them, 0.5 to 0.9 without. What follows is in rows of such a scan.
SCANNED_ROW_MS = 5.6e-5
# One code that is looked at through an index, and a row that the scan only passes over: 300k x 512,
# one core (benchmarks.index_search).
_ANN_ROW = 0.6
SKIPPED_ROW = 0.02
# A nominee that a filter refuses: found, scored and looked up for nothing.
REFUSED_ROW = 4


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Reaches `recall` (of the best 10, exactly re-scored) in `ms` a query.

    `effort` is nprobe or efSearch; `depth` rows are scored for each one nominated.
    """

    effort: int
    depth: int
    recall: float
    ms: float


def cheapest_point(points: Sequence[OperatingPoint], recall: float) -> OperatingPoint | None:
    """The cheapest that reached `recall`, or else the best; None where none was measured."""
    for point in points:
        if point.recall >= recall:
            return point
    return max(points, key=lambda point: point.recall, default=None)


class AnnIndex:
    """A trained and filled Faiss index over rows 0..n-1, inner product."""

    def __init__(
        self, index_type: str, index: Any, points: Sequence[OperatingPoint], rows: Flat
    ) -> None:
        """`points` ascend in cost; `rows` are those of the segment."""
        self.index_type = index_type
        self.points = list(points)
        self.index = index
        # In C++, with SIMD from float16: 108 rows in 10 us, where numpy takes 90.
        self._refined = faiss.IndexRefine(index, rows)
        self._ivf = faiss.try_extract_index_ivf(index)
        self._transformed = isinstance(index, faiss.IndexPreTransform)
        hnsw = faiss.downcast_index(index.index) if self._transformed else index
        self._hnsw = hnsw if isinstance(hnsw, faiss.IndexHNSW) else None
        # Asking Faiss for a number takes a microsecond each time.
        self.rows = int(index.ntotal)
        self.effort_max = int(self._ivf.nlist) if self._ivf is not None else max(1, self.rows)
        self._last: tuple[tuple[int, int, int], Any] = (0, 0, 0), None

    def point_for(self, recall: float) -> OperatingPoint:
        """The cheapest point that reached `recall`, or else the best."""
        return cheapest_point(self.points, recall) or OperatingPoint(self.effort_max, 4, 1.0, 0.0)

    def cost_ms(self, share: float, recall: float) -> float:
        """About what a search for as many as usual takes, of a filter that admits `share`."""
        return self.point_for(recall).ms / share

    def is_cheaper_than_scan(self, selected: int, most: int, share: float, recall: float) -> bool:
        """Whether searching it costs less than scanning the `selected` rows, `share` of all."""
        if selected <= most:
            return False
        nominated, depth, effort = self._asked(most, share, recall)
        scored = nominated * depth
        lists = self._ivf is not None
        seen = self.rows * effort / self.effort_max if lists else 32.0 * max(effort, scored)
        cost = seen * _ANN_ROW + scored * (1 - share) * REFUSED_ROW
        return cost < selected + self.rows * SKIPPED_ROW

    def search(
        self, queries: NDArray[np.float32], most: int, share: float, recall: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nominees for each query (q, dim): scores and row numbers, -1 where there are too few.

        So many that `most` are left when a filter that admits `share` of them has refused the
        others. Scores err by less than NOMINATION_SLACK.
        """
        return self.search_with(queries, *self._asked(most, share, recall))

    def search_with(
        self, queries: NDArray[np.float32], most: int, depth: int, effort: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        most = min(most, self.rows)
        scored = min(most * depth, self.rows)
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self._refined.search(
            queries, most, params=self._parameters(effort, most, scored)
        )
        return found

    def _asked(self, most: int, share: float, recall: float) -> tuple[int, int, int]:
        """Nominees, depth and effort: what a filter refuses has to be found as well."""
        point = self.point_for(recall)
        effort = min(ceil(point.effort / share), self.effort_max)
        return min(ceil(most / share), self.rows), point.depth, effort

    def _parameters(self, effort: int, most: int, scored: int) -> Any:
        """Those of the last search, if it was of the same kind: making them takes as long as a
        tenth of a search."""
        index_type, made = self._last
        if index_type != (effort, most, scored):
            base = self._of_index(effort, scored)
            # The Python layer takes keywords that the stubs do not know.
            made = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
                k_factor=scored / most, base_index_params=base
            )
            # Any thread's will do.
            self._last = (effort, most, scored), made
        return made

    def _of_index(self, effort: int, scored: int) -> Any:
        parameters: Any
        if self._ivf is not None:
            parameters = faiss.SearchParametersIVF(nprobe=effort)  # type: ignore[call-arg]
        elif self._hnsw is not None:
            effort = max(effort, scored)
            parameters = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
        else:
            parameters = faiss.SearchParameters()
        if self._transformed:
            return faiss.SearchParametersPreTransform(index_params=parameters)  # type: ignore[call-arg]
        return parameters


def load_ann(index_type: str, path: Path, rows: Flat, points: Sequence[OperatingPoint]) -> AnnIndex:
    """Raises SnapshotRefused when the file is not such an index."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SnapshotRefused(f"{path.name}: unreadable ({str(error).splitlines()[0]})") from None
    if index.ntotal != rows.ntotal:
        raise SnapshotRefused(f"{path.name}: want {rows.ntotal} rows, got {index.ntotal}")
    return AnnIndex(index_type, index, points, rows)
