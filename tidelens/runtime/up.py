"""Run `tidelens up`: broker, encoder, index and API on one machine, started in parallel.

Its processes are Kafka (unless --brokers names one), an encoder at nice 19, a query encoder, and
this one, which holds index and API. All of them end with this one, even when it is killed. The
others are started again when they end (contracts/supervision/processes.py).
"""

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from contracts.errors import PortInUse
from contracts.ports.event_log import EventLog
from contracts.settings import KafkaSettings, Settings
from contracts.supervision.processes import Parts
from contracts.supervision.side_tasks import Run, SideTasks
from contracts.topics import Names, topic_specs
from streams.devbroker.ports import BrokerPorts
from tidelens.cli.base.collection_choice import collection_of, security_of
from tidelens.process.signals import stop_signal, unless_stopped, until_stopped
from tidelens.process.threads import in_daemon_thread
from tidelens.runtime.data_dir import locked, node_part
from tidelens.runtime.encoders import Encoders
from tidelens.runtime.model_guess import absolute, guessed_model
from tidelens.runtime.query_encoder import QueryEncoderTask, make_queries
from tidelens.runtime.run_file import RunFile, Runtime, url_of

if TYPE_CHECKING:
    from streams.kafka.connection import KafkaConnection
    from streams.kafka.event_log import KafkaEventLog
    from streams.registry.control_faults import IgnoredRecords
    from streams.registry.control_topic import Control
    from tidelens.runtime.picture_reading import PictureReaders

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sockets:
    """The ports that `up` listens on, and those of its own Kafka, all reserved while it runs."""

    api: socket.socket
    metrics: socket.socket | None
    kafka: BrokerPorts | None


async def run_up(
    settings: Settings, kafka: KafkaSettings, *, sample: bool, watch: Path | None
) -> None:
    """Bring everything up, serve until stopped, take everything down.

    `sample` publishes the sample pictures, and `watch` is a folder whose files are published.
    Raises DataDirInUse or PortInUse if another process has the data directory or a port.
    """
    from tidelens.server.acceptor import refuse_waiting
    from tidelens.server.server import listen

    with (
        locked(settings.data, "up"),
        locked(settings.data, node_part(settings)),
        contextlib.closing(listen(settings.host, settings.port)) as listener,
        contextlib.ExitStack() as held,
    ):
        held.callback(refuse_waiting, listener)
        # Take all ports before any process is started: a port that is in use is reported at once,
        # and nobody can take one while a process is started again.
        metrics = metrics_listener(settings, listener.getsockname()[1])
        if metrics is not None:
            held.enter_context(metrics)
        ports = None if settings.brokers else BrokerPorts.reserve(settings.data)
        if ports is not None:
            held.callback(ports.close)
        sockets = Sockets(listener, metrics, ports)
        async with stop_signal() as stop:
            await _run(settings, kafka, sockets, stop, sample=sample, watch=watch)
    log.info("stopped")


async def _run(
    settings: Settings,
    kafka: KafkaSettings,
    sockets: Sockets,
    stop: asyncio.Event,
    *,
    sample: bool,
    watch: Path | None,
) -> None:
    port, metrics = sockets.api.getsockname()[1], sockets.metrics
    async with contextlib.AsyncExitStack() as stack:
        # What takes longest goes first: the models are loaded while Kafka starts. Which they are
        # is only a guess until Kafka answers, and nearly always right.
        guess = await in_daemon_thread(lambda: guessed_model(settings))
        metrics_port = metrics.getsockname()[1] if metrics is not None else 0
        run_file, parts = RunFile(settings.data), Parts()
        encoders = Encoders(settings, metrics, run_file, parts)
        stack.push_async_callback(encoders.stop)
        await encoders.start(guess)
        from tidelens.runtime.kafka_process import open_kafka

        opening = open_kafka(settings, kafka, sockets.kafka, run_file, parts, stop)
        broker = asyncio.create_task(stack.enter_async_context(opening))
        stack.push_async_callback(_cancelled, broker)
        queries = await asyncio.to_thread(make_queries, settings, guess)
        stack.push_async_callback(queries.stop)
        queries.start()
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            # Import the node's modules in a thread while the broker starts.
            node = await asyncio.to_thread(importlib.import_module, "tidelens.runtime.node")
            faults = node.IgnoredRecords()
            reaching = _reached(settings, kafka, broker, queries, faults, stack)
            reached = await unless_stopped(stop, reaching)
            if reached is None:
                return
            brokers, connection, event_log, pictures, queries = reached
            side = SideTasks()
            shared = node.NodeResources(settings, connection, event_log, pictures, parts, faults)
            runs = node.open_node(shared, queries, sockets.api, side)
            names = Names(settings.topic_prefix, queries.space.name)
            runs |= side.supervise(_feeds(event_log, names, settings, sample=sample, watch=watch))
            tasks |= {name: asyncio.create_task(run(), name=name) for name, run in runs.items()}
            follow = partial(_followed, settings.data, event_log, names.control, faults)
            tasks["encoders"] = asyncio.create_task(encoders.run(brokers, follow, side))
            url = url_of(settings.host, port)
            stack.callback(run_file.remove)
            run_file.write(
                Runtime(
                    brokers,
                    url,
                    os.getpid(),
                    queries.space.name,
                    absolute(queries.model),
                    metrics_port,
                    collection=collection_of(settings),
                    security=security_of(kafka),
                )
            )
            log.info("up", page=f"{url}/", brokers=brokers, space=queries.space.name)
        except BaseException:
            stop.set()
            raise
        finally:
            await until_stopped(stop, tasks)


async def _reached(
    settings: Settings,
    kafka: KafkaSettings,
    broker: "asyncio.Task[str]",
    guessed: QueryEncoderTask,
    faults: "IgnoredRecords",
    stack: contextlib.AsyncExitStack,
) -> "tuple[str, KafkaConnection, KafkaEventLog, PictureReaders, QueryEncoderTask]":
    """Wait for Kafka, then return its address and what a node uses, which `stack` closes."""
    from streams.kafka.connection import KafkaConnection
    from tidelens.runtime.event_log import open_event_log
    from tidelens.runtime.picture_reading import open_picture_readers

    brokers = await broker
    connection = KafkaConnection(brokers, kafka)
    event_log = await stack.enter_async_context(open_event_log(settings, connection))
    pictures = await stack.enter_async_context(open_picture_readers(settings))
    queries = await _confirmed(settings, connection, event_log, guessed, faults)
    stack.push_async_callback(queries.stop)
    return brokers, connection, event_log, pictures, queries


async def _cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task, and wait until it has cleaned up."""
    task.cancel()
    await asyncio.wait([task])


async def _confirmed(
    settings: Settings,
    connection: "KafkaConnection",
    event_log: EventLog,
    guessed: QueryEncoderTask,
    faults: "IgnoredRecords",
) -> QueryEncoderTask:
    """Create the topics, and return the query encoder of the active space.

    It is the guessed one unless another space is active.
    """
    from streams.registry.control_topic import ControlTopic
    from tidelens.runtime.first_space import first_queries

    names = Names(settings.topic_prefix, guessed.space.name)
    await _create_topics(settings, connection, names)
    control = await ControlTopic(event_log, names.control, faults=faults).read()
    queries = await first_queries(settings, event_log, control, guessed)
    if queries.model != settings.model:
        log.warning("serving the active space's model", model=queries.model, given=settings.model)
    elif queries is not guessed:
        await _create_topics(settings, connection, Names(settings.topic_prefix, queries.space.name))
    return queries


def _followed(
    data: Path, event_log: EventLog, topic: str, faults: "IgnoredRecords"
) -> "AsyncIterator[Control]":
    """Follow the control topic as encoders do: only spaces that can be encoded here count."""
    from streams.registry.control_topic import ControlTopic
    from tidelens.runtime.first_space import openable, remembering

    followed = ControlTopic(
        event_log, topic, faults=faults, reader="encoders", check=openable(event_log, topic)
    ).follow()
    return remembering(data, followed)


async def _create_topics(settings: Settings, connection: "KafkaConnection", names: Names) -> None:
    from streams.topics.creation import create_collection_topics

    specs = topic_specs(
        names, partitions=settings.partitions, content_bytes_max=settings.record_bytes_max
    )
    made = await create_collection_topics(
        connection,
        names,
        specs,
        replication_factor=settings.replication_factor,
        min_insync_replicas=settings.min_insync_replicas,
    )
    for difference in made.differences:
        # Reported and not repaired, since the cluster's operator may have had a reason.
        log.warning("topic is not as wanted", **asdict(difference))


def metrics_listener(settings: Settings, port: int) -> socket.socket | None:
    """Return a listening socket for the encoder's /metrics, or None if the setting is 0.

    It listens on the port of the setting; if that is not set, on the one after the API's `port`, or
    on a free one. It stays open while `up` runs, so that no other process takes the port between
    two encoders. Raises PortInUse for a port that was set.
    """
    from tidelens.server.server import listen

    if "encode_metrics_port" in settings.model_fields_set:
        given = settings.encode_metrics_port
        return (
            listen(settings.host, given, option="TIDELENS_ENCODE_METRICS_PORT") if given else None
        )
    wanted = port + 1 if port < 65535 else 0
    try:
        listener = listen(settings.host, wanted)
    except PortInUse:
        listener = listen(settings.host, 0)
    chosen: int = listener.getsockname()[1]
    if chosen != wanted:
        log.warning("the encoder's /metrics is on another port", port=chosen, wanted=wanted)
    return listener


def _feeds(
    event_log: EventLog, names: Names, settings: Settings, *, sample: bool, watch: Path | None
) -> dict[str, Run]:
    from tidelens.ingest.feeds import publish_folder, publish_samples

    feeds: dict[str, Run] = {}
    if sample:
        feeds["sample"] = partial(publish_samples, event_log, names)
    if watch is not None:
        feeds["watch"] = partial(publish_folder, event_log, names, settings, watch)
    return feeds
