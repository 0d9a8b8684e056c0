"""One system of benchmarks.live_vs_pathway in its own process.

python -m benchmarks.following NAME ROWS SECONDS BATCH ...
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from api.live.top.ranked_item import ranked_item
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import StandingQuerySet
from api.queries.prepare import PreparedQuery, _Summand
from benchmarks import clip_like
from benchmarks.filled import Filled
from benchmarks.follower import Follower, Ids, K
from benchmarks.searching import truth
from contracts.events.record import Fetched
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors, exact_scores
from index_store.merge.run import MergeRunner
from index_store.search.matcher_numpy import NumpyMatcher
from index_store.segment.file_store import SegmentFileStore
from tidelens.process import gc_pauses

Row = dict[str, Any]

QUERIES = 100
_NEW = 50_000
# The right lists are found in float32.
_SLACK = 1e-6
# A system that takes longer than this for its first lists is not measured.
_LOADED_S_MAX = 240.0


class Tidelens:
    """The index and the standing queries as the node has them, with its rebuilds beside."""

    def load(self, rows: Vectors, queries: Vectors) -> None:
        self._filled = Filled()
        self._filled.fill([rows])
        self._loop = asyncio.new_event_loop()
        self._rebuilding = self._loop.create_task(self._rebuild())
        self._set = StandingQuerySet(NumpyMatcher(), lambda: None)
        self._changed: list[StandingQuery] = []
        self._standing = [self._made(query) for query in queries]
        self._lists: dict[StandingQuery, list[int]] = {}
        for standing in self._standing:
            self._set.add(standing)
        self._read()

    def prepared(self, ids: Ids, vectors: Vectors) -> list[Fetched]:
        """Return Kafka's records, as encoders write them."""
        return list(self._filled.batches([f"i{n}" for n in ids.tolist()], vectors))

    def upsert(self, batch: list[Fetched]) -> None:
        for some in batch:
            self._set.apply_batches(self._filled.index.apply(some))
        self._read()
        # Give a turn to the steps of a merge, most of which run in a process of their own.
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _rebuild(self) -> None:
        """Merge segments when due, as the timer of a node does."""
        with tempfile.TemporaryDirectory() as folder:
            rebuilder = MergeRunner(SegmentFileStore(Path(folder)))
            while True:
                plan = rebuilder.due_merge(self._filled.index, "images")
                if plan is not None:
                    await rebuilder.run(self._filled.index, "images", plan)
                await asyncio.sleep(1)

    def lists(self) -> list[list[int]]:
        return [self._lists[standing] for standing in self._standing]

    def close(self) -> None:
        self._rebuilding.cancel()
        self._loop.run_until_complete(asyncio.gather(self._rebuilding, return_exceptions=True))

    def _made(self, query: Vectors) -> StandingQuery:
        question = PreparedQuery("images", [_Summand(1.0, query)], k=K)
        made = StandingQuery(question)
        made.subscribe(lambda: self._changed.append(made))
        return made

    def _read(self) -> None:
        """Search again for the lists that need it, and read the lists that changed."""
        while taken := self._set.take_due(32):
            vectors = [standing.query.vector({}) for standing in taken]
            asked = [
                VectorQuery("images", vector, k=standing.list.wanted, exact=True)
                for standing, vector in zip(taken, vectors, strict=True)
            ]
            found = self._filled.index.view.search(asked)
            for standing, vector, hits in zip(taken, vectors, found, strict=True):
                searched = self._set.refill_result(standing, vector, list(map(ranked_item, hits)))
                assert searched is not None
                self._set.complete_refill(searched)
        for standing in self._changed:
            self._lists[standing] = [int(item.id[1:]) for _, item in standing.list.top()]
            standing.subscribers[0].has_changed = False
        self._changed.clear()


class Stream:
    """The changes, in which items get other vectors, and the right lists after each."""

    def __init__(self, rows: int) -> None:
        pictures, _ = clip_like.load()
        self.rows = np.concatenate(list(clip_like.widened(pictures, rows)))
        # Pictures that are not among the rows: texts are as far from one picture as from another,
        # and hashing could not tell what is near them.
        self.queries = next(clip_like.widened(pictures, QUERIES, seed=9))
        self._new = np.concatenate(list(clip_like.widened(pictures, _NEW, seed=5)))
        self._dice = np.random.default_rng(4)

    def batch(self, size: int) -> tuple[Ids, Vectors]:
        ids = self._dice.choice(len(self.rows), size, replace=False)
        vectors = self._new[self._dice.integers(_NEW, size=size)]
        self.rows[ids] = vectors
        return ids, vectors

    def recall(self, found: list[list[int]]) -> float:
        """Return the recall by scores, not by ids, since some items have the same vector."""
        right = truth(self.rows, self.queries).tolist()
        return float(
            np.mean([self._share(*one) for one in zip(self.queries, found, right, strict=True)])
        )

    def _share(self, query: Vectors, found: list[int], right: list[int]) -> float:
        bar = exact_scores(self.rows[right], query).min()
        return float((exact_scores(self.rows[found], query) >= bar - _SLACK).sum()) / K


def measured(follower: Follower, stream: Stream, size: int, seconds: float) -> Row:
    """Measure batches of one size, each answered before the next is given."""
    follower.upsert(follower.prepared(*stream.batch(size)))
    taken: list[float] = []
    cpu = time.process_time()
    while len(taken) < 3 or sum(taken) < seconds:
        batch = follower.prepared(*stream.batch(size))
        began = time.perf_counter()
        follower.upsert(batch)
        taken.append(time.perf_counter() - began)
        if sum(taken) > 4 * seconds:
            break
    spent = time.process_time() - cpu
    p50, p99 = np.percentile(taken, [50, 99]).tolist()
    return {
        "batch": size,
        "upserts_per_s": size * len(taken) / sum(taken),
        "p50_ms": p50 * 1e3,
        "p99_ms": p99 * 1e3,
        "cores": spent / sum(taken),
        "recall": stream.recall(follower.lists()),
    }


def followed(name: str, rows: int, seconds: float, sizes: list[int]) -> Iterator[Row]:
    stream = Stream(rows)
    follower: Follower
    if name == "tidelens":
        gc_pauses.shorten_pauses()  # as the node does
        follower = Tidelens()
    else:
        from benchmarks.pathway_follower import Pathway

        follower = Pathway(name, loaded_s_max=_LOADED_S_MAX)
    try:
        began = time.perf_counter()
        follower.load(stream.rows.copy(), stream.queries)
        loaded_s = time.perf_counter() - began
        for size in sizes:
            row = measured(follower, stream, size, seconds)
            memory = psutil.Process().memory_info().rss / 2**20
            yield {"system": name, "rows": rows, **row, "MB": memory, "loaded_s": loaded_s}
    finally:
        follower.close()


def main() -> None:
    _, name, rows, seconds, *sizes = sys.argv
    for row in followed(name, int(rows), float(seconds), [int(size) for size in sizes]):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
