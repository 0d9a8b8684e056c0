"""The event log and the settings of a collection, open for one command."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tidelens.cli.base.collection_choice import command_context
from tidelens.migration.collection import OpenCollection
from tidelens.runtime.event_log import open_event_log


@asynccontextmanager
async def open_collection(
    command: str, *, quiet: bool = False, **given: Any
) -> AsyncIterator[OpenCollection]:
    """Open the collection given to `command`, or that of the settings and the running `up`.

    `given` are settings; None stands for one that is not given. With `quiet`, the command itself
    says what readers of the log would warn about.
    """
    level = logging.ERROR if quiet else logging.INFO
    context = await asyncio.to_thread(command_context, command, level=level, **given)
    settings, connection = context.settings, context.connection()
    await connection.require_reachable()
    async with open_event_log(settings, connection) as event_log:
        yield OpenCollection(settings, connection, event_log, context.url(None))
    # Only now, since a failure is one line.
    context.announce()
