"""A consumer group's committed offsets, where an error of the broker is not taken for "none".

aiokafka's own `list_consumer_group_offsets` drops the group's error code: while a coordinator loads
after a broker's restart, it answers that nothing was ever committed. A reader that believes this
starts from the beginning.
"""

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from contracts.errors import ConfigurationError
from contracts.events.record import TopicPartition
from streams.groups.coordinator import ask_coordinator, raise_for_code


async def group_offsets(
    client: AIOKafkaClient, group: str
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return offset and metadata of every partition that `group` has committed.

    Raises KafkaError when the broker does not say, which differs from an empty answer.
    """
    try:
        return await ask_coordinator(lambda: _ask(client, group))
    except GroupAuthorizationFailedError:
        raise ConfigurationError(
            f"group {group}: we may not read it; `tidelens topics print` shows the ACLs"
        ) from None


async def _ask(client: AIOKafkaClient, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    # None: every partition that the group has an offset for.
    response = await client.send(coordinator, OffsetFetchRequest(group, None))
    raise_for_code(getattr(response, "error_code", 0))
    offsets = {}
    for topic, partitions in response.topics:
        for number, offset, metadata, code in partitions:
            raise_for_code(code)
            if offset >= 0:
                offsets[TopicPartition(topic, number)] = OffsetAndMetadata(offset, metadata)
    return offsets
