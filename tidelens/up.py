"""`tidelens up`: everything on one machine: broker, encoder, index and API, started in parallel.

Processes: Kafka (unless --brokers names one), an encoder at nice 19, a query encoder, and this
one, which holds index and API. All of them end with this one, even when it is killed.
"""

import asyncio
import contextlib
import fcntl
import importlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from contracts.errors import DataDirInUse, DataDirNotWritable, TidelensError
from contracts.ports import EventLog
from contracts.settings import KafkaSettings, Settings
from contracts.topics import Names, topic_specs
from tidelens.encoders import Encoders
from tidelens.queries import Queries, make_queries
from tidelens.runtime import remembered_model
from tidelens.signals import stop_signal, until_stopped

if TYPE_CHECKING:
    from streams.broker import LocalBroker
    from streams.connect import Connection
    from streams.control import Control

log = structlog.get_logger(__name__)

_BROKER_RESTART_S = 1.0


async def run_up(
    settings: Settings, kafka: KafkaSettings, *, sample: bool, watch: Path | None
) -> None:
    """Bring everything up, serve until stopped, take everything down."""
    from tidelens.server import listen

    with _data_dir(settings.data), contextlib.closing(listen(settings.host, settings.port)) as sock:
        async with stop_signal() as stop:
            await _run(settings, kafka, sock, stop, sample=sample, watch=watch)
    log.info("stopped")


async def _run(
    settings: Settings,
    kafka: KafkaSettings,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    sample: bool,
    watch: Path | None,
) -> None:
    port = listener.getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        # What takes longest goes first: the models are loaded while Kafka starts. Which they are
        # is only a guess until Kafka has told, and then nearly always right.
        guess = remembered_model(settings.data) or settings.model
        encoders = Encoders(settings, _metrics_port(settings, port))
        stack.push_async_callback(encoders.stop)
        await encoders.start(guess)
        broker = asyncio.create_task(stack.enter_async_context(_broker(settings, kafka)))
        stopping = asyncio.create_task(stop.wait())
        queries = await asyncio.to_thread(make_queries, settings, guess)
        stack.push_async_callback(queries.stop)
        queries.start()
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            # The rooms' imports, in a thread beside the broker's start.
            node = await asyncio.to_thread(importlib.import_module, "tidelens.node")
            await asyncio.wait([broker, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                return
            brokers = await broker
            connection = node.Connection(brokers, kafka)
            event_log = await stack.enter_async_context(node.open_log(settings, connection))
            queries = await _confirmed(settings, connection, event_log, queries)
            stack.push_async_callback(queries.stop)
            runs = node.open_node(settings, connection, event_log, queries, listener)
            tasks |= {name: asyncio.create_task(run(), name=name) for name, run in runs.items()}
            names = Names(settings.topic_prefix, queries.space.name)
            followed = _remembering(settings.data, event_log, names.control)
            tasks["encoders"] = asyncio.create_task(encoders.run(brokers, followed))
            tasks |= _feeds(event_log, names, settings, sample=sample, watch=watch)
            _announce(settings, brokers, port, queries, stack)
        except BaseException:
            stop.set()
            raise
        finally:
            stopping.cancel()
            await until_stopped(stop, tasks)


async def _confirmed(
    settings: Settings, connection: "Connection", event_log: EventLog, guessed: Queries
) -> Queries:
    """The query encoder of the active space, the topics made: the guessed one, or another."""
    from streams.control import read_control, require_same
    from tidelens.node import queries_of

    names = Names(settings.topic_prefix, guessed.space.name)
    await _create_topics(settings, connection, names)
    active = (await read_control(event_log, names.control)).active
    model = settings.model if active is None else active.current.model
    if model != settings.model:
        log.warning("serving the active space's model", model=model, given=settings.model)
    if model == guessed.model:
        if active is not None:
            require_same(active.current, guessed.space)
        return guessed
    await guessed.stop()
    if active is not None:
        return await asyncio.to_thread(queries_of, settings, active.current)
    queries = await asyncio.to_thread(make_queries, settings)
    await _create_topics(settings, connection, Names(settings.topic_prefix, queries.space.name))
    return queries


async def _remembering(data: Path, event_log: EventLog, topic: str) -> "AsyncIterator[Control]":
    """The control topic, followed; its model is the guess of the next start."""
    from streams.control import follow_control
    from tidelens.runtime import remember_model

    async for control in follow_control(event_log, topic):
        active = control.active
        model = None if active is None else active.current.model
        await asyncio.to_thread(remember_model, data, model)
        yield control


@contextmanager
def _data_dir(path: Path) -> Iterator[None]:
    """The data directory, made and locked: one `up` at a time."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "up.lock").open("w")
    except OSError as error:
        raise DataDirNotWritable(
            f"data directory {path}: {error.strerror}; give another with --data"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirInUse(
                f"another tidelens runs on the data directory {path}; "
                "stop it, or give another with --data"
            ) from None
        yield


@asynccontextmanager
async def _broker(settings: Settings, kafka: KafkaSettings) -> AsyncIterator[str]:
    """The address of the user's cluster, or of an Apache Kafka of our own."""
    from streams.connect import Connection

    if settings.brokers:
        await Connection(settings.brokers, kafka).check()
        yield settings.brokers
        return
    from streams.broker import LocalBroker

    broker = LocalBroker(settings.data)
    try:
        address = await broker.start()
        keeping = asyncio.create_task(_keep(broker), name="broker")
        try:
            yield address
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
    finally:
        await broker.stop()


async def _keep(broker: "LocalBroker") -> None:
    """Start a broker that died again, on its old address; searches go on meanwhile."""
    while True:
        code = await broker.wait()
        log.error("Kafka ended and is started again", exit_code=code)
        await asyncio.sleep(_BROKER_RESTART_S)
        try:
            await broker.start()
        except TidelensError as error:
            log.error("Kafka does not start", error=str(error))


async def _create_topics(settings: Settings, connection: "Connection", names: Names) -> None:
    from streams.topics import create

    specs = topic_specs(
        names, partitions=settings.partitions, content_bytes_max=settings.record_bytes_max
    )
    await create(
        connection,
        specs,
        replication_factor=settings.replication_factor,
        min_insync_replicas=settings.min_insync_replicas,
    )


def _metrics_port(settings: Settings, port: int) -> int:
    """The encoder's /metrics beside the API's port, so that two `up`s do not collide."""
    if "encode_metrics_port" in settings.model_fields_set:
        return settings.encode_metrics_port
    return port + 1 if port < 65535 else 0


def _feeds(
    event_log: EventLog, names: Names, settings: Settings, *, sample: bool, watch: Path | None
) -> dict[str, "asyncio.Task[None]"]:
    from tidelens.feeds import publish_folder, publish_samples

    feeds = {}
    if sample:
        feeds["sample"] = asyncio.create_task(publish_samples(event_log, names))
    if watch is not None:
        feeds["watch"] = asyncio.create_task(publish_folder(event_log, names, settings, watch))
    return feeds


def _announce(
    settings: Settings,
    brokers: str,
    port: int,
    queries: Queries,
    stack: contextlib.AsyncExitStack,
) -> None:
    from tidelens.runtime import Runtime

    space = queries.space.name
    runtime = Runtime(brokers, port, os.getpid(), space, queries.model)
    runtime.write(settings.data)
    stack.callback(Runtime.remove, settings.data)
    log.info("up", page=f"http://{settings.host}:{port}/", brokers=brokers, space=space)
