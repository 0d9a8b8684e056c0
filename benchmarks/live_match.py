"""What following standing queries costs, against the matrix product that it cannot do without.

    python -m benchmarks.live_match [--quick] [--json FILE]

1,000 to 100,000 standing queries (k=10, CLIP-like texts) over 100,000 CLIP-like pictures; new
pictures come in batches of 256 as fast as they are followed. Beside it in the same process, on the
same numbers: the bare float32 product and a threshold.
"""

import gc
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from api.queries import Question, _Part
from api.standing import Standing
from api.standing_set import StandingSet
from benchmarks import clip_like
from benchmarks.report import Goal, finish, parser
from contracts.hits import Hit
from contracts.ports import Applied
from contracts.records import RecordPosition
from contracts.score import Vectors, exact_scores
from index_store.matcher import NumpyMatcher

_CORPUS = 100_000
_BATCH = 256
_SECONDS = 8.0
_BLOCK = 4096
_K = 10


def hit(item_id: str, score: float) -> Hit:
    return Hit("images", item_id, 0, score, RecordPosition("content", 0, 0), None, "a caption")


def best(queries: Vectors, rows: Vectors, count: int) -> Iterator[list[Hit]]:
    """The exact best `count` rows for each query."""
    wide = rows.astype(np.float32).T
    for start in range(0, len(queries), 256):
        some = queries[start : start + 256]
        scores = some.astype(np.float32) @ wide
        near = np.argpartition(scores, -2 * count, axis=1)[:, -2 * count :]
        for query, numbers in zip(some, near, strict=True):
            exact = exact_scores(rows[numbers], query)
            ranked = sorted(zip((-exact).tolist(), numbers.tolist(), strict=True))[:count]
            yield [hit(f"i{number:06}", -negated) for negated, number in ranked]


def standing_set(queries: Vectors, rows: Vectors) -> tuple[StandingSet, list[Standing]]:
    found = StandingSet(NumpyMatcher(), lambda: None)
    made = [
        Standing(Question("images", [_Part(1.0, query)], k=_K), lambda: None) for query in queries
    ]
    for standing in made:
        found.add(standing)
    found.take(len(made))
    lists = best(queries, rows, made[0].list.wanted)
    for standing, query, hits in zip(made, queries, lists, strict=True):
        found.settle(standing, query, hits)
        standing.changed = False
    return found, made


def batches(vectors: Vectors) -> Iterator[Applied]:
    for start in range(0, len(vectors) - _BATCH + 1, _BATCH):
        ids = [f"n{start + n:07}" for n in range(_BATCH)]
        hits = [hit(item_id, 0.0) for item_id in ids]
        yield Applied("images", ids, vectors[start : start + _BATCH], [], hits.__getitem__)


def bare(queries: NDArray[np.float32], floors: NDArray[np.float32], vectors: Vectors) -> int:
    wide, found = vectors.astype(np.float32).T, 0
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ wide
        found += int((scores >= floors[start : start + _BLOCK, None]).sum())
    return found


def measure(count: int, rows: Vectors, texts: Any, new: Vectors) -> dict[str, Any]:
    queries = np.concatenate(list(clip_like.widened(texts, count, seed=3)))
    gc.collect()
    before = psutil.Process().memory_info().rss
    found, made = standing_set(queries, rows)
    gc.collect()
    memory = (psutil.Process().memory_info().rss - before) / count
    wide = queries.astype(np.float32)
    floors = np.array([standing.floor for standing in made], np.float32)
    changed = items = 0
    spent = took = took_bare = 0.0
    for batch in batches(new):
        # One after the other, so that both have the machine as it is at the moment.
        cpu = time.process_time()
        began = time.perf_counter()
        found.applied([batch])
        took += time.perf_counter() - began
        spent += time.process_time() - cpu
        began = time.perf_counter()
        bare(wide, floors, batch.vectors)
        took_bare += time.perf_counter() - began
        items += _BATCH
        for standing in made:
            changed += standing.changed
            standing.changed = False
        if took + took_bare > _SECONDS:
            break
    return {
        "standing": count,
        "items": items,
        "items_per_s": items / took,
        "bare_items_per_s": items / took_bare,
        "ratio": took_bare / took,
        "cpu_us_per_item": spent / items * 1e6,
        "lists_changed_per_item": changed / items,
        "bytes_beside_the_vector": memory - 4 * queries.shape[1],
        "searched_again": found.waiting(),
    }


def main() -> None:
    arguments = parser("live_match", __doc__ or "").parse_args()
    images, texts = clip_like.load()
    blocks = clip_like.widened(images, 2 * _CORPUS)
    rows = np.concatenate(list(islice(blocks, _CORPUS // 20_000)))
    new = np.concatenate(list(blocks))
    table, goals = [], []
    for count in (1_000, 10_000) if arguments.quick else (1_000, 10_000, 100_000):
        table.append(measure(count, rows, texts, new))
        print(table[-1], flush=True)
        name = f"{count} standing queries: items/s against the bare product"
        goals.append(Goal(name, table[-1]["ratio"], 0.7, "higher"))
        name = f"{count} standing queries: bytes each, beside the vector"
        goals.append(Goal(name, table[-1]["bytes_beside_the_vector"], 4096, "lower"))
    finish("live_match", table, goals, arguments.json)


if __name__ == "__main__":
    main()
