"""The event log of a collection, as the settings describe it."""

from contextlib import AbstractAsyncContextManager

from contracts.partitioner import partitioner
from contracts.settings import Settings
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog


def open_event_log(
    settings: Settings, connection: KafkaConnection, *, record_bytes_max: int | None = None
) -> AbstractAsyncContextManager[KafkaEventLog]:
    """Open the event log of the settings' collection; it is closed at the end of the block.

    `record_bytes_max` replaces the setting, for records that hold whole records of others.
    """
    return KafkaEventLog.open(
        connection,
        partition_of=partitioner(settings.partitioner),
        record_bytes_max=record_bytes_max or settings.record_bytes_max,
        prefix=settings.topic_prefix,
    )
