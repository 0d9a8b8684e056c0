"""An index node that also answers: maintainer, searcher and API in one process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from api.app import background, create_app
from api.node import Node
from contracts.events.control_record import SpaceRef
from contracts.events.record import Positions
from contracts.metrics import Metrics
from contracts.settings import Settings
from contracts.supervision.processes import Parts
from contracts.supervision.side_tasks import Run, SideTasks
from contracts.topics import Names
from index_store.search.matcher_numpy import open_matcher
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.storage.open import open_blob_store
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from streams.lag.kafka_lag import KafkaLag
from streams.lag.spaces_lag import SpacesLag
from streams.maintainer.admin import MaintainerAdmin
from streams.maintainer.faust_app import streams_app
from streams.maintainer.maintainer import Maintainer
from streams.maintainer.windowed_counts import WindowedCounts
from streams.registry.control_faults import IgnoredRecords
from streams.registry.control_topic import ControlTopic
from tidelens.process import gc_pauses
from tidelens.process.clock import SystemClock
from tidelens.process.heap_trim import trim
from tidelens.process.signals import finish_until
from tidelens.runtime.first_space import open_queries
from tidelens.runtime.maintainer import make_maintainer
from tidelens.runtime.metrics_exposition import (
    ConnectionMetrics,
    ControlMetrics,
    Exposition,
    PartMetrics,
)
from tidelens.runtime.picture_reading import PictureReaders
from tidelens.runtime.query_encoder import QueryEncoderTask
from tidelens.runtime.spaces import ServedSpace, Spaces
from tidelens.server.file_descriptors import open_connection_limiter
from tidelens.server.server import serve

log = structlog.get_logger(__name__)

_STOP_S = 1.5


@dataclass(frozen=True, slots=True)
class NodeResources:
    """The resources that all spaces of a node share. The caller opens and closes them."""

    settings: Settings
    connection: KafkaConnection
    event_log: KafkaEventLog
    pictures: PictureReaders
    parts: Parts
    faults: IgnoredRecords


def open_node(
    shared: NodeResources, queries: QueryEncoderTask, listener: socket.socket, side: SideTasks
) -> dict[str, Run]:
    """Return the long-running tasks of a node, by name, for the caller to run and watch.

    It answers in the space of `queries`, and moves to another when the control topic says so.
    """
    settings = shared.settings
    topic = Names(settings.topic_prefix, queries.space.name).control
    made = {SpaceRef.of(queries.space, queries.model): queries}

    @asynccontextmanager
    async def opening(ref: SpaceRef) -> AsyncIterator[ServedSpace]:
        # The first was started before the node; later ones are made when they are needed.
        of_space = made.pop(ref, None)
        if of_space is None:
            of_space = await asyncio.to_thread(open_queries, settings, ref)
        with side.for_space(ref.space) as own:
            async with _serving(shared, of_space, spaces, exposition, own) as serving:
                yield serving

    exposition = Exposition()
    exposition.registry.register(side)
    limiter = open_connection_limiter(settings)
    exposition.registry.register(ConnectionMetrics(limiter))
    exposition.registry.register(PartMetrics(shared.parts))
    exposition.registry.register(ControlMetrics(shared.faults))
    spaces = Spaces(next(iter(made)), opening, side)

    answered = asyncio.Event()

    async def serve_api() -> None:
        try:
            await spaces.opened.wait()
            await serve(
                spaces.router,
                listener,
                frame_bytes_max=settings.frame_bytes_max,
                limiter=limiter,
                on_stop=spaces.close_live,
                answered=answered,
                side=side,
            )
        finally:
            answered.set()

    async def serve_spaces() -> None:
        # The services behind the requests stay until all requests are answered.
        followed = ControlTopic(shared.event_log, topic, faults=shared.faults).follow
        await finish_until(spaces.run(followed), answered)

    return side.supervise({"spaces": serve_spaces, "api": serve_api, "trim": trim})


@asynccontextmanager
async def _serving(
    shared: NodeResources,
    queries: QueryEncoderTask,
    spaces: Spaces,
    exposition: Exposition,
    side: SideTasks,
) -> AsyncIterator[ServedSpace]:
    """Open the maintainer, searcher and app of the space whose query encoder is `queries`."""
    settings, pictures, parts = shared.settings, shared.pictures, shared.parts
    clock = SystemClock()
    metrics = queries.metrics
    names = Names(settings.topic_prefix, queries.space.name)
    group = names.index_group(settings.shard, settings.replica)

    def own_positions() -> Positions:
        return {} if maintainer.index is None else maintainer.index.positions

    own = KafkaLag(shared.connection, names, group, clock, own_positions)
    source = SpacesLag(own, lambda: spaces.named)
    async with (
        _opened_lag(source) as lag,
        open_blob_store(settings.snapshots, settings.data / "snapshots") as store,
    ):
        feed = AppliedFeed()
        searcher = _make_searcher(settings, metrics)
        maintainer = make_maintainer(
            settings,
            shared.event_log,
            queries.space,
            settings.replica,
            store,
            searcher,
            feed,
            metrics,
            clock,
        )
        dead_letters = WindowedCounts()
        streams = streams_app(
            shared.connection,
            names,
            names.streams_app_id(settings.shard, settings.replica),
            settings.data / "faust" / f"{names.space}-{settings.shard}-{settings.replica}",
            maintainer,
            dead_letters,
            clock,
            side,
        )
        app = create_app(
            Node(
                space=queries.space,
                names=names,
                settings=settings,
                searcher=searcher,
                progress=searcher,
                feed=feed,
                log=shared.event_log,
                queries=queries.encoder,
                references=pictures.asked,
                picture_references=pictures.shown,
                converter=pictures.converter,
                lag=lag,
                admin=MaintainerAdmin(maintainer, target_recall=settings.target_recall),
                matcher=open_matcher(),
                metrics=metrics,
                exposed=exposition.registry,
                clock=clock,
                status=lambda: {
                    "topic_prefix": settings.topic_prefix,
                    "spaces": spaces.describe(),
                    "parts": parts.describe(),
                    "control": {"refused": shared.faults.wire()},
                    "digests": searcher.digests(),
                    "snapshot": maintainer.snapshot_schedule.describe(),
                    "topics": maintainer.watch.describe(),
                    "dead_letters_last_hour": dead_letters.totals(clock.now()),
                    "failing_tasks": side.failing(),
                },
                recent_queries=queries.encoder.recent,
                side=side,
            )
        )

        gc_pauses.shorten_pauses()
        host = partial(_host_streams, streams, maintainer)
        runs = side.supervise({"queries": queries.run, "streams": host, **background(app)})
        with exposition.registered(metrics), parts.registered(queries.encoder.part):
            yield ServedSpace(
                app, runs, lambda: searcher.is_ready and queries.encoder.loaded.is_set()
            )


def _make_searcher(settings: Settings, metrics: Metrics) -> LocalSearcher:
    """Make the searcher of a space, whose queues and state the metrics show."""
    searcher = LocalSearcher(
        target_recall=settings.target_recall, reads=metrics.filter_rows_read.inc
    )
    for queue, depth in searcher.queues().items():
        metrics.queue_depth.labels(queue).set_function(depth)
    metrics.ready.set_function(lambda: searcher.is_ready)
    return searcher


async def _host_streams(streams: Any, maintainer: Maintainer) -> None:
    """Run the Faust app until cancelled, then save a snapshot. Raises the error that ends it."""
    try:
        await streams.start()
        await streams.wait_until_stopped()
        # Faust does not raise a crash by itself.
        raise streams.crash_reason or RuntimeError("the streams app stopped by itself")
    finally:
        # Faust may wait for ever if it is stopped while it joins its group (seen once).
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await streams.stop()
        # Save the last state, so that the next start has little to replay.
        await maintainer.snapshot()


@asynccontextmanager
async def _opened_lag(lag: SpacesLag) -> AsyncIterator[SpacesLag]:
    await lag.start()
    try:
        yield lag
    finally:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5):
                await lag.stop()
