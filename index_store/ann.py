"""A segment's index: any Faiss factory string, searched at a tuned effort.

The index only nominates, coarse to fine: codes are compared first, the best of them are scored by
their float16 rows in float32, and the best of those are nominated for the exact score. What that
may cost is two numbers: the *effort*, nprobe of an IVF or efSearch of an HNSW graph; and the
*depth*, how many are scored by their rows for each that is nominated. Both are measured on the
segment (index_store.tuning) and kept with it as `Operating` points; a search takes the cheapest
that reached the recall asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.errors import SnapshotRefused
from index_store.flat import Flat

# What one code costs when it is looked at through an index, against one row of a float16 scan,
# and a row that the scan only passes over: 300k x 512, one core (benchmarks.index_search).
_ANN_ROW = 0.6
_SKIPPED_ROW = 0.02


@dataclass(frozen=True, slots=True)
class Operating:
    """Reaches `recall` (of the best 10, exactly re-scored) in `ms` a query.

    `effort` is nprobe or efSearch; `depth` rows are scored for each one nominated.
    """

    effort: int
    depth: int
    recall: float
    ms: float


class Ann:
    """A trained and filled Faiss index over rows 0..n-1, inner product."""

    def __init__(self, kind: str, index: Any, points: Sequence[Operating], rows: Flat) -> None:
        """`points` ascend in cost; `rows` are those of the segment."""
        self.kind = kind
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
        self._last: tuple[Any, int, int, Any] = None, 0, 0, None

    def at(self, recall: float) -> Operating:
        """The cheapest point that reached `recall`, or else the best."""
        for point in self.points:
            if point.recall >= recall:
                return point
        if self.points:
            return max(self.points, key=lambda point: point.recall)
        return Operating(self.effort_max, 4, 1.0, 0.0)

    def pays(self, selected: int, most: int, recall: float) -> bool:
        """Whether searching it costs less than scanning the `selected` rows."""
        rows = self.rows
        if selected <= most:
            return False
        point = self.at(recall)
        effort = self._effort(point, selected / rows)
        seen = rows * effort / self.effort_max if self._ivf is not None else 32.0 * effort
        return seen * _ANN_ROW < selected + rows * _SKIPPED_ROW

    def search(
        self,
        queries: NDArray[np.float32],
        most: int,
        selector: Any,
        share: float,
        recall: float,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nominees for each query (q, dim): scores and row numbers, -1 where there are too few.

        `selector` admits `share` of the rows. Scores err by less than NOMINATION_SLACK.
        """
        point = self.at(recall)
        return self.search_with(
            queries, most, point.depth, selector, self._effort(point, share, most)
        )

    def search_with(
        self, queries: NDArray[np.float32], most: int, depth: int, selector: Any, effort: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        most = min(most, self.rows)
        scored = min(most * depth, self.rows)
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self._refined.search(
            queries, most, params=self._parameters(selector, effort, scored, scored / most)
        )
        return found

    def _effort(self, point: Operating, share: float, most: int = 0) -> int:
        """A filter thins the lists out, so that many more must be read for as many rows."""
        effort = int(np.ceil(point.effort / max(share, 1e-9)))
        if self._hnsw is not None:
            effort = max(effort, most * point.depth)
        return min(effort, self.effort_max)

    def _parameters(self, selector: Any, effort: int, scored: int, depth: float) -> Any:
        """Those of the last search, if it was of the same kind: making them takes as long as a
        tenth of a search."""
        last = self._last
        if last[0] is selector and last[1:3] == (effort, scored) and last[3] is not None:
            return last[3]
        base = self._of_index(selector, effort, scored)
        # The Python layer takes keywords that the stubs do not know.
        made = faiss.IndexRefineSearchParameters(k_factor=depth, base_index_params=base)  # type: ignore[call-arg]
        # Any thread's will do.
        self._last = selector, effort, scored, made
        return made

    def _of_index(self, selector: Any, effort: int, scored: int) -> Any:
        given: dict[str, Any] = {} if selector is None else {"sel": selector}
        parameters: Any
        if self._ivf is not None:
            parameters = faiss.SearchParametersIVF(nprobe=effort, **given)  # type: ignore[call-arg]
        elif self._hnsw is not None:
            effort = max(effort, scored)
            parameters = faiss.SearchParametersHNSW(efSearch=effort, **given)  # type: ignore[attr-defined]
        else:
            parameters = faiss.SearchParameters(**given)
        if self._transformed:
            return faiss.SearchParametersPreTransform(index_params=parameters)  # type: ignore[call-arg]
        return parameters


def load(kind: str, path: Path, rows: Flat, points: Sequence[Operating]) -> Ann:
    """Raises SnapshotRefused when the file is not such an index."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SnapshotRefused(f"{path.name}: unreadable ({str(error).splitlines()[0]})") from None
    if index.ntotal != rows.ntotal:
        raise SnapshotRefused(f"{path.name}: want {rows.ntotal} rows, got {index.ntotal}")
    return Ann(kind, index, points, rows)
