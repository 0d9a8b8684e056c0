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
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from contracts.errors import DataDirInUse, DataDirNotWritable, TidelensError
from contracts.ports import EventLog
from contracts.settings import KafkaSettings, Settings
from contracts.topics import Names, topic_specs
from tidelens.queries import make_queries
from tidelens.signals import stop_signal, until_stopped

if TYPE_CHECKING:
    from streams.broker import LocalBroker

log = structlog.get_logger(__name__)

_ENCODER_STOP_S = 10.0
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
        # What takes longest goes first: the encoder loads its model while Kafka starts.
        encoder = await stack.enter_async_context(_encoder_process(settings, port))
        broker = asyncio.create_task(stack.enter_async_context(_broker(settings, kafka)))
        stopping = asyncio.create_task(stop.wait())
        queries = await asyncio.to_thread(make_queries, settings)
        loading = asyncio.create_task(queries.encoder.run(), name="queries")
        tasks = {"queries": loading}
        try:
            # The rooms' imports, in a thread beside the broker's start.
            node = await asyncio.to_thread(importlib.import_module, "tidelens.node")
            await asyncio.wait([broker, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                return
            brokers = await broker
            names = Names(settings.topic_prefix, queries.space.name)
            await _create_topics(settings, kafka, names, brokers)
            encoder.attach(brokers)
            parts = await stack.enter_async_context(
                node.open_node(settings, kafka, brokers, queries, listener)
            )
            tasks |= {
                name: asyncio.create_task(run(), name=name) for name, run in parts.runs.items()
            }
            tasks["encoder"] = asyncio.create_task(encoder.watch(), name="encoder")
            tasks |= _feeds(parts.event_log, names, settings, sample=sample, watch=watch)
            _announce(settings, brokers, port, names.space, stack)
        except BaseException:
            stop.set()
            raise
        finally:
            stopping.cancel()
            await until_stopped(stop, tasks)


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


async def _create_topics(
    settings: Settings, kafka: KafkaSettings, names: Names, brokers: str
) -> None:
    from streams.connect import Connection
    from streams.topics import create

    specs = topic_specs(
        names, partitions=settings.partitions, content_bytes_max=settings.record_bytes_max
    )
    await create(
        Connection(brokers, kafka),
        specs,
        replication_factor=settings.replication_factor,
        min_insync_replicas=settings.min_insync_replicas,
    )


class EncoderProcess:
    """The encode role as a child: it ends when our end of its stdin does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def attach(self, brokers: str) -> None:
        """Tell it where Kafka is; until then it loads its model."""
        assert self._process.stdin is not None
        self._process.stdin.write(brokers.encode() + b"\n")

    async def watch(self) -> None:
        code = await self._process.wait()
        raise TidelensError(f"the encoder process ended with exit code {code}")

    async def stop(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_ENCODER_STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


@asynccontextmanager
async def _encoder_process(settings: Settings, port: int) -> AsyncIterator[EncoderProcess]:
    environment = {
        **os.environ,
        "TIDELENS_ENCODE_METRICS_PORT": str(_metrics_port(settings, port)),
        "TIDELENS_MODEL": settings.model,
        "TIDELENS_TOPIC_PREFIX": settings.topic_prefix,
        "TIDELENS_ALLOW_ROOTS": _json_paths(settings.allow_roots),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidelens",
        "encode",
        "--attached",
        stdin=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a Ctrl-C is for us; we stop it in order
        preexec_fn=lambda: os.nice(19),
    )
    encoder = EncoderProcess(process)
    try:
        yield encoder
    finally:
        await encoder.stop()


def _metrics_port(settings: Settings, port: int) -> int:
    """The encoder's /metrics beside the API's port, so that two `up`s do not collide."""
    if "encode_metrics_port" in settings.model_fields_set:
        return settings.encode_metrics_port
    return port + 1 if port < 65535 else 0


def _json_paths(paths: list[Path]) -> str:
    import orjson

    return orjson.dumps([str(path) for path in paths]).decode()


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
    settings: Settings, brokers: str, port: int, space: str, stack: contextlib.AsyncExitStack
) -> None:
    from tidelens.runtime import Runtime

    runtime = Runtime(brokers=brokers, port=port, pid=os.getpid(), space=space)
    runtime.write(settings.data)
    stack.callback(Runtime.remove, settings.data)
    log.info("up", page=f"http://{settings.host}:{port}/", brokers=brokers, space=space)
