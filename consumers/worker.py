"""The encoder worker: owned partitions in, embeddings and offsets out, in source order.

Each target has a lane of its own, so that neither waits for the other:

    fetch -> parse -> read and decode (many at once) -> wait for the model
                                                          |
    commit (a transaction for each partition) <- one batch runs, the next one forms

Batches grow while the model is busy, with no timer, and mix partitions; commits are per partition
and in source order. Every step is bounded by what a lane lets be under way (consumers/lane.py).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import structlog

from consumers.encode_job import Job, RecordChecks, encode_jobs, outputs, parsed
from consumers.fair_semaphore import FairSemaphore
from consumers.labelling import Labeller
from consumers.lane import EncodeLane, EncodeTask, InflightClaim
from consumers.picture_fetch import Pictures
from consumers.vector_cache import VectorCache
from contracts import fault_points
from contracts.errors import Fenced, RecordTooLarge, RejectedRecord
from contracts.events.content_body import ID_BYTES_MAX
from contracts.events.record import OutRecord, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from contracts.ports.encoder import Encoder
from contracts.ports.ownership import Lease, Ownership, RecordClaim
from contracts.score import Vectors
from contracts.topics import TARGETS, Target

log = structlog.get_logger(__name__)

# Of letters from when a topic refused one for its size: what any topic takes.
_SMALL_LETTER_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Of one worker; `ahead` is what a partition may have under way, in batches."""

    pictures_max: int
    captions_max: int
    ahead: int
    ahead_bytes_max: int
    wait_ms: int
    known_max: int
    decoding_max: int

    def batch_max(self, target: Target) -> int:
        return self.pictures_max if target == "images" else self.captions_max


class EncoderWorker:
    """Runs until cancelled."""

    def __init__(
        self,
        ownership: Ownership,
        encoder: Encoder,
        intake: RecordChecks,
        pictures: Pictures,
        limits: WorkerLimits,
        metrics: Metrics,
        clock: Clock,
        *,
        labeller: Labeller | None = None,
    ) -> None:
        self._ownership = ownership
        self._encoder = encoder
        self._intake = intake
        self._pictures = pictures
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._labeller = labeller
        self._known = VectorCache(limits.known_max)
        # The same input, in a batch that runs: it is encoded once.
        self._riding: dict[bytes, list[EncodeTask]] = {}
        self._lanes = {
            target: EncodeLane(
                target,
                batch_max=limits.batch_max(target),
                ahead_max=limits.batch_max(target) * limits.ahead,
                ahead_bytes_max=limits.ahead_bytes_max,
            )
            for target in TARGETS
        }
        self._room = {target: asyncio.Event() for target in TARGETS}
        self._work = asyncio.Event()
        # Among partitions: a picture waits for at most one of each other partition, and for as many
        # as are being decoded when it comes.
        self._decoding = FairSemaphore(limits.decoding_max)
        self._taken = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        # Encoders take one caller.
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._truncated = 0
        metrics.queue_depth.labels("encode").set_function(
            lambda: sum(lane.ready for lane in self._lanes.values())
        )

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for target, lane in self._lanes.items():
                    tasks.create_task(self._fetch(lane), name=f"fetch {target}")
                tasks.create_task(self._encode(), name="encode")
        finally:
            self._model.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, lane: EncodeLane) -> None:
        topic, room = self._intake.names.content(lane.target), self._room[lane.target]
        while True:
            self._drop_ended(lane)
            owned = {p for p in self._ownership.owned_partitions if p.topic == topic}
            full = lane.full(len(owned))
            if not lane.has_room or (owned and owned <= full):
                room.clear()
                with contextlib.suppress(TimeoutError):  # what ended meanwhile makes room, too
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
                jobs = await asyncio.to_thread(parsed, claim.records, self._intake.of(claim.lease))
                self._take_off(lane, claim, jobs)

    def _take_off(self, lane: EncodeLane, claim: RecordClaim, jobs: Sequence[Job]) -> None:
        flight = lane.take_off(claim, jobs)
        for job in jobs:
            errand = EncodeTask(job, flight)
            known = self._known.get(job.digest)
            if job.settled:
                flight.open -= 1
            elif known is not None and job.ref is None:
                self._reuse(lane, errand, known, None)
            elif known is not None:
                self._tasks.create_task(self._recognise(lane, errand, known))
            elif job.target == "images":
                self._tasks.create_task(self._see(lane, errand))
            else:
                self._wait(lane, errand)
        self._land(lane)

    async def _see(self, lane: EncodeLane, errand: EncodeTask) -> None:
        if self._holds(errand):
            partition = errand.flight.claim.lease.partition
            await self._pictures.see(errand.job, partial(self._turn, lane, partition))
            if errand.job.rejection is None:
                self._wait(lane, errand)
            else:
                self._settle(lane, errand)

    @asynccontextmanager
    async def _turn(self, lane: EncodeLane, partition: TopicPartition) -> AsyncIterator[None]:
        """To decode: few at once, since nobody knows how large a picture will be."""
        async with self._decoding.turn(partition):
            while not lane.has_room_for_pixels:
                self._taken.clear()
                await self._taken.wait()
            yield

    async def _recognise(self, lane: EncodeLane, errand: EncodeTask, known: Vectors) -> None:
        if self._holds(errand):
            await self._pictures.recognise(errand.job)
            if errand.job.rejection is None:
                self._reuse(lane, errand, known, None)
            else:
                self._settle(lane, errand)

    def _wait(self, lane: EncodeLane, errand: EncodeTask) -> None:
        lane.wait(errand)
        self._work.set()

    async def _encode(self) -> None:
        """One batch runs and the next one forms: it is closed when it is full, or has its turn."""
        running: list[asyncio.Task[None]] = []
        turn = 0
        while True:
            self._work.clear()
            formed = False
            for step in range(len(TARGETS)):
                lane = self._lanes[TARGETS[(turn + step) % len(TARGETS)]]
                batch = self._formed(lane, full=bool(running))
                if batch:
                    # The other lane has the next turn.
                    turn, formed = turn + step + 1, True
                    running.append(self._tasks.create_task(self._run(lane, batch)))
                    break
            if formed and len(running) == 1:
                continue
            if len(running) == 2:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif not formed:
                await self._work.wait()
            running = [task for task in running if not task.done()]

    def _formed(self, lane: EncodeLane, *, full: bool) -> list[EncodeTask]:
        """A batch in which each input stands once; who has the same input rides along."""
        batch: list[EncodeTask] = []
        while not batch and (errands := lane.batch(full=full)):
            self._taken.set()
            for errand in errands:
                digest = errand.job.digest
                if not self._holds(errand):
                    continue
                if (vector := self._known.get(digest)) is not None:
                    self._reuse(lane, errand, vector, None)
                elif digest in self._riding:
                    self._riding[digest].append(errand)
                else:
                    self._riding[digest] = []
                    batch.append(errand)
        return batch

    async def _run(self, lane: EncodeLane, batch: Sequence[EncodeTask]) -> None:
        jobs = [errand.job for errand in batch]
        loop = asyncio.get_running_loop()
        seconds = await loop.run_in_executor(self._model, _encoded, jobs, self._encoder)
        self._metrics.encode_batch.observe(len(jobs))
        self._metrics.encode_seconds.labels(lane.target).observe(seconds)
        self._count_truncated()
        fault_points.reach("encode.encoded")
        for errand in batch:
            job = errand.job
            if job.vector is not None:
                self._known.put(job.digest, job.vector)
            for rider in self._riding.pop(job.digest):
                self._reuse(lane, rider, job.vector, job.rejection)
            self._settle(lane, errand)
        self._work.set()

    def _reuse(
        self,
        lane: EncodeLane,
        errand: EncodeTask,
        vector: Vectors | None,
        rejection: RejectedRecord | None,
    ) -> None:
        """What came of the same input comes of this one, too."""
        errand.job.vector, errand.job.rejection = vector, rejection
        self._metrics.encode_reused.labels(lane.target).inc()
        self._settle(lane, errand)

    def _count_truncated(self) -> None:
        more = self._encoder.truncated - self._truncated
        self._truncated += more
        self._metrics.encode_truncated.inc(more)

    def _settle(self, lane: EncodeLane, errand: EncodeTask) -> None:
        errand.job.image = None
        errand.flight.open -= 1
        if errand.flight.open == 0:
            self._land(lane)

    def _land(self, lane: EncodeLane) -> None:
        """Commit what is done at the head of each partition."""
        for lease, flights in lane.land():
            self._tasks.create_task(self._commit(lane, lease, flights))

    async def _commit(
        self, lane: EncodeLane, lease: Lease, flights: Sequence[InflightClaim]
    ) -> None:
        jobs = [job for flight in flights for job in flight.jobs]
        claim = RecordClaim(
            lease,
            [record for flight in flights for record in flight.claim.records],
            flights[-1].claim.next_position,
        )
        records = await asyncio.to_thread(self._outputs, jobs, lease.topic_id)
        began = perf_counter()
        try:
            await self._ownership.commit(claim, records)
        except Fenced as fenced:
            # The batch is the new owner's now; it starts from the offset that we did not move.
            self._metrics.fenced.inc()
            log.warning("fenced", partition=lease.partition.partition, reason=str(fenced))
            lane.drop([lease])
        except RecordTooLarge as error:
            if self._intake.letter_bytes_max <= _SMALL_LETTER_BYTES_MAX:
                raise
            # The batch is fetched again, and letters are all that can be large in it.
            self._intake = replace(self._intake, letter_bytes_max=_SMALL_LETTER_BYTES_MAX)
            log.error("dead letters are truncated from now on", error=str(error))
            lane.drop([lease])
        else:
            self._metrics.transaction_seconds.observe(perf_counter() - began)
            now = self._clock.now()
            for job in jobs:
                self._account(job, now)
            lane.landed(lease, flights)
            self._land(lane)
        self._room[lane.target].set()
        self._taken.set()

    def _outputs(self, jobs: Sequence[Job], topic_id: str) -> list[OutRecord]:
        space, intake = self._encoder.space, self._intake
        return [
            record
            for job in jobs
            for record in outputs(job, space, intake, topic_id, self._labeller)
        ]

    def _drop_ended(self, lane: EncodeLane) -> None:
        lane.drop([lease for lease in lane.leases() if not self._ownership.is_current(lease)])
        self._taken.set()

    def _holds(self, errand: EncodeTask) -> bool:
        return self._ownership.is_current(errand.flight.claim.lease)

    def _account(self, job: Job, now: float) -> None:
        outcome = "vector" if job.vector is not None else "tombstone"
        self._metrics.encoded.labels(job.target, outcome).inc()
        age = max(0.0, now - job.record.timestamp_ms / 1000)
        self._metrics.stage_seconds.labels("encoded").observe(age)
        if job.rejection is not None:
            self._metrics.dead_letters.labels("encode", job.rejection.code).inc()
            log.warning(
                "dead letter",
                item=(job.record.key or b"")[:ID_BYTES_MAX].decode("utf-8", "replace"),
                topic=job.record.topic,
                partition=job.record.partition,
                offset=job.record.offset,
                reason=job.rejection.code,
                detail=job.rejection.message,
            )


def _encoded(jobs: Sequence[Job], encoder: Encoder) -> float:
    """Seconds in the model, without those in which the batch before it ran."""
    began = perf_counter()
    encode_jobs(jobs, encoder)
    return perf_counter() - began
