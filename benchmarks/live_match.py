"""Cost of following standing queries, against the matrix product that every way needs.

    python -m benchmarks.live_match [--quick] [--json FILE]

1,000 to 100,000 standing queries (k=10, CLIP-like texts) over 100,000 CLIP-like pictures; new
pictures come in batches of 256 as fast as they are followed. Beside it in the same process, on the
same numbers: the bare float32 product and a threshold. How late others get their turn of the event
loop is measured apart, by a task that wants it every millisecond while batches are folded as in a
node.

Memory is what the interpreter allocates for the standing queries and their lists, less the array of
their vectors: when the lists are new, and when they have followed the new pictures. Lists share
items, the more the more lists there are over the same corpus; so the rows say how many items there
are to a list.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from api.live.top.apply_queue import ApplyQueue
from api.live.top.ranked_item import ranked_item
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import StandingQuerySet
from api.queries.prepare import PreparedQuery, _Summand
from benchmarks import clip_like
from benchmarks.report import Goal, finish, parser
from contracts.events.record import RecordPosition
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch, Searcher
from contracts.score import Vectors
from contracts.supervision.side_tasks import SideTasks
from contracts.wire.as_of import AsOf
from index_store.search.matcher_numpy import NumpyMatcher

_CORPUS = 100_000
_BATCH = 256
_SECONDS = 16.0
_BLOCK = 4096
_K = 10
_TICK_S = 0.001
_LATE_BATCHES = 32

# Numbers of rows and their scores, a line for each query.
_Best = tuple[NDArray[np.int64], NDArray[np.float64]]


def hit(number: int, score: float) -> Hit:
    """Return a hit as a search makes it: it shares nothing with another hit."""
    source = RecordPosition("content", number % 12, number // 12)
    caption = f"a short caption of {number:07}"
    return Hit("images", f"i{number:07}", 0, score, source, None, caption)


def best(queries: Vectors, rows: Vectors, count: int) -> _Best:
    """Return the exact best `count` rows for each query, of twice as many by a float32 product."""
    wide, found = rows.astype(np.float32), list[_Best]()
    for start in range(0, len(queries), _BLOCK):
        some = queries[start : start + _BLOCK]
        _, near = faiss.knn(some.astype(np.float32), wide, 2 * count, faiss.METRIC_INNER_PRODUCT)
        scores = np.empty(near.shape)
        for n in range(0, len(some), _BATCH):
            part = slice(n, n + _BATCH)
            exact = rows[near[part]].astype(np.float64)
            scores[part] = np.einsum("qnd,qd->qn", exact, some[part].astype(np.float64))
        order = np.lexsort((near, -scores))[:, :count]
        found.append((np.take_along_axis(near, order, 1), np.take_along_axis(scores, order, 1)))
    return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])


def standing_set(queries: Vectors, lists: _Best) -> tuple[StandingQuerySet, list[StandingQuery]]:
    found = StandingQuerySet(NumpyMatcher(), lambda: None)
    made = [
        StandingQuery(PreparedQuery("images", [_Summand(1.0, query)], k=_K)) for query in queries
    ]
    for standing in made:
        standing.subscribe(lambda: None)
        found.add(standing)
    found.take_due(len(made))
    for standing, query, numbers, scores in zip(made, queries, *lists, strict=True):
        hits = list(map(hit, numbers.tolist(), scores.tolist()))
        searched = found.refill_result(standing, query, list(map(ranked_item, hits)))
        assert searched is not None
        found.complete_refill(searched)
        standing.subscribers[0].has_changed = False
    return found, made


def batches(vectors: Vectors) -> Iterator[AppliedBatch]:
    for start in range(0, len(vectors) - _BATCH + 1, _BATCH):
        hits = [hit(_CORPUS + start + n, 0.0) for n in range(_BATCH)]
        ids = [one.id for one in hits]
        yield AppliedBatch("images", ids, vectors[start : start + _BATCH], [], hits.__getitem__)


def bare(queries: NDArray[np.float32], floors: NDArray[np.float32], vectors: Vectors) -> int:
    wide, found = vectors.astype(np.float32).T, 0
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ wide
        found += int((scores >= floors[start : start + _BLOCK, None]).sum())
    return found


def speed(queries: Vectors, lists: _Best, new: Vectors) -> dict[str, Any]:
    found, made = standing_set(queries, lists)
    wide = queries.astype(np.float32)
    floors = np.array([standing.list.floor for standing in made], np.float32)
    changed = items = 0
    spent = took = took_bare = 0.0
    for batch in batches(new):
        # One after the other, so that both have the machine as it is at the moment.
        cpu = time.process_time()
        began = time.perf_counter()
        found.apply_batches([batch])
        took += time.perf_counter() - began
        spent += time.process_time() - cpu
        began = time.perf_counter()
        bare(wide, floors, batch.vectors)
        took_bare += time.perf_counter() - began
        items += _BATCH
        for standing in made:
            changed += standing.subscribers[0].has_changed
            standing.subscribers[0].has_changed = False
        if took + took_bare > _SECONDS:
            break
    return {
        "items": items,
        "items_per_s": items / took,
        "bare_items_per_s": items / took_bare,
        "ratio": took_bare / took,
        "cpu_us_per_item": spent / items * 1e6,
        "lists_changed_per_item": changed / items,
        "searched_again": found.waiting(),
    }


class _Index:
    """A searcher as far as folding asks it."""

    def as_of(self) -> AsOf:
        return AsOf("clip", "one", {})


async def lateness(queries: Vectors, lists: _Best, new: Vectors) -> dict[str, Any]:
    """Measure how late others get their turn of the event loop while batches are applied."""
    found, _ = standing_set(queries, lists)
    folding = ApplyQueue(cast(Searcher, _Index()), found, SideTasks())
    late: list[float] = []

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            late.append(time.perf_counter() - began - _TICK_S)

    ticking = asyncio.create_task(tick())
    for batch in list(batches(new[: _LATE_BATCHES * _BATCH])):
        folding.add_batches([batch])
        while folding._task is not None:
            await asyncio.sleep(_TICK_S)
        await asyncio.sleep(_TICK_S)
    ticking.cancel()
    p99, most = np.percentile(late, [99, 100]) * 1e3
    return {"loop_late_ms_p99": float(p99), "loop_late_ms_max": float(most)}


def memory(queries: Vectors, lists: _Best, new: Vectors) -> dict[str, Any]:
    """Return the memory of lists made a second time, since tracing takes time."""
    gc.collect()
    tracemalloc.start()
    found, made = standing_set(queries, lists)
    held, rows = found._shared_items["images"], found._matrices["images"]

    def each() -> float:
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - rows._vectors.nbytes) / len(made)

    at_first = {"bytes_beside_the_vector": each(), "items_per_list": len(held) / len(made)}
    for batch in batches(new):
        found.apply_batches([batch])
    followed = {
        "bytes_when_followed": each(),
        "places_when_followed": sum(len(one.list) for one in made) / len(made),
    }
    tracemalloc.stop()
    return at_first | followed


def main() -> None:
    arguments = parser("live_match", __doc__ or "").parse_args()
    images, texts = clip_like.load()
    blocks = clip_like.widened(images, 2 * _CORPUS)
    rows = np.concatenate(list(islice(blocks, _CORPUS // 20_000)))
    new = np.concatenate(list(blocks))
    table, goals = [], []
    for count in (1_000, 10_000) if arguments.quick else (1_000, 10_000, 100_000):
        queries = np.concatenate(list(clip_like.widened(texts, count, seed=3)))
        lists = best(queries, rows, 2 * _K)
        followed = speed(queries, lists, new)
        late = asyncio.run(lateness(queries, lists, new))
        kept = memory(queries, lists, new[: followed["items"]])
        table.append({"standing": count, "corpus": _CORPUS} | followed | late | kept)
        print(table[-1], flush=True)
        name = f"{count} standing queries: items/s against the bare product"
        goals.append(Goal(name, followed["ratio"], 0.7, "higher"))
        name = f"{count} standing queries: bytes each, beside the vector"
        goals.append(Goal(name, kept["bytes_beside_the_vector"], 4096, "lower"))
    finish("live_match", table, goals, arguments.json)


if __name__ == "__main__":
    main()
