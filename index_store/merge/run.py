"""Run merges in the background: rows of a target go into one new sealed segment.

A merge writes the rows of one view to files; a child process builds the segment from them; the node
maps it, checks it, warms it, and commits it by one assignment. Rows that are deleted meanwhile are
deleted in the new segment too, and rows that arrive meanwhile go into other growing segments.
Whatever fails, the index stays as it was.

index_store.merge.policy decides when a merge is due, index_store.segment.pending_merge has the
states of a merge.
"""

import asyncio
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import orjson
import structlog

from contracts import fault_points
from contracts.errors import RebuildFailed, SnapshotRefused
from contracts.score import Vectors
from contracts.supervision.children import module_command
from contracts.topics import TARGETS, Target
from index_store.ann import choice
from index_store.ann.faiss_index import OperatingPoint
from index_store.index import Index
from index_store.merge import policy
from index_store.merge.build_inputs import write_build_spec
from index_store.merge.build_process import BuildSpec
from index_store.merge.built_segment import open_built_segment, require_recall, require_same_rows
from index_store.merge.policy import MERGE_ALL, MergePlan
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.pending_merge import PendingMerge
from index_store.segment.sealed import SealedSegment

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The outcome of a merge: the new segment's rows, index type (`kind`) and operating points.

    `reason` is that of the plan, and `seconds` is how long the merge took.
    """

    target: Target
    rows: int
    kind: str
    points: Sequence[OperatingPoint]
    seconds: float
    reason: str


class MergeRunner:
    """The runner of merges: one full merge at a time, and one growing merge beside it."""

    def __init__(
        self,
        files: SegmentFileStore,
        *,
        index_type: str = "auto",
        scanned_rows: int = choice.SCANNED_ROWS,
        bytes_max: int = 0,
        threads: int = 1,
        recent: Callable[[Target], Vectors] | None = None,
        place: Callable[[SealedSegment], object] | None = None,
    ) -> None:
        """Make a runner that builds segments of `index_type` with `threads` threads.

        Up to `scanned_rows` rows get no index; an index takes `bytes_max` bytes at most (0: any).
        `recent` returns vectors (n, dim) of the latest queries, to tune an index on. `place` loads
        a segment onto a device that searches it faster.
        """
        self._files = files
        self._index_type = index_type
        self._scanned_rows = scanned_rows
        self._bytes_max = bytes_max
        self._threads = threads
        self._recent = recent or (lambda target: np.empty((0, 1), np.float16))
        self._place = place
        self._full, self._growing = asyncio.Lock(), asyncio.Lock()

    def due_merge(self, index: Index, target: Target) -> MergePlan | None:
        """Return the merge that is due, or None."""
        return policy.due_merge(index.segments_of(target), self._index_type, self._scanned_rows)

    def due_growing_merge(self, index: Index, target: Target) -> MergePlan | None:
        """Return the growing merge that is due, or None. It may run beside a full one."""
        manager = index.segments_of(target)
        return policy.due_growing_merge(manager, self._index_type, self._scanned_rows)

    async def run(self, index: Index, target: Target, plan: MergePlan = MERGE_ALL) -> MergeResult:
        """Run a merge to its end. Raises RebuildFailed, which leaves the index as it was."""
        if plan.like is not None:
            async with self._growing:
                # While this waited, a full merge may have replaced the segment to be trained like,
                # and taken the rows.
                like = policy.largest_indexed(index.segments_of(target), self._index_type)
                merge = index.begin_merge(target, plan.segments)
                return await self._run(index, target, replace(plan, like=like), merge)
        async with self._full:
            async with self._growing:
                # A full merge takes all rows, so a growing merge that runs ends first.
                merge = index.begin_merge(target, plan.segments)
            return await self._run(index, target, plan, merge)

    async def _run(
        self, index: Index, target: Target, plan: MergePlan, merge: PendingMerge
    ) -> MergeResult:
        began = perf_counter()
        try:
            segment = await self._build(index, target, merge, plan)
        except BaseException as error:
            index.abort_merge(target, merge)
            if isinstance(error, (OSError, ValueError, SnapshotRefused)):
                raise RebuildFailed(f"{target}: {error}") from error
            raise
        if segment is not None:
            # Apply most deletes in a thread, so that only the latest ones occupy the event loop.
            await asyncio.to_thread(index.apply_missed_deletes, target, merge, segment)
        # One assignment: a search has either the old segments or the new one.
        index.commit_merge(target, merge, segment)
        await asyncio.to_thread(merge.release)
        fault_points.reach("rebuild.swapped")
        result = _result(target, segment, perf_counter() - began, plan.reason)
        log.info("rebuilt", target=target, rows=result.rows, kind=result.kind, reason=plan.reason)
        return result

    async def _build(
        self, index: Index, target: Target, merge: PendingMerge, plan: MergePlan
    ) -> SealedSegment | None:
        """Return the new segment, checked; or None where no live row is left."""
        if not any(reader.live for reader in merge.readers):
            return None
        name = uuid.uuid4().hex
        trained = [] if plan.like is None else [plan.like.reader()]
        async with self._files.building(name, [*merge.readers, *trained]) as out:
            # 1. Write the rows as files.
            spec = await self._write_spec(index, target, merge, plan, out)
            fault_points.reach("rebuild.spilled")
            # 2. Build the segment in a process of its own.
            await _run_child(out / "spec.json", spec)
            fault_points.reach("rebuild.built")
            # 3. Map it, check it, and warm it before any search sees it.
            segment = await asyncio.to_thread(open_built_segment, name, out, index.space.dim)
            await asyncio.to_thread(require_same_rows, merge.readers, segment)
            await asyncio.to_thread(require_recall, segment, out, spec.queries)
            if self._place is not None:
                await asyncio.to_thread(self._place, segment)
            return segment

    async def _write_spec(
        self, index: Index, target: Target, merge: PendingMerge, plan: MergePlan, out: Path
    ) -> BuildSpec:
        spec = await write_build_spec(
            index,
            target,
            merge,
            self._files,
            out,
            index_type=self._index_type,
            threads=self._threads,
            recent=self._recent(target),
            scanned_rows=self._scanned_rows,
            bytes_max=self._bytes_max,
        )
        if plan.like is None or plan.like.files is None:
            return spec
        files = plan.like.files
        like, index_type = str(files.ann or ""), plan.like.index_type
        return replace(spec, like=like, index_type=index_type, points=files.points)

    async def place_on_device(self, index: Index) -> None:
        """Load the segments of a restored index onto the device, if there is one."""
        if self._place is None:
            return
        for target in TARGETS:
            for segment in index.segments_of(target).sealed_segments:
                await asyncio.to_thread(self._place, segment)
        index.refresh()


def _result(
    target: Target, segment: SealedSegment | None, seconds: float, reason: str
) -> MergeResult:
    if segment is None:
        return MergeResult(target, 0, "Flat", [], seconds, reason)
    points = [] if segment.ann is None else segment.ann.points
    return MergeResult(target, segment.capacity, segment.index_type, points, seconds, reason)


async def _run_child(path: Path, spec: BuildSpec) -> None:
    """Write `spec` to `path` and run the building process on it. Raises RebuildFailed, OSError."""
    await asyncio.to_thread(path.write_bytes, orjson.dumps(asdict(spec)))
    process = await asyncio.create_subprocess_exec(
        *module_command("index_store.merge.build_process", str(path), str(os.getpid())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # numpy's BLAS reads it when it is loaded.
        env={**os.environ, "OPENBLAS_NUM_THREADS": str(spec.threads)},
    )
    try:
        assert process.stderr is not None
        output = await process.stderr.read()
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        last = output.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise RebuildFailed(f"{spec.target}: the building process ended with {code}: {last[0]}")
