"""Bytes a row and time to build of each kind of index that a segment may have.

    python -m benchmarks.kinds [--quick] [--rows N] [--json FILE]

The index alone, as it stands in its file: the float16 rows (2 bytes a dimension, mapped) and the
columns come on top of each.
"""

import time
from typing import Any

import faiss
import numpy as np

from benchmarks import clip_like
from benchmarks.filled import DIM
from benchmarks.report import Goal, finish, parser
from contracts.score import Vectors
from index_store import kinds

KINDS = (
    "IVF,Flat",
    "IVF,SQ8",
    f"IVF,PQ{DIM // 2}x4fs",
    "IVF,PQ64",
    "OPQ64,IVF,PQ64",
    "HNSW32",
    "HNSW32_SQ8",
)


def measure(kind: str, rows: Vectors) -> dict[str, Any]:
    complete = kinds.complete(kind, len(rows), DIM)
    index = faiss.index_factory(DIM, complete, faiss.METRIC_INNER_PRODUCT)
    wide, began = rows.astype(np.float32), time.perf_counter()
    index.train(wide[: kinds.training_rows(index)])
    index.add(wide)
    seconds = time.perf_counter() - began
    size = faiss.serialize_index(index).nbytes
    return {
        "kind": complete,
        "rows": len(rows),
        "bytes_a_row": size / len(rows),
        "build_s": seconds,
    }


def main() -> None:
    made = parser("kinds", __doc__ or "")
    made.add_argument("--rows", type=int)
    arguments = made.parse_args()
    count = arguments.rows or (30_000 if arguments.quick else 100_000)
    images, _ = clip_like.load()
    rows = np.concatenate(list(clip_like.widened(images, count)))
    table = [measure(kind, rows) for kind in KINDS]
    goals: list[Goal] = []
    finish("kinds", table, goals, arguments.json)


if __name__ == "__main__":
    main()
