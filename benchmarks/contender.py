"""The small interface behind which the systems of benchmarks.index_search stand."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors

Ids = NDArray[np.int64]
Rate = Callable[..., Any]
TARGETS = (0.95, 0.99)
# Fields that are 0 in a share of 1/n of the rows.
FIELDS = {"half": 2, "hundredth": 100, "rare": 10_000}
_EFFORTS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Contender:
    """A system whose searches are measured. Threads may call it, unless it overrides `rates`.

    Every row n has the fields `half`, `hundredth` and `rare`: n modulo 2, 100 and 10,000.
    `condition` is a field that a search wants to be 0; `filters` says whether a system can do that.
    """

    filters = False

    def build(self, rows: Vectors, queries: Vectors) -> None: ...

    def search(self, query: Vectors) -> list[int]:
        """Return the ids of the best 10 rows."""
        raise NotImplementedError

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        raise NotImplementedError

    def delete(self, ids: Ids) -> None:
        raise NotImplementedError

    def set_effort(self, effort: int) -> None: ...

    def __init__(self) -> None:
        self._efforts: dict[float, int] = {}
        self.condition: str | None = None

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        """Set the least effort whose `recall` reaches `target`; with None, the one found before."""
        if recall is None:
            self.set_effort(self._efforts[target])
            return
        for effort in _EFFORTS:
            self.set_effort(effort)
            self._efforts[target] = effort
            if recall() >= target:
                return

    def rates(
        self, queries: Vectors, rate: Rate, async_rate: Rate, clients: Sequence[int] = (1, 8)
    ) -> list[Any]:
        """Return the rates that each number of clients reaches."""
        return [rate(self.search, queries, count) for count in clients]

    def rate_under(self, ingest: Any, queries: Vectors, rate: Rate, async_rate: Rate) -> Any:
        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            return rate(self.search, queries, 1)
        finally:
            ingest.stop()
            thread.join()
