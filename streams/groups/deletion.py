"""Deletion of the consumer groups of what was retired: an index node, or a space's encoders."""

from collections.abc import Collection

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, GroupIdNotFound, NonEmptyGroup
from aiokafka.protocol.admin import DeleteGroupsRequest

from contracts.errors import ConfigurationError
from contracts.groups import GroupName
from contracts.topics import Names
from streams.groups.coordinator import ask_coordinator, raise_for_code
from streams.groups.members import count_members, list_groups
from streams.kafka.connection import KafkaConnection


async def delete_retired_groups(
    connection: KafkaConnection, prefix: str, group: str, *, spaces: Collection[str]
) -> list[str]:
    """Delete the groups of an index node or of a space's encoders, and return their names.

    An index node has two groups: that of its commits and that of its Faust app. `spaces` are served
    or being made. Their encoders continue from their committed offsets, so these groups are never
    deleted. Raises ConfigurationError for a group that must not be deleted.
    """
    found = GroupName.read(prefix, group)
    if found is None:
        names = Names(prefix, "SPACE")
        raise ConfigurationError(
            f"group {group}: not of the collection {prefix}; want "
            f"{names.index_group('SHARD', 'REPLICA')} or {names.encoder_group}"
        )
    if found.role == "encode" and found.space in spaces:
        raise ConfigurationError(
            f"group {group}: space {found.space} is served or being made, and its encoders go on "
            "from the offsets of this group; `tidelens space drop` gives up a space"
        )
    async with connection.client() as client:
        if found.role == "encode":
            await _require_no_node(client, prefix, found.space, group)
        try:
            deleted = [name for name in found.names(prefix) if await deleted_group(client, name)]
        except NonEmptyGroup:
            raise ConfigurationError(
                f"group {group}: its process runs; stop that first, and wait for its session to "
                "time out if it was killed"
            ) from None
    if not deleted:
        raise ConfigurationError(f"group {group}: there is no such group; `tidelens lag` lists all")
    return deleted


async def _require_no_node(client: AIOKafkaClient, prefix: str, space: str, group: str) -> None:
    """Raise ConfigurationError while nodes serve the space, whatever the control topic says."""
    nodes = await list_groups(client, f"{Names(prefix, space).bare}.streams.{space}.")
    members = await count_members(client, nodes) if nodes else {}
    if any(members.get(node) != 0 for node in nodes):
        raise ConfigurationError(
            f"group {group}: index nodes of space {space} run; stop them first"
        )


async def deleted_group(client: AIOKafkaClient, group: str) -> bool:
    """Delete a group, and return whether it existed. Raises NonEmptyGroup if it has members."""
    try:
        await ask_coordinator(lambda: _delete(client, group))
    except GroupIdNotFound:
        return False
    except GroupAuthorizationFailedError:
        raise ConfigurationError(
            f"group {group}: we may not delete it; `tidelens topics print` shows the ACLs"
        ) from None
    return True


async def _delete(client: AIOKafkaClient, group: str) -> None:
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    response = await client.send(coordinator, DeleteGroupsRequest([group]))
    for _, code in response.results:
        raise_for_code(code)
