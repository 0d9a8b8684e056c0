"""Open the segment that a building process has written, and check it before it is used."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson

from index_store import digest
from index_store.ann import tuning
from index_store.ann.faiss_index import OperatingPoint
from index_store.merge.build_process import BUILT
from index_store.segment.files import SegmentFiles
from index_store.segment.reader import SegmentReader
from index_store.segment.sealed import SealedSegment

# The recall on a sample may be this much lower in the mapped index than in the building process: a
# sample may have as few as ten queries, and equal scores may be cut off at other rows.
_SAMPLE_SLACK = 0.02


def open_built_segment(name: str, folder: Path, dim: int) -> SealedSegment:
    """Map the segment in a folder that the building process finished. Raises SnapshotRefused."""
    built = _read_built(folder)
    points = [OperatingPoint(**point) for point in built["points"]]
    files = SegmentFiles.within(name, built["rows"], folder, built["kind"], points)
    return SealedSegment.mapped(files, dim)


def require_same_rows(readers: Sequence[SegmentReader], segment: SealedSegment) -> None:
    """Raise ValueError unless the new segment has the digest of the rows that it was built from."""
    old = np.concatenate([reader.rows.hashes[reader.numbers()] for reader in readers])
    if digest.sum_of_hashes(old) != digest.sum_of_hashes(segment.rows.hashes):
        raise ValueError("the new segment does not have the digest of the rows it was built from")


def require_recall(segment: SealedSegment, folder: Path, queries: Sequence[str]) -> None:
    """Raise ValueError unless sample queries find in the mapped index what they found when built.

    `queries` names .npy files of vectors (n, dim). This also reads the pages that the first
    searches would wait for. Nothing here scans the rows: that would keep the cores and the memory
    from the searches that go on.
    """
    segment.rows.vectors.view(np.uint8).reshape(-1)[:: mmap.PAGESIZE].max(initial=0)
    built = _read_built(folder)
    if segment.ann is None or "found" not in built:
        return
    sample = tuning.sample_queries([np.load(path) for path in queries])
    asked = np.concatenate(sample).astype(np.float32)
    thresholds = np.array(built["bars"], np.float32)
    trial = tuning.TuningQueries(asked, thresholds, np.empty(0, np.intp))
    best = segment.ann.points[-1]
    faiss.omp_set_num_threads(1)
    found = trial.recalls(segment.ann, best.effort, best.depth).mean()
    if found < built["found"] - _SAMPLE_SLACK:
        raise ValueError(
            f"recall of the new index: want {built['found']:.3f} as built, got {found:.3f}"
        )


def _read_built(folder: Path) -> dict[str, Any]:
    built: dict[str, Any] = orjson.loads((folder / BUILT).read_bytes())
    return built
