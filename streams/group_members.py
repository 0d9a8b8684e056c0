"""How many live members a consumer group has, as its coordinator knows."""

from aiokafka.admin import AIOKafkaAdminClient

from streams.connect import Connection
from streams.coordinator import raise_for, when_ready


async def group_members(connection: Connection, group: str) -> int:
    """0 for a group that does not exist. A killed member counts until its session times out."""
    async with connection.admin() as admin:
        return await when_ready(lambda: _members(admin, group))


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    answers = await admin.describe_consumer_groups([group])
    groups = [described for answer in answers for described in answer.groups]
    # Error, group, state, protocol type, protocol, members.
    for described in groups:
        raise_for(described[0])
    return sum(len(described[5]) for described in groups)
