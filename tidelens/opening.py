"""Opens the collection that a command works on."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contracts import settings as settings_module
from contracts.partitioning import partitioner
from streams.connect import Connection
from streams.log import KafkaLog
from tidelens import logs
from tidelens.runtime import brokers_of
from tidelens.switching import Collection


@asynccontextmanager
async def open_collection(
    command: str, brokers: str | None, topic_prefix: str | None, *, quiet: bool = False
) -> AsyncIterator[Collection]:
    """Open what `command` was told to work on, else what the settings and the running `up` say.

    `quiet`: it tells itself what readers of the log would warn of.
    """
    settings = settings_module.load(brokers=brokers, topic_prefix=topic_prefix)
    level = logging.ERROR if quiet else logging.INFO
    logs.configure(settings.log_format, command, level=level)
    connection = Connection(brokers_of(settings), settings_module.load_kafka())
    await connection.check()
    async with KafkaLog.open(
        connection,
        partition_of=partitioner(settings.partitioner),
        record_bytes_max=settings.record_bytes_max,
    ) as event_log:
        yield Collection(settings, connection, event_log)
