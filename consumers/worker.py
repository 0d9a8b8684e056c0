"""The encoder worker: it turns the records of owned partitions into embeddings, in source order.

Each target has a lane of its own, so that neither waits for the other:

    fetch -> parse -> read and decode (many at once) -> wait for the model
                                                          |
    commit (a transaction for each partition) <- one batch runs, the next one forms

Batches grow while the model is busy, with no timer, and mix partitions; commits are per partition
and in source order. A lane bounds what every step may hold, and says in which state a claim is
(consumers/lane.py).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter

import structlog

from consumers.encode_job import EncodeJob, RecordChecks, encode_jobs, output_records, parse_records
from consumers.fair_semaphore import FairSemaphore
from consumers.labelling import Labeller
from consumers.lane import EncodeLane, EncodeTask, InflightClaim
from consumers.outcome_metrics import count_outcome
from consumers.picture_fetch import PictureLoader
from consumers.vector_cache import VectorCache
from consumers.worker_limits import WorkerLimits
from contracts import fault_points
from contracts.errors import Fenced, RecordTooLarge, RejectedRecord
from contracts.events.record import OutRecord, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from contracts.ports.encoder import Encoder
from contracts.ports.ownership import Lease, Ownership, RecordClaim
from contracts.score import Vectors
from contracts.topics import TARGETS

log = structlog.get_logger(__name__)

# The size of dead letters once a topic has refused one as too large: any topic accepts this much.
_SMALL_LETTER_BYTES_MAX = 16 * 1024

# One batch in the model, and one behind it, so that the model never waits for the loop.
_BATCHES_MAX = 2


class EncoderWorker:
    """The encoder of the partitions that `ownership` gives it; `run` it until cancelled."""

    def __init__(
        self,
        ownership: Ownership,
        encoder: Encoder,
        checks: RecordChecks,
        pictures: PictureLoader,
        limits: WorkerLimits,
        metrics: Metrics,
        clock: Clock,
        *,
        labeller: Labeller | None = None,
    ) -> None:
        self._ownership = ownership
        self._encoder = encoder
        self._checks = checks
        self._pictures = pictures
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._labeller = labeller
        self._vector_cache = VectorCache(limits.known_max)
        # Tasks by the digest of an input that is in a running batch: it is encoded once for all.
        self._same_input: dict[bytes, list[EncodeTask]] = {}
        self._lanes = {
            target: EncodeLane(
                target,
                batch_max=limits.batch_max(target),
                ahead_max=limits.batch_max(target) * limits.ahead,
                ahead_bytes_max=limits.ahead_bytes_max,
            )
            for target in TARGETS
        }
        # The lane that had the last batch is behind the other one.
        self._turns = deque(self._lanes.values())
        self._room = {target: asyncio.Event() for target in TARGETS}
        self._work = asyncio.Event()
        # Fair among partitions: a picture waits for those that are being decoded when it comes, and
        # then for at most one of each other partition.
        self._decoding = FairSemaphore(limits.decoding_max)
        self._pixel_room = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        # An encoder has one caller at a time.
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._truncated = 0
        metrics.queue_depth.labels("encode").set_function(
            lambda: sum(lane.ready for lane in self._lanes.values())
        )

    async def run(self) -> None:
        """Fetch, encode and commit until cancelled, or until one of these tasks fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for target, lane in self._lanes.items():
                    tasks.create_task(self._fetch(lane), name=f"fetch {target}")
                tasks.create_task(self._encode(), name="encode")
        finally:
            self._model.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, lane: EncodeLane) -> None:
        topic, room = self._checks.names.content(lane.target), self._room[lane.target]
        while True:
            self._drop_ended(lane)
            owned = {p for p in self._ownership.owned_partitions if p.topic == topic}
            full = lane.full_partitions(len(owned))
            if not lane.has_room or (owned and owned <= full):
                room.clear()
                with contextlib.suppress(TimeoutError):  # a lease that has ended makes room too
                    async with asyncio.timeout(self._limits.wait_ms / 1000):
                        await room.wait()
                continue
            claims = await self._ownership.fetch(
                topic,
                records_max=self._limits.batch_max(lane.target),
                timeout_ms=self._limits.wait_ms,
                without=full,
            )
            self._metrics.partitions_owned.set(len(self._ownership.owned_partitions))
            if claims:
                fault_points.reach("encode.claimed")
            for claim in claims:
                jobs = await asyncio.to_thread(
                    parse_records, claim.records, self._checks.for_lease(claim.lease)
                )
                self._start_claim(lane, claim, jobs)

    def _start_claim(self, lane: EncodeLane, claim: RecordClaim, jobs: Sequence[EncodeJob]) -> None:
        inflight = lane.add_claim(claim, jobs)
        for job in jobs:
            task = EncodeTask(job, inflight)
            known = self._vector_cache.get(job.digest)
            if job.is_done:
                inflight.finish_job()
            elif known is not None and job.ref is None:
                self._reuse_result(lane, task, known, None)
            elif known is not None:
                self._tasks.create_task(self._check_reference(lane, task, known))
            elif job.target == "images":
                self._tasks.create_task(self._load_picture(lane, task))
            else:
                self._enqueue(lane, task)
        self._commit_ready(lane)

    async def _load_picture(self, lane: EncodeLane, task: EncodeTask) -> None:
        if self._is_owned(task):
            partition = task.inflight.claim.lease.partition
            await self._pictures.load(task.job, partial(self._decode_permit, lane, partition))
            if task.job.rejection is None:
                self._enqueue(lane, task)
            else:
                self._finish_task(lane, task)

    @asynccontextmanager
    async def _decode_permit(
        self, lane: EncodeLane, partition: TopicPartition
    ) -> AsyncIterator[None]:
        """Hold a permit to decode. Few are given, since the size of a picture is not known yet."""
        async with self._decoding.permit(partition):
            while not lane.has_room_for_pixels:
                self._pixel_room.clear()
                await self._pixel_room.wait()
            yield

    async def _check_reference(self, lane: EncodeLane, task: EncodeTask, known: Vectors) -> None:
        if self._is_owned(task):
            await self._pictures.check_reference(task.job)
            if task.job.rejection is None:
                self._reuse_result(lane, task, known, None)
            else:
                self._finish_task(lane, task)

    def _enqueue(self, lane: EncodeLane, task: EncodeTask) -> None:
        lane.enqueue(task)
        self._work.set()

    async def _encode(self) -> None:
        """Keep one batch in the model and a full one behind it, while the next ones still grow."""
        running: list[asyncio.Task[None]] = []
        while True:
            self._work.clear()
            formed = self._next_batch(full=bool(running))
            if formed is not None:
                running.append(self._tasks.create_task(self._run(*formed)))
            if len(running) == _BATCHES_MAX:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif formed is None:
                await self._work.wait()
            running = [task for task in running if not task.done()]

    def _next_batch(self, *, full: bool) -> tuple[EncodeLane, list[EncodeTask]] | None:
        """Form a batch in the lane whose turn it is, or in the other one; None if neither can."""
        for lane in tuple(self._turns):
            batch = self._form_batch(lane, full=full)
            if batch:
                self._turns.remove(lane)
                self._turns.append(lane)
                return lane, batch
        return None

    def _form_batch(self, lane: EncodeLane, *, full: bool) -> list[EncodeTask]:
        """Take a batch out of the lane in which each input is once.

        A task whose input is known, or is in a running batch, gets that result instead.
        """
        batch: list[EncodeTask] = []
        while not batch and (tasks := lane.take_batch(full=full)):
            self._pixel_room.set()
            for task in tasks:
                digest = task.job.digest
                if not self._is_owned(task):
                    continue
                if (vector := self._vector_cache.get(digest)) is not None:
                    self._reuse_result(lane, task, vector, None)
                elif digest in self._same_input:
                    self._same_input[digest].append(task)
                else:
                    self._same_input[digest] = []
                    batch.append(task)
        return batch

    async def _run(self, lane: EncodeLane, batch: Sequence[EncodeTask]) -> None:
        jobs = [task.job for task in batch]
        loop = asyncio.get_running_loop()
        seconds = await loop.run_in_executor(self._model, _encode_timed, jobs, self._encoder)
        self._metrics.encode_batch.observe(len(jobs))
        self._metrics.encode_seconds.labels(lane.target).observe(seconds)
        self._count_truncated()
        fault_points.reach("encode.encoded")
        for task in batch:
            job = task.job
            if job.vector is not None:
                self._vector_cache.put(job.digest, job.vector)
            for same in self._same_input.pop(job.digest):
                self._reuse_result(lane, same, job.vector, job.rejection)
            self._finish_task(lane, task)
        self._work.set()

    def _reuse_result(
        self,
        lane: EncodeLane,
        task: EncodeTask,
        vector: Vectors | None,
        rejection: RejectedRecord | None,
    ) -> None:
        """Finish a task with the result of another task that had the same input."""
        task.job.vector, task.job.rejection = vector, rejection
        self._metrics.encode_reused.labels(lane.target).inc()
        self._finish_task(lane, task)

    def _count_truncated(self) -> None:
        more = self._encoder.truncated - self._truncated
        self._truncated += more
        self._metrics.encode_truncated.inc(more)

    def _finish_task(self, lane: EncodeLane, task: EncodeTask) -> None:
        task.job.image = None
        task.inflight.finish_job()
        if not task.inflight.open_jobs:
            self._commit_ready(lane)

    def _commit_ready(self, lane: EncodeLane) -> None:
        """Start to commit the claims that are done at the head of each lease."""
        for lease, done in lane.take_committable():
            self._tasks.create_task(self._commit(lane, lease, done))

    async def _commit(self, lane: EncodeLane, lease: Lease, done: Sequence[InflightClaim]) -> None:
        jobs = [job for inflight in done for job in inflight.jobs]
        sources = [record for inflight in done for record in inflight.claim.records]
        claim = RecordClaim(lease, sources, done[-1].claim.next_position)
        records = await asyncio.to_thread(self._outputs, jobs, lease.topic_id)
        began = perf_counter()
        try:
            await self._ownership.commit(claim, records)
        except Fenced as fenced:
            # The new owner encodes these records: it starts from the offset that was not moved.
            self._metrics.fenced.inc()
            log.warning("fenced", partition=lease.partition.partition, reason=str(fenced))
            lane.drop_leases([lease])
        except RecordTooLarge as error:
            if self._checks.letter_bytes_max <= _SMALL_LETTER_BYTES_MAX:
                raise
            # The records are fetched again. Only dead letters can be too large in what they make.
            self._checks = replace(self._checks, letter_bytes_max=_SMALL_LETTER_BYTES_MAX)
            log.error("dead letters are truncated from now on", error=str(error))
            lane.drop_leases([lease])
        else:
            self._metrics.transaction_seconds.observe(perf_counter() - began)
            now = self._clock.now()
            for job in jobs:
                count_outcome(job, self._metrics, now)
            lane.mark_committed(lease, done)
            self._commit_ready(lane)
        self._room[lane.target].set()
        self._pixel_room.set()

    def _outputs(self, jobs: Sequence[EncodeJob], topic_id: str) -> list[OutRecord]:
        space, checks = self._encoder.space, self._checks
        return [
            record
            for job in jobs
            for record in output_records(job, space, checks, topic_id, self._labeller)
        ]

    def _drop_ended(self, lane: EncodeLane) -> None:
        current = self._ownership.is_current
        lane.drop_leases(lease for lease in lane.active_leases() if not current(lease))
        self._pixel_room.set()

    def _is_owned(self, task: EncodeTask) -> bool:
        return self._ownership.is_current(task.inflight.claim.lease)


def _encode_timed(jobs: Sequence[EncodeJob], encoder: Encoder) -> float:
    """Encode in the model's thread, and return the seconds without the wait for that thread."""
    began = perf_counter()
    encode_jobs(jobs, encoder)
    return perf_counter() - began
