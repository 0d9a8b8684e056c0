"""The encoder worker: owned partitions in, embeddings and offsets out, in source order.

Two stages with one batch between them: while the model works on a batch, the next one is fetched
and decoded. Batches mix partitions; publishing is per partition, one transaction each.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter

import structlog

from consumers.jobs import (
    Intake,
    Job,
    encode_jobs,
    label_jobs,
    newest_of_each,
    outputs,
    prepare,
)
from consumers.labelling import Labeller
from contracts import faults
from contracts.errors import Fenced, RecordTooLarge
from contracts.events import ID_BYTES_MAX
from contracts.metrics import Metrics
from contracts.ports import Claimed, Clock, Encoder, Ownership

log = structlog.get_logger(__name__)

# Of letters from when a topic refused one for its size: what any topic takes.
_SMALL_LETTER_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class _Batch:
    """Claims of several partitions with their jobs, in source order within each."""

    claims: Sequence[tuple[Claimed, list[Job]]]

    def jobs(self) -> list[Job]:
        return [job for _, jobs in self.claims for job in jobs]


class EncoderWorker:
    """Runs until cancelled."""

    def __init__(
        self,
        ownership: Ownership,
        encoder: Encoder,
        intake: Intake,
        metrics: Metrics,
        clock: Clock,
        *,
        batch_records: int,
        wait_ms: int,
        threads: int,
        labeller: Labeller | None = None,
    ) -> None:
        self._ownership = ownership
        self._encoder = encoder
        self._intake = intake
        self._metrics = metrics
        self._clock = clock
        self._batch_records = batch_records
        self._wait_ms = wait_ms
        self._labeller = labeller
        # Decoding has its own threads; the model has one, since encoders take one caller.
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: asyncio.Queue[_Batch] = asyncio.Queue(maxsize=1)
        metrics.queue_depth.labels("encode").set_function(self._waiting.qsize)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._fetch_and_decode(), name="fetch")
                stages.create_task(self._encode_and_commit(), name="encode")
        finally:
            self._decoders.shutdown(wait=False, cancel_futures=True)
            self._model.shutdown(wait=False, cancel_futures=True)

    async def _fetch_and_decode(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            claimed = await self._ownership.fetch(
                records_max=self._batch_records, timeout_ms=self._wait_ms
            )
            self._metrics.partitions_owned.set(len(self._ownership.owned))
            if not claimed:
                continue
            faults.reach("encode.claimed")
            prepared = []
            for claim in claimed:
                records = newest_of_each(claim.records)
                work = [
                    loop.run_in_executor(self._decoders, prepare, record, self._intake)
                    for record in records
                ]
                prepared.append((claim, work))
            batch = _Batch([(claim, list(await asyncio.gather(*w))) for claim, w in prepared])
            await self._waiting.put(batch)

    async def _encode_and_commit(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._waiting.get()
            jobs = batch.jobs()
            began = perf_counter()
            await loop.run_in_executor(self._model, self._encode, jobs)
            if jobs:
                self._metrics.encode_batch.observe(len(jobs))
                self._metrics.encode_seconds.labels(_kinds(jobs)).observe(perf_counter() - began)
            faults.reach("encode.encoded")
            await asyncio.gather(*(self._commit(claim, jobs) for claim, jobs in batch.claims))

    def _encode(self, jobs: Sequence[Job]) -> None:
        encode_jobs(jobs, self._encoder)
        if self._labeller is not None:
            label_jobs(jobs, self._labeller)

    async def _commit(self, claim: Claimed, jobs: Sequence[Job]) -> None:
        intake = self._intake
        records = [
            record
            for job in jobs
            for record in outputs(job, self._encoder.space, intake, claim.lease.topic_id)
        ]
        began = perf_counter()
        try:
            await self._ownership.commit(claim, records)
        except Fenced as fenced:
            # The batch is the new owner's now; it starts from the offset that we did not move.
            self._metrics.fenced.inc()
            log.warning("fenced", partition=claim.lease.partition.partition, reason=str(fenced))
            return
        except RecordTooLarge as error:
            if intake.letter_bytes_max <= _SMALL_LETTER_BYTES_MAX:
                raise
            # The batch is fetched again, and letters are all that can be large in it.
            self._intake = replace(intake, letter_bytes_max=_SMALL_LETTER_BYTES_MAX)
            log.error("dead letters are truncated from now on", error=str(error))
            return
        self._metrics.transaction_seconds.observe(perf_counter() - began)
        now = self._clock.now()
        for job in jobs:
            self._account(job, now)

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


def _kinds(jobs: Sequence[Job]) -> str:
    targets = {job.target for job in jobs}
    return "both" if len(targets) > 1 else targets.pop()
