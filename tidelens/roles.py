"""The index role on its own: a node that maintains an index and answers on it."""

import asyncio
import contextlib

from contracts.settings import KafkaSettings, Settings
from tidelens.signals import stop_signal, until_stopped


async def run_index(settings: Settings, kafka: KafkaSettings) -> None:
    """Maintain an index and answer on it, until stopped."""
    from tidelens.node import open_node
    from tidelens.queries import make_queries
    from tidelens.server import listen

    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(listen(settings.host, settings.port)))
        stop = await stack.enter_async_context(stop_signal())
        queries = make_queries(settings)
        parts = await stack.enter_async_context(
            open_node(settings, kafka, settings.brokers or "", queries, listener)
        )
        runs = {"queries": queries.encoder.run, **parts.runs}
        await until_stopped(
            stop, {name: asyncio.create_task(run(), name=name) for name, run in runs.items()}
        )
