"""Rebuild and swap: a target's rows into one new sealed segment, while everything goes on.

The rows of one view go to files, a child process builds the segment from them, the node maps it,
checks it, warms it, and swaps it in by one assignment; what was deleted meanwhile is deleted in it
too, what was added stands in chunks of its own. Whatever fails, the index stays as it was.
"""

import asyncio
import mmap
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import faiss
import numpy as np
import orjson
import structlog

from contracts import fault_points
from contracts.errors import RebuildFailed, SnapshotRefused
from contracts.score import Vectors
from contracts.supervision.children import module_command
from contracts.topics import TARGETS, Target
from index_store import digest
from index_store.ann import choice, tuning
from index_store.ann.faiss_index import OperatingPoint
from index_store.index import Index
from index_store.merge.build_process import BUILT, BuildInput, BuildSpec
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.files import SegmentFiles
from index_store.segment.manager import PendingMerge, SegmentManager
from index_store.segment.reader import SegmentReader
from index_store.segment.sealed import SealedSegment

log = structlog.get_logger(__name__)

# To tune on, of each target: recall is then known to about a percent.
_ROWS_ASKED = 128
# All is built anew when rows beside the largest segment, or dead ones, are this share of it.
_GROWN_SHARE = 0.5
_DEAD_SHARE = 0.3
# Searching so many growing rows that have codes costs no more than scanning one.
_CODED_PER_SCANNED = 4
# Of a sample of ten or more queries: ties may fall otherwise.
_SAMPLE_SLACK = 0.02


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a rebuild did."""

    target: Target
    rows: int
    kind: str
    points: Sequence[OperatingPoint]
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What to put into one new segment beside the growing rows: `segments` (None: all).

    `like` is the segment whose training its index takes over; None: trained anew.
    """

    reason: str
    segments: Sequence[SealedSegment] | None = None
    like: SealedSegment | None = None


MERGE_ALL = MergePlan("asked for")


def due_merge(
    table: SegmentManager, index_type: str = "auto", scanned_rows: int = choice.SCANNED_ROWS
) -> MergePlan | None:
    """What a rebuild would be good for now, if anything: a large one first, else a small one."""
    return due_full_merge(table, index_type, scanned_rows) or due_growing_merge(
        table, index_type, scanned_rows
    )


def due_full_merge(
    table: SegmentManager, index_type: str = "auto", scanned_rows: int = choice.SCANNED_ROWS
) -> MergePlan | None:
    """To build all anew: the first index, or when much has died or grown. Not while one does."""
    main = _largest_indexed(table, index_type)
    if main is None:
        scanned = table.unindexed_rows
        if scanned <= scanned_rows or table.is_merging:
            return None
        return MergePlan(f"{scanned} rows without an index")
    free = table.mergeable_segments
    if main not in free:
        return None
    sealed = sum(segment.capacity for segment in free)
    dead = sealed - sum(segment.live for segment in free)
    if dead > max(_DEAD_SHARE * sealed, scanned_rows):
        return MergePlan(f"{dead} of {sealed} sealed rows are dead")
    beside = table.growing_rows + sealed - main.capacity
    if beside > max(_GROWN_SHARE * main.capacity, scanned_rows):
        return MergePlan(f"{beside} rows beside a segment of {main.capacity}")
    return None


def due_growing_merge(
    table: SegmentManager, index_type: str = "auto", scanned_rows: int = choice.SCANNED_ROWS
) -> MergePlan | None:
    """To index the growing rows by themselves, trained like the largest segment; also while that
    is being built anew, so that no search ever scans many more than `scanned_rows`."""
    main = _largest_indexed(table, index_type)
    # Of one whose rows all died no snapshot keeps the files.
    if main is None or not main.live:
        return None
    rest = [segment for segment in table.mergeable_segments if segment is not main]
    plain = [segment for segment in rest if segment.ann is None]
    growing = table.growing_rows + sum(segment.capacity for segment in plain)
    coded = table.coded_rows
    if growing - coded + coded // _CODED_PER_SCANNED < scanned_rows:
        return None
    return MergePlan(f"{growing} growing rows", _with_similar_sizes(plain, rest, growing), main)


def _largest_indexed(table: SegmentManager, index_type: str) -> SealedSegment | None:
    """The largest segment that has what `index_type` asks for."""
    return table.largest(indexed=index_type != "Flat")


def _with_similar_sizes(
    chosen: Sequence[SealedSegment], rest: Sequence[SealedSegment], rows: int
) -> Sequence[SealedSegment]:
    """With segments that are not much larger than all before, so that there are never many."""
    found = list(chosen)
    for segment in sorted(rest, key=lambda segment: segment.capacity):
        if segment not in found and segment.capacity <= 2 * rows:
            found.append(segment)
            rows += segment.capacity
    return found


class MergeRunner:
    """Runs one large rebuild at a time, and one small one beside it."""

    def __init__(
        self,
        spill: SegmentFileStore,
        *,
        index_type: str = "auto",
        scanned_rows: int = choice.SCANNED_ROWS,
        bytes_max: int = 0,
        threads: int = 1,
        recent: Callable[[Target], Vectors] | None = None,
        place: Callable[[SealedSegment], object] | None = None,
    ) -> None:
        """`recent` tells vectors of queries that came lately, to tune on; `place` puts a segment
        where it is searched faster, if there is such a place."""
        self._spill = spill
        self._kind = index_type
        self._scanned_rows = scanned_rows
        self._bytes_max = bytes_max
        self._threads = threads
        self._recent = recent or (lambda target: np.empty((0, 1), np.float16))
        self._place = place
        self._large, self._small = asyncio.Lock(), asyncio.Lock()

    def due_merge(self, index: Index, target: Target) -> MergePlan | None:
        """What `run` would be good for now, if anything."""
        return due_merge(index.segments_of(target), self._kind, self._scanned_rows)

    def due_growing_merge(self, index: Index, target: Target) -> MergePlan | None:
        """The same of what may run beside a large one."""
        return due_growing_merge(index.segments_of(target), self._kind, self._scanned_rows)

    async def run(self, index: Index, target: Target, plan: MergePlan = MERGE_ALL) -> MergeResult:
        """Raises RebuildFailed; then the index is as it was."""
        if plan.like is not None:
            async with self._small:
                # While it waited, a large one may have taken up what it was to hold, and with its
                # swap the segment that it was to be trained like is gone.
                plan = replace(plan, like=_largest_indexed(index.segments_of(target), self._kind))
                return await self._run(
                    index, target, plan, index.begin_merge(target, plan.segments)
                )
        async with self._large:
            async with self._small:
                # All of it: a small one that is under way ends first.
                merge = index.begin_merge(target, plan.segments)
            return await self._run(index, target, plan, merge)

    async def _run(
        self, index: Index, target: Target, plan: MergePlan, merge: PendingMerge
    ) -> MergeResult:
        began = perf_counter()
        try:
            segment = await self._built(index, target, merge, plan)
        except BaseException as error:
            index.abort_merge(target, merge)
            if isinstance(error, (OSError, ValueError, SnapshotRefused)):
                raise RebuildFailed(f"{target}: {error}") from error
            raise
        if segment is not None:
            # Most of it here, so that the loop has only the last moment's to do.
            await asyncio.to_thread(index.apply_missed_deletes, target, merge, segment)
        # By one assignment: a search has either the old segments or the new one.
        index.commit_merge(target, merge, segment)
        await asyncio.to_thread(merge.release)
        fault_points.reach("rebuild.swapped")
        found = segment.ann if segment is not None else None
        done = MergeResult(
            target,
            0 if segment is None else segment.capacity,
            "Flat" if found is None else found.index_type,
            [] if found is None else found.points,
            perf_counter() - began,
            plan.reason,
        )
        log.info("rebuilt", target=target, rows=done.rows, kind=done.kind, reason=plan.reason)
        return done

    async def _built(
        self, index: Index, target: Target, merge: PendingMerge, plan: MergePlan
    ) -> SealedSegment | None:
        if not any(part.live for part in merge.readers):
            return None
        name = uuid.uuid4().hex
        trained = [] if plan.like is None else [plan.like.reader()]
        async with self._spill.building(name, [*merge.readers, *trained]) as out:
            # 1. The rows as files.
            spec = await write_build_spec(
                index,
                target,
                merge,
                self._spill,
                out,
                index_type=self._kind,
                threads=self._threads,
                recent=self._recent(target),
            )
            spec = replace(spec, scanned_rows=self._scanned_rows, bytes_max=self._bytes_max)
            if plan.like is not None and plan.like.files is not None:
                files, like = plan.like.files, str(plan.like.files.ann or "")
                spec = replace(
                    spec, like=like, index_type=plan.like.index_type, points=files.points
                )
            fault_points.reach("rebuild.spilled")
            # 2. The segment, by a process of its own.
            await _run_child(out / "spec.json", spec)
            fault_points.reach("rebuild.built")
            # 3. Mapped, checked, and warm before anybody sees it.
            segment = await asyncio.to_thread(open_built_segment, name, out, index.space.dim)
            await asyncio.to_thread(_require_same, merge.readers, segment)
            await asyncio.to_thread(_require_recall, segment, out, spec.queries)
            if self._place is not None:
                await asyncio.to_thread(self._place, segment)
            return segment

    async def place_on_device(self, index: Index) -> None:
        """The segments of a restored index, as those that are built here."""
        if self._place is None:
            return
        for target in TARGETS:
            for segment in index.segments_of(target).sealed_segments:
                await asyncio.to_thread(self._place, segment)
        index.refresh()


async def write_build_spec(
    index: Index,
    target: Target,
    merge: PendingMerge,
    spill: SegmentFileStore,
    out: Path,
    *,
    index_type: str,
    threads: int,
    recent: Vectors,
) -> BuildSpec:
    """What to build, its rows in files; those of sealed segments are there already.

    `recent` are vectors of queries that came lately.
    """
    pieces = []
    for n, part in enumerate(merge.readers):
        files = await spill.write_out(part)
        numbers = out / f"{n}.npy"
        await asyncio.to_thread(np.save, numbers, part.numbers())
        pieces.append(BuildInput(str(files.vectors), str(files.columns), files.rows, str(numbers)))
    queries = []
    of_rows = await asyncio.to_thread(_sample_queries, index)
    for n, some in enumerate([*of_rows, recent]):
        if len(some):
            queries.append(str(out / f"queries-{n}.npy"))
            await asyncio.to_thread(np.save, queries[-1], some)
    return BuildSpec(target, index.space.dim, index_type, threads, pieces, queries, str(out))


async def _run_child(path: Path, spec: BuildSpec) -> None:
    await asyncio.to_thread(path.write_bytes, orjson.dumps(asdict(spec)))
    process = await asyncio.create_subprocess_exec(
        *module_command("index_store.merge.build_process", str(path), str(os.getpid())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # Read when numpy's BLAS is loaded.
        env={**os.environ, "OPENBLAS_NUM_THREADS": str(spec.threads)},
    )
    try:
        assert process.stderr is not None
        told = await process.stderr.read()
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        last = told.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise RebuildFailed(f"{spec.target}: the building process ended with {code}: {last[0]}")


def open_built_segment(name: str, folder: Path, dim: int) -> SealedSegment:
    """The segment in a folder that the building process finished. Raises SnapshotRefused."""
    built = orjson.loads((folder / BUILT).read_bytes())
    points = [OperatingPoint(**point) for point in built["points"]]
    return SealedSegment.mapped(
        SegmentFiles.within(name, built["rows"], folder, built["kind"], points), dim
    )


def _sample_queries(index: Index) -> list[Vectors]:
    """Some live vectors of each target: what queries of either kind look like."""
    dice = np.random.default_rng(0)
    samples = []
    for target in TARGETS:
        parts = index.view.readers[target]
        shares = np.array([part.live for part in parts], np.float64)
        if not shares.sum():
            continue
        found = [np.empty((0, index.space.dim), np.float16)]
        counts = dice.multinomial(_ROWS_ASKED, shares / shares.sum())
        for part, count in zip(parts, counts, strict=True):
            numbers = dice.choice(part.numbers(), min(int(count), part.live), replace=False)
            found.append(part.rows.vectors[np.sort(numbers)])
        samples.append(np.concatenate(found))
    return samples


def _require_same(parts: Sequence[SegmentReader], segment: SealedSegment) -> None:
    """The new segment has the digest of the rows that it was built from."""
    old = np.concatenate([part.rows.hashes[part.numbers()] for part in parts])
    if digest.sum_of_hashes(old) != digest.sum_of_hashes(segment.rows.hashes):
        raise ValueError("the new segment does not have the digest of the rows it was built from")


def _require_recall(segment: SealedSegment, folder: Path, queries: Sequence[str]) -> None:
    """A few queries find through the mapped index what they found when it was built.

    And all pages are there that the first searches would wait for. Nothing here scans the rows:
    that would keep both cores, and the memory, from those who search.
    """
    segment.rows.vectors.view(np.uint8).reshape(-1)[:: mmap.PAGESIZE].max(initial=0)
    built = orjson.loads((folder / BUILT).read_bytes())
    if segment.ann is None or "found" not in built:
        return
    some = np.concatenate(tuning.sample_queries([np.load(path) for path in queries])).astype(
        np.float32
    )
    trial = tuning.TuningQueries(some, np.array(built["bars"], np.float32), np.empty(0, np.intp))
    last = segment.ann.points[-1]
    faiss.omp_set_num_threads(1)
    found = trial.recalls(segment.ann, last.effort, last.depth).mean()
    if found < built["found"] - _SAMPLE_SLACK:
        raise ValueError(
            f"recall of the new index: want {built['found']:.3f} as built, got {found:.3f}"
        )
