"""Sealed segments on a GPU: it nominates their rows, everything else stays on the CPU.

All code that knows of GPUs is here. A segment's rows go to the device as float16, and every search
reads all of them: an H100 reads 3.35 TB/s (NVIDIA's data sheet), a million rows of 512 dimensions
in a third of a millisecond, so that an index is faster only where memory is short. Then the
segment's own index is cloned, if Faiss has that type on GPUs. Otherwise, and whenever something
fails, the segment is searched on the CPU.

Faiss's GPU indexes take no selector: more rows are asked for, and the bitmap leaves out those that
were deleted or that a filter does not admit. Where too few would be left, the CPU answers.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from index_store.ann.faiss_index import AnnIndex
from index_store.segment.reader import Nominees, Selection, lowest_of
from index_store.segment.sealed import SealedSegment

log = structlog.get_logger(__name__)

# The number of rows that Faiss returns at most on a GPU (its wiki, "Faiss on the GPU").
_K_MAX = 2048
_SPARE = 16
# The ratio of asked to expected rows, since those that are left out do not lie evenly.
_MARGIN = 1.5
_GROWTH = 8
# Scratch memory; Faiss takes 1.5 GB by default.
_TEMP_BYTES = 256 << 20
_BLOCK_ROWS = 65_536
_ID_BYTES = 8


class DeviceRows:
    """The rows of one segment on a device, in a Faiss `index` with the segment's row numbers.

    `lock` is the device's. `parameters` are those of a cloned index; None means a scan.
    """

    def __init__(self, index: Any, lock: threading.RLock, parameters: Any = None) -> None:
        self.index = index
        self._lock = lock
        self._parameters = parameters

    def nominate(
        self, queries: NDArray[np.float32], most: int, selection: Selection
    ) -> Nominees | None:
        """Nominate as `SegmentReader.approximate` does; return None for too few selected rows."""
        limit = min(_K_MAX, selection.capacity)
        wanted = min(most, selection.count)
        asked = int((most + _SPARE) / max(selection.share, 1e-9) * _MARGIN)
        if selection.count == selection.capacity:
            asked = most
        while asked <= limit:
            with self._lock:
                scores, numbers = self.index.search(queries, asked, params=self._parameters)
            admitted = ~selection.refused(numbers)
            if admitted.sum(axis=1).min() >= wanted:
                # Keep the best of those admitted, in their order; missing ones are -1.
                first = np.argsort(~admitted, axis=1, kind="stable")[:, :most]
                kept = np.take_along_axis(np.where(admitted, numbers, -1), first, axis=1)
                best = np.take_along_axis(scores, first, axis=1)
                # Only a scan is complete: a clone of an index reads some of its lists.
                cuts = lowest_of(best, selection.count)
                return Nominees(best, kept, cuts, self._parameters is None)
            asked = limit if asked < limit < asked * _GROWTH else asked * _GROWTH
        return None


class Device:
    """A GPU of whose memory segments may take `memory_bytes`. One thread at a time searches."""

    def __init__(self, memory_bytes: int, number: int = 0) -> None:
        self._left = memory_bytes
        self._number = number
        # It is reentrant, as the garbage collector may free an index while a search holds it.
        self._lock = threading.RLock()
        self._resources: Any = faiss.StandardGpuResources()
        self._resources.setTempMemory(_TEMP_BYTES)

    def load_segment(self, segment: SealedSegment, recall: float) -> bool:
        """Load a segment's rows, or a clone of its index tuned for `recall`, as far as they fit.

        Returns False, with a line in the log, for a segment that stays on the CPU.
        """
        rows = segment.capacity * segment.flat_index.d * 2
        if self._try("float16 rows", segment, rows, self._flat):
            return True
        if segment.ann is not None:
            codes = segment.capacity * (segment.ann.index.sa_code_size() + _ID_BYTES)
            point = segment.ann.point_for(recall)

            def clone(segment: SealedSegment) -> DeviceRows:
                assert segment.ann is not None
                return self._clone(segment.ann, point.effort)

            if self._try(segment.ann.index_type, segment, codes, clone):
                return True
        log.warning(
            "segment is searched on the CPU: no room for it on the GPU",
            rows=segment.capacity,
            wanted_mb=rows >> 20,
            left_mb=self._left >> 20,
        )
        return False

    def _try(
        self,
        what: str,
        segment: SealedSegment,
        size: int,
        make: Callable[[SealedSegment], DeviceRows],
    ) -> bool:
        if size > self._left:
            return False
        try:
            with self._lock:
                made = make(segment)
                self._left -= size
        except RuntimeError as error:
            # Other programs hold the memory, or Faiss has this index type on the CPU only.
            reason = str(error).strip().splitlines()[-1:]
            log.warning("not placed on the GPU", what=what, rows=segment.capacity, reason=reason)
            return False
        weakref.finalize(made, self._give_back, [made.index], size)
        segment.device = made
        log.info("placed on the GPU", what=what, rows=segment.capacity, mb=size >> 20)
        return True

    def _give_back(self, held: list[Any], size: int) -> None:
        """Free an index of `size` bytes, under the lock: Faiss frees memory as it searches."""
        with self._lock:
            held.clear()
            self._left += size

    def _flat(self, segment: SealedSegment) -> DeviceRows:
        config = faiss.GpuIndexFlatConfig()
        config.device, config.useFloat16 = self._number, True
        index = faiss.GpuIndexFlatIP(self._resources, segment.flat_index.d, config)
        vectors = segment.rows.vectors
        for start in range(0, len(vectors), _BLOCK_ROWS):
            index.add(vectors[start : start + _BLOCK_ROWS].astype(np.float32))
        return DeviceRows(index, self._lock)

    def _clone(self, ann: AnnIndex, effort: int) -> DeviceRows:
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        index = faiss.index_cpu_to_gpu(self._resources, self._number, ann.index, options)
        parameters = faiss.SearchParametersIVF(nprobe=effort)  # type: ignore[call-arg]
        return DeviceRows(index, self._lock, parameters)


def open_device(memory_mb: int) -> Device | None:
    """Return the first GPU, or None where there is not one or `memory_mb` is 0."""
    if not memory_mb or not faiss.get_num_gpus():
        return None
    return Device(memory_mb << 20)
