"""Costs of each index type that a segment may have: memory, time to build, time to search.

    python -m benchmarks.index_types [--quick] [--rows N] [--types TYPE ...] [--json FILE]

The index alone, as it stands in its file: the float16 rows (2 bytes a dimension, mapped) and the
columns come on top of each. Searched with texts at pictures, on one core, tuned as a segment is.
"""

import time
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from benchmarks import clip_like
from benchmarks.filled import DIM
from benchmarks.report import Goal, finish, parser
from contracts.score import Vectors, unit
from index_store.ann import choice, flat, tuning
from index_store.ann.faiss_index import AnnIndex, OperatingPoint

INDEX_TYPES = (
    "IVF,Flat",
    "IVF,SQ8",
    f"IVF,PQ{DIM // 2}x4fs",
    f"IVF,PQ{DIM // 4}x4fs",
    f"OPQ{DIM // 4},IVF,PQ{DIM // 4}x4fs",
    f"IVF,PQ{DIM // 8}x4fs",
    f"OPQ{DIM // 8},IVF,PQ{DIM // 8}x4fs",
    f"IVF,PQ{DIM // 8}",
    f"OPQ{DIM // 8},IVF,PQ{DIM // 8}",
    "HNSW32",
    "HNSW32_SQ8",
)
_QUERIES = 200


def measure(index_type: str, rows: Vectors, queries: Vectors) -> dict[str, Any]:
    complete = choice.resolve_index_type(index_type, len(rows), DIM)
    index = faiss.index_factory(DIM, complete, faiss.METRIC_INNER_PRODUCT)
    wide, began = rows.astype(np.float32), time.perf_counter()
    index.train(wide[: choice.training_rows(index)])
    index.add(wide)
    seconds = time.perf_counter() - began
    points = tuning.measure_points(
        AnnIndex(complete, index, [], flat.flat_index(rows)), rows, [queries]
    )
    row: dict[str, Any] = {
        "kind": complete,
        "rows": len(rows),
        "bytes_a_row": faiss.serialize_index(index).nbytes / len(rows),
        "build_s": seconds,
    }
    for recall in (0.95, 0.99):
        row[f"ms_at_{recall}"] = _ms(points, recall)
    return row


def _ms(points: Sequence[OperatingPoint], recall: float) -> float | None:
    """Return the milliseconds of a query at that recall, or None if no effort reaches it."""
    return next((point.ms for point in points if point.recall >= recall), None)


def main() -> None:
    made = parser("index_types", __doc__ or "")
    made.add_argument("--rows", type=int)
    made.add_argument("--types", nargs="+", default=INDEX_TYPES, metavar="TYPE")
    arguments = made.parse_args()
    count = arguments.rows or (30_000 if arguments.quick else 100_000)
    images, texts = clip_like.load()
    rows = np.concatenate(list(clip_like.widened(images, count)))
    queries = unit(texts[:_QUERIES])
    table = []
    for index_type in arguments.types:
        table.append(measure(index_type, rows, queries))
        print(table[-1], flush=True)
    goals: list[Goal] = []
    finish("index_types", table, goals, arguments.json)


if __name__ == "__main__":
    main()
