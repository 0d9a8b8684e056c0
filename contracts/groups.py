"""The names of a collection's consumer groups, read back into their parts."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from contracts.topics import Names

Role = Literal["encode", "index", "streams"]

_NAME = r"[a-z0-9][a-z0-9-]*"
_PART = r"[a-z0-9-]+"
_ENCODE = re.compile(rf"encode\.(?P<space>{_NAME})")
_NODE = re.compile(
    rf"(?P<role>index|streams)\.(?P<space>{_NAME})\.(?P<shard>{_PART})\.(?P<replica>{_PART})"
)


@dataclass(frozen=True, slots=True)
class GroupName:
    """A consumer group of one collection.

    An index node has two groups. The group `index` holds its commits and has no members, since the
    node assigns its partitions itself. The group `streams` belongs to its Faust app, and its only
    member is the running node.
    """

    role: Role
    space: str
    shard: str = ""
    replica: str = ""

    @classmethod
    def read(cls, prefix: str, group: str) -> Self | None:
        """Return the group of that name, or None where it belongs to another collection."""
        start = Names(prefix, "").bare + "."
        if not group.startswith(start):
            return None
        rest = group.removeprefix(start)
        if found := _ENCODE.fullmatch(rest):
            return cls("encode", found["space"])
        if found := _NODE.fullmatch(rest):
            role: Role = "index" if found["role"] == "index" else "streams"
            return cls(role, found["space"], found["shard"], found["replica"])
        return None

    def names(self, prefix: str) -> list[str]:
        """Return the names of all groups of the same node or space, those with members first."""
        names = Names(prefix, self.space)
        if self.role == "encode":
            return [names.encoder_group]
        node = (self.shard, self.replica)
        return [names.streams_app_id(*node), names.index_group(*node)]
