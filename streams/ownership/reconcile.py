"""The tombstones that an encoder must write for deletes it cannot have seen (invariant 7).

When the committed offset is gone, or the content topic was recreated, deletes may have happened
unseen: the embeddings topic may hold items that the content topic no longer has. Encoding from the
beginning would write every item that still exists, and would leave the deleted ones live.
"""

from contracts.events.record import OutRecord, Source, TopicPartition
from streams.kafka.connection import KafkaConnection
from streams.kafka.log_reader import KafkaLogReader
from streams.kafka.partition_scan import read_to_end


async def tombstones_for_missed_deletes(
    connection: KafkaConnection,
    content: TopicPartition,
    embeddings: TopicPartition,
    topic_id: str,
) -> list[OutRecord]:
    """Return tombstones for the ids that are live in `embeddings` but not in `content`.

    This reads both partitions to their ends, unless the embeddings partition is empty, as at a
    first start. `topic_id` is the id of the content topic, which the tombstones name.
    """
    embedded = await _live_keys(connection, embeddings)
    if not embedded:
        return []
    published = await _live_keys(connection, content)
    # The offset -1 says that no content record caused these tombstones.
    source = Source(topic_id, content.partition, -1).encode()
    headers = [("source", source), ("reason", b"lost_past: the item is no longer published")]
    return [
        OutRecord(embeddings.topic, key, None, headers, partition=embeddings.partition)
        for key in sorted(embedded - published)
    ]


async def _live_keys(connection: KafkaConnection, partition: TopicPartition) -> set[bytes]:
    reader = await KafkaLogReader.open(connection, {partition: None})
    try:
        live: set[bytes] = set()
        async for record in read_to_end(reader):
            if record.key is not None:
                (live.discard if record.value is None else live.add)(record.key)
        return live
    finally:
        await reader.close()
