"""The interface behind which the systems of benchmarks.live_vs_pathway stand."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors

Ids = NDArray[np.int64]
K = 10


class Follower(Protocol):
    """Items 0 to n-1, and the best K of them for each query, known whenever a call returns."""

    def load(self, rows: Vectors, queries: Vectors) -> None: ...

    def prepared(self, ids: Ids, vectors: Vectors) -> Any:
        """Return a batch as it arrives. This is not measured, since the publisher does it."""
        ...

    def upsert(self, batch: Any) -> None: ...

    def lists(self) -> list[list[int]]: ...

    def close(self) -> None: ...
