"""The index role on its own: a node that maintains an index and answers on it."""

import asyncio
import contextlib
import importlib
import socket

import structlog

from contracts.settings import KafkaSettings, Settings
from contracts.supervision.processes import Parts
from contracts.supervision.side_tasks import Run, SideTasks
from tidelens.process.signals import stop_signal, unless_stopped, until_stopped
from tidelens.process.threads import in_daemon_thread

log = structlog.get_logger(__name__)


async def run_index(settings: Settings, kafka: KafkaSettings) -> bool:
    """Maintain an index and answer on it, until stopped.

    Returns False if stopped before the node was open; threads that cannot be ended may go on.
    Raises DataDirInUse or PortInUse if another process has the data directory or the port.
    """
    from tidelens.runtime.data_dir import locked, node_part
    from tidelens.server.acceptor import refuse_waiting
    from tidelens.server.server import listen

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(locked(settings.data, node_part(settings)))
        listener = stack.enter_context(contextlib.closing(listen(settings.host, settings.port)))
        stack.callback(refuse_waiting, listener)
        stop = await stack.enter_async_context(stop_signal())
        runs = await unless_stopped(stop, _opened(settings, kafka, listener, stack))
        if runs is None:
            log.info("stopped before the node was open")
            return False
        await until_stopped(
            stop, {name: asyncio.create_task(run(), name=name) for name, run in runs.items()}
        )
    log.info("node stopped")
    return True


async def _opened(
    settings: Settings,
    kafka: KafkaSettings,
    listener: socket.socket,
    stack: contextlib.AsyncExitStack,
) -> dict[str, Run]:
    """Open a node, which `stack` closes, and return its long-running tasks by name."""
    node = await in_daemon_thread(lambda: importlib.import_module("tidelens.runtime.node"))
    from contracts.topics import Names
    from streams.registry.control_topic import ControlTopic
    from tidelens.runtime.event_log import open_event_log
    from tidelens.runtime.first_space import first_queries
    from tidelens.runtime.picture_reading import open_picture_readers

    connection = node.KafkaConnection(settings.brokers or "", kafka)
    event_log = await stack.enter_async_context(open_event_log(settings, connection))
    pictures = await stack.enter_async_context(open_picture_readers(settings))
    topic, faults = Names(settings.topic_prefix, "").control, node.IgnoredRecords()
    control = await ControlTopic(event_log, topic, faults=faults).read()
    queries = await first_queries(settings, event_log, control)
    stack.push_async_callback(queries.stop)
    shared = node.NodeResources(settings, connection, event_log, pictures, Parts(), faults)
    runs: dict[str, Run] = node.open_node(shared, queries, listener, SideTasks())
    return runs
