"""The encode role: a worker, wired to Kafka, the model and /metrics."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from contracts.errors import BrokerUnavailable, TopicMismatch
from contracts.events.dead_letter import letter_bytes_max
from contracts.metrics import Metrics, register_process_metrics
from contracts.partitioner import partitioner
from contracts.ports.clock import Clock
from contracts.ports.encoder import Encoder, Preprocess
from contracts.ports.lag import LagSource
from contracts.settings import MIB, KafkaSettings, Settings
from contracts.supervision.processes import Part
from contracts.supervision.side_tasks import SideTasks
from contracts.topics import TARGETS, Names
from tidelens.process import gc_pauses
from tidelens.process.child_reports import ChildReport, ChildReporter
from tidelens.process.clock import SystemClock
from tidelens.process.heap_trim import trim
from tidelens.process.signals import stop_signal, unless_stopped, until_stopped
from tidelens.process.threads import in_daemon_thread
from tidelens.runtime.encoder_health import EncoderHealth
from tidelens.runtime.metrics_exposition import PartMetrics

if TYPE_CHECKING:
    from consumers.images.decoder_pool import DecoderPool
    from consumers.worker import EncoderWorker
    from streams.kafka.connection import KafkaConnection

log = structlog.get_logger(__name__)

_LAG_EVERY_S = 5.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Role:
    """The settings of an encoder, and what lives as long as its process."""

    settings: Settings
    kafka: KafkaSettings
    metrics: Metrics
    health: EncoderHealth
    stop: asyncio.Event
    reporter: ChildReporter


async def run_encoder(
    settings: Settings,
    kafka: KafkaSettings,
    *,
    attached: bool,
    reporter: ChildReporter,
    metrics_listener: int | None = None,
) -> bool:
    """Encode until stopped.

    With `attached`, the process reads the broker's address from the first line of stdin, and stops
    when stdin ends, since its parent is gone then. `reporter` reports to the parent once the worker
    is open. `metrics_listener` is the descriptor of a listening socket for /metrics. Returns False
    if stopped before the model was loaded: the thread that loads it may still run, and cannot be
    ended.
    """
    from tidelens.server.metrics_port import metrics_server

    metrics, health = Metrics(), EncoderHealth(has_broker=not attached)
    register_process_metrics(metrics.registry)
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(stop_signal())
        role = _Role(settings, kafka, metrics, health, stop, reporter)
        # A port that is in use is reported at once, not after the model was loaded.
        stack.enter_context(metrics_server(settings, metrics, health, metrics_listener))
        # The imports and the weights take seconds: load them while the broker starts.
        loading = asyncio.create_task(in_daemon_thread(lambda: _load(settings)))
        watched = asyncio.create_task(health.run())
        try:
            if not attached:
                return await _encode(role, settings.brokers or "", loading)
            parent = await _Parent.connect()
            brokers = await unless_stopped(stop, parent.address())
            if not brokers:
                return False
            health.has_broker = True
            watching = asyncio.create_task(parent.wait_for_exit())
            watching.add_done_callback(lambda _: stop.set())
            try:
                return await _encode(role, brokers, loading)
            finally:
                watching.cancel()
        finally:
            watched.cancel()
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading


def _load(settings: Settings) -> Encoder:
    from consumers.models import open_encoder

    return open_encoder(
        settings.model,
        threads=settings.encode_threads_used,
        precision=settings.precision_named,
        remote_code=settings.remote_code,
    )


class _Parent:
    """The process that started this one, at the other end of stdin."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    @classmethod
    async def connect(cls) -> "_Parent":
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        return cls(reader)

    async def address(self) -> str:
        """Return the first line; it is empty when the parent ended before it wrote one."""
        return (await self._reader.readline()).decode().strip()

    async def wait_for_exit(self) -> None:
        await self._reader.read()


async def _encode(role: _Role, brokers: str, loading: "asyncio.Task[Encoder]") -> bool:
    """Encode once the model is loaded and Kafka answers, until stopped.

    Returns False if stopped before the model was loaded.
    """
    from streams.kafka.connection import KafkaConnection

    metrics, health, stop = role.metrics, role.health, role.stop
    encoder = await unless_stopped(stop, loading)
    if encoder is None:
        log.info("stopped before the model was loaded")
        return False
    gc_pauses.forget_imports()
    metrics.set_space(encoder.space.name)
    health.space = encoder.space.name
    clock, connection = SystemClock(), KafkaConnection(brokers, role.kafka)
    if role.reporter and not await unless_stopped(stop, _answering(connection)):
        return True
    async with contextlib.AsyncExitStack() as stack:
        opening = open_worker(role.settings, connection, encoder, metrics, clock, health)
        worker = await unless_stopped(stop, stack.enter_async_context(opening))
        if worker is None:
            log.info("stopped before Kafka answered")
            return True
        if role.reporter:
            role.reporter.send(ChildReport())
        else:
            log.info("encoding", space=encoder.space.name, brokers=brokers)
        names = Names(role.settings.topic_prefix, encoder.space.name)
        await _run_tasks(role, worker, connection, names)
    log.info("encoder stopped")
    return True


async def _run_tasks(
    role: _Role, worker: "EncoderWorker", connection: "KafkaConnection", names: Names
) -> None:
    """Run the worker and its side tasks until stopped. Raises what ends the worker."""
    from streams.lag.kafka_lag import KafkaLag
    from streams.topics.watch import TopicWatch
    from tidelens.runtime.event_log import open_event_log

    side = SideTasks()
    role.metrics.registry.register(side)
    clock = SystemClock()
    lag = KafkaLag(connection, names, None, clock)
    async with open_event_log(role.settings, connection) as event_log:
        watch = TopicWatch(event_log, names, role.metrics)
        runs = side.supervise(
            {
                "worker": worker.run,
                "topics": watch.run,
                "lag": partial(update_lag_metrics, lag, role.metrics, clock, role.health),
                "trim": trim,
            }
        )
        try:
            await until_stopped(
                role.stop,
                {name: asyncio.create_task(run(), name=name) for name, run in runs.items()},
            )
        finally:
            await lag.stop()


async def _answering(connection: "KafkaConnection") -> bool:
    """Wait for Kafka to answer, then return True; `up`, which sent the address, restarts it."""
    warned = False
    while True:
        try:
            await connection.require_reachable()
        except BrokerUnavailable as error:
            if not warned:
                log.warning("waiting for Kafka", error=str(error))
            warned = True
            await asyncio.sleep(_POLL_S)
        else:
            return True


async def update_lag_metrics(
    source: LagSource, metrics: Metrics, clock: Clock, health: EncoderHealth | None = None
) -> None:
    """Update the lag metrics every 5 s until cancelled.

    While Kafka does not answer, they are cleared and encoding goes on. Raises any other error.
    """
    health = health or EncoderHealth()
    from aiokafka.errors import KafkaError

    while True:
        try:
            metrics.set_lag(await source.lag(), clock.now())
            health.broker = "reachable"
        except (BrokerUnavailable, KafkaError) as error:
            log.debug("the lag is not known", error=str(error))
            metrics.clear_lag()
            health.broker = "unreachable"
        except Exception as error:
            metrics.clear_lag()
            if isinstance(error, TopicMismatch):
                health.broker = "reachable"  # Only a Kafka that answers can show a mismatch.
            raise
        await asyncio.sleep(_LAG_EVERY_S)


@contextlib.asynccontextmanager
async def open_worker(
    settings: Settings,
    connection: "KafkaConnection",
    encoder: Encoder,
    metrics: Metrics,
    clock: Clock,
    health: EncoderHealth | None = None,
) -> "AsyncIterator[EncoderWorker]":
    """Yield a worker that takes part in the encoder group of its space; the caller runs it.

    Raises TopicMismatch if a topic of the space is missing.
    """
    from consumers.encode_job import RecordChecks
    from consumers.labelling import Labeller
    from consumers.picture_fetch import PictureLoader
    from consumers.references import ReferenceLimits, References
    from consumers.worker import EncoderWorker
    from consumers.worker_limits import WorkerLimits
    from streams.ownership.kafka_ownership import KafkaEncoderLog
    from tidelens.runtime.event_log import open_event_log

    names = Names(settings.topic_prefix, encoder.space.name)
    topics = [f(target) for f in (names.content, names.embeddings) for target in TARGETS]
    async with open_event_log(settings, connection) as event_log:
        counts = await event_log.partition_counts(topics)
    intake = RecordChecks(
        names,
        counts,
        partitioner(settings.partitioner),
        letter_bytes_max(settings.record_bytes_max),
    )
    labeller = None
    if settings.labels:
        labeller = await asyncio.to_thread(
            Labeller,
            encoder,
            settings.labels,
            settings.label_templates,
            count=settings.label_count,
            probability_min=settings.label_probability_min,
        )
    encoder_log = KafkaEncoderLog(
        connection,
        names,
        record_bytes_max=settings.record_bytes_max,
        session_timeout_ms=settings.encode_session_ms,
        drain_ms=settings.encode_drain_ms,
    )
    part = Part("decode", pause_max_s=settings.restart_pause_max_s)
    part.mark_running()  # Each decoder is started by its first picture.
    metrics.registry.register(PartMetrics([part]))
    async with (
        open_decoders(settings, encoder.preprocess) as decoders,
        References(ReferenceLimits.from_settings(settings)) as references,
        encoder_log.join(names.encoder_group) as ownership,
    ):
        if health is not None:
            health.watch(ownership)
        metrics.queue_depth.labels("references").set_function(lambda: references.waiting)
        yield EncoderWorker(
            ownership,
            encoder,
            intake,
            PictureLoader(references.read, references.require_allowed, decoders.decode, part),
            WorkerLimits(
                pictures_max=settings.encode_batch_pictures,
                captions_max=settings.encode_batch_captions,
                ahead=settings.encode_ahead_batches,
                ahead_bytes_max=settings.encode_ahead_mb * MIB,
                wait_ms=settings.encode_wait_ms,
                known_max=settings.encode_known_max,
                decoding_max=_decoding_max(settings.encode_threads_used),
            ),
            metrics,
            clock,
            labeller=labeller,
        )


def _decoding_max(processes: int) -> int:
    """Return how many pictures may be decoded or wait for a decoder at once.

    Several decoders get one waiting picture beside those that they decode, so that none is idle:
    without it, two decode 5 % fewer pictures. A single decoder gets none, since a waiting picture
    would be decoded before those of other partitions.
    """
    return processes + 1 if processes > 1 else 1


@contextlib.asynccontextmanager
async def open_decoders(settings: Settings, preprocess: Preprocess) -> "AsyncIterator[DecoderPool]":
    """Yield a pool of one decoder per thread of the model; each starts with its first picture."""
    from consumers.images.decoder_pool import DecoderPool
    from tidelens.runtime.decode_limits import content_limits

    decoders = DecoderPool(settings.encode_threads_used, content_limits(settings), preprocess)
    try:
        yield decoders
    finally:
        await asyncio.to_thread(decoders.close)
