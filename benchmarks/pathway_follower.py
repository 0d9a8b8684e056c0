"""Pathway in benchmarks.following: its index keeps answers up, or is asked again each time.

`query` of its LSH index, which its KNNIndex is too, keeps answers up. Its brute force and its
USearch index refuse that ("supported only in the as-of-now variant"): with each commit the queries
are asked again, as rows of their own, which are answered in the same commit. All comes through one
connector, because rows of two are not committed together. What is read is the index's own reply,
keys and scores, without the joins that look the rows up again.
"""

import threading
from typing import Any

import numpy as np
import pathway as pw
from numpy.typing import NDArray
from pathway.engine import BruteForceKnnMetricKind, USearchMetricKind
from pathway.internals.api import ref_scalar
from pathway.stdlib.indexing import BruteForceKnn, LshKnn, USearchKnn

from benchmarks.filled import DIM
from benchmarks.follower import Ids, K
from contracts.score import Vectors

_Pair = tuple[int, NDArray[np.float64]]


class _Item(pw.Schema):  # type: ignore[misc]
    """An item, or with a number below 0 a request to ask the queries again."""

    number: int = pw.column_definition(primary_key=True)
    version: int
    vector: np.ndarray[Any, Any]


class _Query(pw.Schema):  # type: ignore[misc]
    query: int = pw.column_definition(primary_key=True)
    vector: np.ndarray[Any, Any]


class _Source(pw.io.python.ConnectorSubject):  # type: ignore[misc]
    """A source whose rows come from the callers of `next`, until it is over."""

    def __init__(self, session_type: str) -> None:
        super().__init__(session_type=session_type)
        self.over = threading.Event()

    def run(self) -> None:
        self.over.wait()


class Pathway:
    """A follower by one of Pathway's index types: brute, usearch, or lsh.

    The last has its bands and the planes of each in its name, as in `lsh 20x12`.
    """

    def __init__(self, index_type: str, *, loaded_s_max: float) -> None:
        self._index_type = index_type
        self._keeps_up = index_type.startswith("lsh")
        self._loaded_s_max = loaded_s_max
        self._items = _Source("upsert")
        self._queries = _Source("native")
        self._version = 0
        self._replies: dict[Any, Any] = {}
        # Versions with the time of their commit, and the time up to which all is answered.
        self._commits: list[tuple[int, int]] = []
        self._answered_time = -1
        self._answered = -1
        self._turn = threading.Condition()

    def load(self, rows: Vectors, queries: Vectors) -> None:
        self._rows, self._count = len(rows), len(queries)
        given = pw.io.python.read(self._items, schema=_Item, autocommit_duration_ms=None)
        asking = pw.io.python.read(self._queries, schema=_Query, autocommit_duration_ms=None)
        items, commits = given.filter(given.number >= 0), given.filter(given.number < 0)
        if self._keeps_up:
            replies = self._kept_up(items, asking, commits)
        else:
            replies = self._asked_again(items, commits, asking)
        pw.io.subscribe(commits, self._on_commit)
        pw.io.subscribe(replies, self._on_reply, on_time_end=self._on_time_end)
        pw.set_license_key(None)  # with none there is no telemetry
        run = {"monitoring_level": pw.MonitoringLevel.NONE, "default_logging": False}
        threading.Thread(target=pw.run, kwargs=run, daemon=True).start()
        for number, query in enumerate(queries.astype(np.float64)):
            self._queries.next(query=number, vector=query)
        # Otherwise no commit of the items would be done before another one of the queries.
        self._queries.over.set()
        self._put(self.prepared(np.arange(len(rows)), rows), self._loaded_s_max)

    def prepared(self, ids: Ids, vectors: Vectors) -> list[_Pair]:
        return list(zip(ids.tolist(), vectors.astype(np.float64), strict=True))

    def upsert(self, batch: list[_Pair]) -> None:
        self._put(batch, None)

    def lists(self) -> list[list[int]]:
        numbers = {ref_scalar(number): number for number in range(self._rows)}
        of = [(n,) if self._keeps_up else (self._version - 1, n) for n in range(self._count)]
        replies = [self._replies[ref_scalar(*key)] for key in of]
        return [[numbers[key] for key, _ in reply] for reply in replies]

    def close(self) -> None:
        self._items.over.set()

    def _put(self, batch: list[_Pair], timeout_s: float | None) -> None:
        """Commit, and wait for the answers."""
        version, self._version = self._version, self._version + 1
        if not self._keeps_up:
            self._replies.clear()
        for number, vector in batch:
            self._items.next(number=number, version=version, vector=vector)
        self._items.next(number=-1 - version, version=version, vector=np.zeros(0))
        self._items.commit()
        with self._turn:
            if not self._turn.wait_for(lambda: self._answered >= version, timeout_s):
                raise TimeoutError(f"no lists after {timeout_s} s")

    def _kept_up(self, items: Any, asking: Any, commits: Any) -> Any:
        bands, planes = (int(number) for number in self._index_type.removeprefix("lsh ").split("x"))
        index = LshKnn(
            items.vector,
            None,
            dimensions=DIM,
            n_or=bands,
            n_and=planes,
            distance_type="cosine",
        )
        replies = index.query(asking.vector, number_of_matches=K)
        # Pathway reports no commit that changes no answer, so each changes all of them.
        latest = commits.reduce(version=pw.reducers.max(commits.version))
        return replies.join(latest, id=replies.id).select(replies._pw_index_reply, latest.version)

    def _asked_again(self, items: Any, commits: Any, asking: Any) -> Any:
        asked = commits.join(asking).select(commits.version, asking.query, asking.vector)
        asked = asked.with_id_from(asked.version, asked.query)
        if self._index_type == "brute":
            # Room for all distances at once: with the default, 131,072, three times as slow.
            index: Any = BruteForceKnn(
                items.vector,
                None,
                dimensions=DIM,
                reserved_space=self._rows,
                auxiliary_space=self._rows * self._count,
                metric=BruteForceKnnMetricKind.COS,
            )
        else:
            index = USearchKnn(
                items.vector,
                None,
                dimensions=DIM,
                reserved_space=self._rows,
                metric=USearchMetricKind.COS,
            )
        return index.query_as_of_now(asked.vector, number_of_matches=K)

    def _on_commit(self, key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        with self._turn:
            self._commits.append((time, row["version"]))
            self._settle()

    def _on_reply(self, key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        if is_addition:
            self._replies[key] = row["_pw_index_reply"]

    def _on_time_end(self, time: int) -> None:
        with self._turn:
            self._answered_time = time
            self._settle()

    def _settle(self) -> None:
        while self._commits and self._commits[0][0] <= self._answered_time:
            self._answered = self._commits.pop(0)[1]
        self._turn.notify_all()
