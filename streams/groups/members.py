"""The consumer groups of a cluster, and the number of live members of each, as the brokers know."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import (
    DescribeGroupsRequest_v0,
    DescribeGroupsRequest_v1,
    DescribeGroupsRequest_v2,
    ListGroupsRequest,
)
from aiokafka.protocol.api import Request

from streams.groups.coordinator import ask_coordinator, raise_for_code
from streams.kafka.connection import KafkaConnection

_Struct: TypeAlias = DescribeGroupsRequest_v0 | DescribeGroupsRequest_v1 | DescribeGroupsRequest_v2


class _DescribeGroups(Request[_Struct]):  # type: ignore[misc, unused-ignore]
    """A request of at most version 2: aiokafka cannot read several groups from version 3."""

    API_KEY = 15

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: type[_Struct]) -> Any:
        return request_struct_class(self._groups)


async def group_members(connection: KafkaConnection, group: str) -> int:
    """Return the number of a group's members, 0 for a group that does not exist.

    A killed member counts until its session times out.
    """
    async with connection.admin() as admin:
        return await ask_coordinator(lambda: _members(admin, group))


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    answers = await admin.describe_consumer_groups([group])
    groups = [described for answer in answers for described in answer.groups]
    # Error, group, state, protocol type, protocol, members.
    for described in groups:
        raise_for_code(described[0])
    return sum(len(described[5]) for described in groups)


async def list_groups(client: AIOKafkaClient, prefix: str) -> list[str]:
    """Return the groups that begin with `prefix` and that we may describe, in order."""
    asked = (client.send(node, ListGroupsRequest()) for node in _nodes(client))
    answers = await asyncio.gather(*asked)
    listed = {group for answer in answers for group, _ in answer.groups}
    return sorted(group for group in listed if group.startswith(prefix))


async def count_members(client: AIOKafkaClient, groups: Collection[str]) -> Mapping[str, int]:
    """Return how many members each group has.

    Each broker gets one request, and the coordinator of a group answers for it: with 0 for a group
    that does not exist. A group is left out if no broker answers as its coordinator at the moment,
    or if we may not ask about it.
    """
    wanted = sorted(set(groups))
    asked = (client.send(node, _DescribeGroups(wanted)) for node in _nodes(client))
    answers = await asyncio.gather(*asked)
    described = (found for answer in answers for found in answer.groups)
    return {found[1]: len(found[5]) for found in described if not found[0]}


def _nodes(client: AIOKafkaClient) -> list[int]:
    return [broker.nodeId for broker in client.cluster.brokers()]
