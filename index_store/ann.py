"""A segment's index: any Faiss factory string, searched at a tuned effort.

The index only nominates. How much it may cost is one number, the *effort*: nprobe of an IVF,
efSearch of an HNSW graph; and how many of its nominees are re-scored for each wanted row, the
*depth*. Both are measured on the segment (index_store.tuning) and kept with it as `Operating`
points; a search takes the cheapest that reached the recall asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.errors import SnapshotRefused

# What one code costs when it is looked at through an index, against one row of a float16 scan,
# and a row that the scan only passes over: 300k x 512, one core (benchmarks.index_search).
_ANN_ROW = 0.6
_SKIPPED_ROW = 0.02


@dataclass(frozen=True, slots=True)
class Operating:
    """Reaches `recall` (of the best 10, exactly re-scored) in `ms` a query.

    `effort` is nprobe or efSearch; `depth` nominees are re-scored for each row wanted.
    """

    effort: int
    depth: int
    recall: float
    ms: float


class Ann:
    """A trained and filled Faiss index over rows 0..n-1, inner product."""

    def __init__(self, kind: str, index: Any, points: Sequence[Operating]) -> None:
        """`points` ascend in cost."""
        self.kind = kind
        self.points = list(points)
        self.index = index
        self._ivf = faiss.try_extract_index_ivf(index)
        self._transformed = isinstance(index, faiss.IndexPreTransform)
        hnsw = faiss.downcast_index(index.index) if self._transformed else index
        self._hnsw = hnsw if isinstance(hnsw, faiss.IndexHNSW) else None

    @property
    def effort_max(self) -> int:
        return int(self._ivf.nlist) if self._ivf is not None else max(1, int(self.index.ntotal))

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
        rows = int(self.index.ntotal)
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

        `selector` admits `share` of the rows. Scores are those of the index's codes, so they err.
        """
        point = self.at(recall)
        return self.search_with(
            queries, most * point.depth, selector, self._effort(point, share, most)
        )

    def search_with(
        self, queries: NDArray[np.float32], nominees: int, selector: Any, effort: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        nominees = min(nominees, int(self.index.ntotal))
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self.index.search(
            queries, nominees, params=self._parameters(selector, effort, nominees)
        )
        return found

    def _effort(self, point: Operating, share: float, most: int = 0) -> int:
        """A filter thins the lists out, so that many more must be read for as many rows."""
        effort = int(np.ceil(point.effort / max(share, 1e-9)))
        if self._hnsw is not None:
            effort = max(effort, most * point.depth)
        return min(effort, self.effort_max)

    def _parameters(self, selector: Any, effort: int, nominees: int) -> Any:
        given: dict[str, Any] = {} if selector is None else {"sel": selector}
        parameters: Any
        # The Python layer takes keywords that the stubs do not know.
        if self._ivf is not None:
            parameters = faiss.SearchParametersIVF(nprobe=effort, **given)  # type: ignore[call-arg]
        elif self._hnsw is not None:
            effort = max(effort, nominees)
            parameters = faiss.SearchParametersHNSW(efSearch=effort, **given)  # type: ignore[attr-defined]
        else:
            parameters = faiss.SearchParameters(**given)
        if self._transformed:
            return faiss.SearchParametersPreTransform(index_params=parameters)  # type: ignore[call-arg]
        return parameters


def load(kind: str, path: Path, rows: int, points: Sequence[Operating]) -> Ann:
    """Raises SnapshotRefused when the file is not such an index."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SnapshotRefused(f"{path.name}: unreadable ({str(error).splitlines()[0]})") from None
    if index.ntotal != rows:
        raise SnapshotRefused(f"{path.name}: want {rows} rows, got {index.ntotal}")
    return Ann(kind, index, points)
