"""The ANN index of a segment: of any Faiss factory string, searched with a tuned effort.

The index only nominates, from coarse to fine: codes are compared first, the best of them are scored
by their float16 rows in float32, and the best of those are nominated for the exact score. Two
numbers say how thoroughly: the *effort*, nprobe of an IVF or efSearch of an HNSW graph; and the
*depth*, the number of rows that are scored for each one nominated. Pairs of them are measured on
the segment (index_store.ann.tuning) and kept with it as `OperatingPoint`s; a search takes the
cheapest one that reached the wanted recall.
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

# The milliseconds that a float16 scan takes for a row: 8,192 rows of 512 dimensions take 0.46 ms on
# one core; with AVX-512 0.24 ms while a cache holds them. The next numbers are costs in such rows.
SCANNED_ROW_MS = 5.6e-5
# A code that is compared through an index, and a row that a scan only passes over, measured with
# 300,000 rows of 512 dimensions on one core (benchmarks.index_search).
_ANN_ROW = 0.6
SKIPPED_ROW = 0.02
# A nominee that a filter refuses: it was found, scored and looked up in vain.
REFUSED_ROW = 4


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The recall and the cost of a search with some effort and depth.

    `effort` is nprobe or efSearch; `depth` rows are scored for each one nominated. With them a
    query takes `ms` milliseconds and finds the share `recall` of the best 10, after the re-score.
    """

    effort: int
    depth: int
    recall: float
    ms: float


def cheapest_point(points: Sequence[OperatingPoint], recall: float) -> OperatingPoint | None:
    """Return the first point that reached `recall`, or else the best; None without points."""
    for point in points:
        if point.recall >= recall:
            return point
    return max(points, key=lambda point: point.recall, default=None)


class AnnIndex:
    """A trained and filled Faiss index over the rows 0..n-1, by inner product."""

    def __init__(
        self, index_type: str, index: Any, points: Sequence[OperatingPoint], rows: Flat
    ) -> None:
        """Wrap `index`. The `points` ascend in cost; `rows` are the vectors of the segment."""
        self.index_type = index_type
        self.points = list(points)
        self.index = index
        # It scores rows in C++, with SIMD from float16: 108 rows in 10 us, where numpy takes 90 us.
        self._refined = faiss.IndexRefine(index, rows)
        self._ivf = faiss.try_extract_index_ivf(index)
        self._transformed = isinstance(index, faiss.IndexPreTransform)
        hnsw = faiss.downcast_index(index.index) if self._transformed else index
        self._hnsw = hnsw if isinstance(hnsw, faiss.IndexHNSW) else None
        # Reading a number from Faiss takes a microsecond each time, so these are read once.
        self.rows = int(index.ntotal)
        self.effort_max = int(self._ivf.nlist) if self._ivf is not None else max(1, self.rows)
        self._last: tuple[tuple[int, int, int], Any] = (0, 0, 0), None

    def point_for(self, recall: float) -> OperatingPoint:
        """Return the cheapest point that reached `recall`, or else the best one."""
        return cheapest_point(self.points, recall) or OperatingPoint(self.effort_max, 4, 1.0, 0.0)

    def cost_ms(self, share: float, recall: float) -> float:
        """Estimate the milliseconds of a search with a filter that admits `share` of the rows."""
        return self.point_for(recall).ms / share

    def is_cheaper_than_scan(self, selected: int, most: int, share: float, recall: float) -> bool:
        """Return whether a search for `most` rows costs less than a scan of the `selected` ones.

        The `selected` rows are the `share` of all.
        """
        if selected <= most:
            return False
        nominated, depth, effort = self._effort_for(most, share, recall)
        scored = nominated * depth
        lists = self._ivf is not None
        seen = self.rows * effort / self.effort_max if lists else 32.0 * max(effort, scored)
        cost = seen * _ANN_ROW + scored * (1 - share) * REFUSED_ROW
        return cost < selected + self.rows * SKIPPED_ROW

    def search(
        self, queries: NDArray[np.float32], most: int, share: float, recall: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nominate rows for each query (q, dim): float32 scores and row numbers of shape (q, n).

        There are so many that about `most` are left when a filter that admits the `share` of all
        rows has refused the others. Missing ones have the number -1. Scores err by less than
        NOMINATION_SLACK.
        """
        return self.search_with(queries, *self._effort_for(most, share, recall))

    def search_with(
        self, queries: NDArray[np.float32], most: int, depth: int, effort: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nominate `most` rows for each query as `search` does, with this depth and effort."""
        most = min(most, self.rows)
        scored = min(most * depth, self.rows)
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self._refined.search(
            queries, most, params=self._parameters(effort, most, scored)
        )
        return found

    def _effort_for(self, most: int, share: float, recall: float) -> tuple[int, int, int]:
        """Return nominees, depth and effort; nominees that a filter refuses are counted in."""
        point = self.point_for(recall)
        effort = min(ceil(point.effort / share), self.effort_max)
        return min(ceil(most / share), self.rows), point.depth, effort

    def _parameters(self, effort: int, most: int, scored: int) -> Any:
        """Return Faiss's parameters; the last are kept: making them takes a tenth of a search."""
        known, made = self._last
        if known != (effort, most, scored):
            base = self._of_index(effort, scored)
            # The Python layer takes keywords that the stubs do not know.
            made = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
                k_factor=scored / most, base_index_params=base
            )
            # Threads may overwrite each other's: any pair is right.
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
    """Read the index in a file. Raises SnapshotRefused unless it has as many rows as `rows`."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SnapshotRefused(f"{path.name}: unreadable ({str(error).splitlines()[0]})") from None
    if index.ntotal != rows.ntotal:
        raise SnapshotRefused(f"{path.name}: want {rows.ntotal} rows, got {index.ntotal}")
    return AnnIndex(index_type, index, points, rows)
