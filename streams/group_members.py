"""How many live members a consumer group has, as its coordinator knows."""

from streams.connect import Connection


async def group_members(connection: Connection, group: str) -> int:
    """0 for a group that does not exist. A killed member counts until its session times out."""
    async with connection.admin() as admin:
        answers = await admin.describe_consumer_groups([group])
    # Error, group, state, protocol type, protocol, members.
    return sum(len(described[5]) for answer in answers for described in answer.groups)
