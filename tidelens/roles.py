"""The index role on its own: a node that maintains an index and answers on it."""

import asyncio
import contextlib

from contracts.settings import KafkaSettings, Settings
from tidelens.signals import stop_signal, until_stopped


async def run_index(settings: Settings, kafka: KafkaSettings) -> None:
    """Maintain an index and answer on it, until stopped."""
    from contracts.parts import Parts
    from contracts.side_tasks import SideTasks
    from contracts.topics import Names
    from streams.connect import Connection
    from streams.control import read_control
    from tidelens.data_dir import locked, node_part
    from tidelens.node import open_log, open_node, queries_of
    from tidelens.queries import make_queries
    from tidelens.server import listen
    from tidelens.showing import open_picture_reading

    connection = Connection(settings.brokers or "", kafka)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(locked(settings.data, node_part(settings)))
        listener = stack.enter_context(contextlib.closing(listen(settings.host, settings.port)))
        stop = await stack.enter_async_context(stop_signal())
        event_log = await stack.enter_async_context(open_log(settings, connection))
        pictures = await stack.enter_async_context(open_picture_reading(settings))
        control = await read_control(event_log, Names(settings.topic_prefix, "").control)
        if control.active is None:
            queries = await asyncio.to_thread(make_queries, settings)
        else:
            queries = await asyncio.to_thread(queries_of, settings, control.active.current)
        stack.push_async_callback(queries.stop)
        runs = open_node(
            settings, connection, event_log, pictures, queries, listener, SideTasks(), Parts()
        )
        await until_stopped(
            stop, {name: asyncio.create_task(run(), name=name) for name, run in runs.items()}
        )
