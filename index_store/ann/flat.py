"""Flat indexes: float16 rows that Faiss and numpy share, in memory or in a mapped file.

For QT_fp16 the codes of a Faiss scalar quantizer are the float16 bytes themselves, so one piece of
memory serves the scan and the exact re-score, and nothing is converted or copied. The same bytes
in a file are Faiss's own file of such an index, which it maps without reading it.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from contracts.errors import SnapshotRefused
from contracts.score import Vectors

Flat = faiss.IndexScalarQuantizer


class _Codes:
    """Faiss's memory for numpy's array protocol: the array keeps the Faiss index alive."""

    def __init__(self, index: Flat) -> None:
        self._index = index
        codes = faiss.rev_swig_ptr(index.codes.data(), index.codes.size())
        self.__array_interface__ = {
            "version": 3,
            "shape": (index.ntotal, index.d),
            "typestr": "<f2",
            "data": (codes.ctypes.data, False),
        }


def empty(dim: int) -> Flat:
    """Return an index without rows."""
    return faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )


def blank_index(dim: int, rows: int) -> Flat:
    """Return an index of `rows` zero rows, to be written into through `index_vectors`."""
    index = empty(dim)
    index.add_sa_codes(np.zeros((rows, 2 * dim), np.uint8))
    return index


def flat_index(vectors: Vectors) -> Flat:
    """Return an index of a copy of `vectors` (n, dim)."""
    index = empty(vectors.shape[1])
    index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8).reshape(len(vectors), -1))
    return index


def index_vectors(index: Flat) -> Vectors:
    """Return the index's rows (n, dim), not a copy."""
    if not index.ntotal:
        return np.empty((0, index.d), np.float16)
    return np.asarray(_Codes(index))


def file_head(dim: int, rows: int) -> bytes:
    """Return the bytes before the rows in Faiss's file of such an index.

    With them a million rows are streamed to a file without an index of them in memory. They are
    the file of an empty index with two other numbers: `ntotal`, after the type and the dimension,
    and the number of bytes that follow, at the end. `mapped_index` and a test check that Faiss
    reads it back.
    """
    head = bytearray(faiss.serialize_index(empty(dim)).tobytes())
    head[8:16] = rows.to_bytes(8, "little")
    head[-8:] = (rows * dim * 2).to_bytes(8, "little")
    return bytes(head)


def mapped_index(path: Path, dim: int, rows: int) -> Flat:
    """Map the index in a file. Raises SnapshotRefused unless it has `rows` rows of `dim`."""
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise SnapshotRefused(f"{path.name}: unreadable ({str(error).splitlines()[0]})") from None
    if (index.d, index.ntotal) != (dim, rows):
        raise SnapshotRefused(
            f"{path.name}: want {rows} rows of {dim}, got {index.ntotal} of {index.d}"
        )
    found: Flat = index
    return found
