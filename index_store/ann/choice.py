"""The index type of a segment: chosen by its size, or configured.

The float16 rows stay beside the index, mapped, and every answer is re-scored from them; so the
index may be coarse, and what counts is how fast it nominates. The table is for 100,000 rows of 512
dimensions, texts as queries for pictures, recall@10 of 0.95 and 0.99 after the re-score, one core:

    index type        bytes a row   0.95      0.99      build
    IVF256,PQ256x4fs  150           0.18 ms   0.44 ms   4 s     the default
    IVF256,SQ8        530           1.00 ms   2.8 ms    2 s
    HNSW32_SQ8        780           1.8 ms    8.5 ms    16 s    if configured
    Flat              0             4 ms, exact                 up to SCANNED_ROWS
"""

import re
from math import log2

import faiss

from contracts.errors import ConfigurationError

# Scanning so many rows takes half a millisecond on one core; an index would hardly be faster.
SCANNED_ROWS = 8_192
_LISTS_MAX = 16_384
# Numbers of dimensions that share a code, from fine to coarse.
_DIMS_A_CODE = (2, 4, 8)
# Rows that each list is trained on; Faiss warns below 39.
_TRAIN_PER_LIST = 64


def choose_index_type(
    rows: int, dim: int, scanned_rows: int = SCANNED_ROWS, bytes_max: int = 0
) -> str:
    """Return the Faiss factory string for so many rows; up to `scanned_rows` it is `Flat`.

    Its codes are the finest with which the index takes `bytes_max` bytes at most (0: any number),
    or else the coarsest.
    """
    if rows <= scanned_rows:
        return "Flat"
    lists = ivf_lists(rows)
    # Faiss compares codes in pairs.
    possible = [dims for dims in _DIMS_A_CODE if dim % (2 * dims) == 0]
    if not possible:
        return f"IVF{lists},SQ8"
    for dims in possible:
        # A code has four bits, a row a number of eight bytes, and each list a centroid.
        size = rows * (dim // dims // 2 + 8) + lists * dim * 4
        if size <= bytes_max or not bytes_max:
            break
    # These codes are compared in SIMD registers; the re-score repairs the order.
    return f"IVF{lists},PQ{dim // dims}x4fs"


def ivf_lists(rows: int) -> int:
    """Return the number of lists: the power of two nearest to the square root of `rows`.

    Reading the centroids and reading a list cost the same then. A search of a million rows in 1,024
    lists takes 0.5 ms (recall 0.95) and 1.0 ms (0.99); in 512 lists 1.1 and 2.4 ms; in 2,048 lists
    0.5 and 0.8 ms, and twice the time to train (benchmarks.index_types).
    """
    return min(1 << max(4, round(log2(max(1, rows)) / 2)), _LISTS_MAX)


def resolve_index_type(
    index_type: str, rows: int, dim: int, scanned_rows: int = SCANNED_ROWS, bytes_max: int = 0
) -> str:
    """Return the factory string that a configured `index_type` stands for.

    It is `auto`, or a factory string in which IVF may lack its number of lists.
    """
    if index_type == "auto":
        return choose_index_type(rows, dim, scanned_rows, bytes_max)
    return re.sub(r"\bIVF(?=[,_])", f"IVF{ivf_lists(rows)}", index_type)


def training_rows(index: faiss.Index) -> int:
    """Return the number of rows to train an index on at most."""
    ivf = faiss.try_extract_index_ivf(index)
    lists: int = ivf.nlist if ivf is not None else 1
    return max(_TRAIN_PER_LIST * lists, 20_000)


def require_index_type(index_type: str, dim: int) -> None:
    """Raise ConfigurationError unless segments of `index_type` can be made and searched."""
    if index_type in ("auto", "Flat"):
        return
    try:
        made = faiss.index_factory(
            dim, resolve_index_type(index_type, 100_000, dim), faiss.METRIC_INNER_PRODUCT
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
    else:
        # `made` owns the memory of the other two.
        outer = faiss.downcast_index(made)
        transformed = isinstance(outer, faiss.IndexPreTransform)
        inner = faiss.downcast_index(outer.index) if transformed else outer  # type: ignore[attr-defined]
        if isinstance(inner, (faiss.IndexIVF, faiss.IndexHNSW)):
            return
        reason = f"{type(inner).__name__} is not an IVF or HNSW index"
    raise ConfigurationError(
        f"TIDELENS_INDEX_KIND: want auto, Flat, or a Faiss factory string of an IVF or HNSW index, "
        f"got {index_type!r}: {reason}"
    )
