"""Connections counted by the address of their client. No I/O."""

import socket
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

_MAPPED = bytes(10) + b"\xff\xff"
_NO_MEMBERS: Mapping[object, None] = {}


def address_of(host: str) -> str:
    """Return the address that counts as one client: an IPv4 address, or the /64 of an IPv6 one.

    A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d, which all lie in one /64 network, so
    these are reduced to their IPv4 address.
    """
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))


class MembersByAddress(Generic[T]):
    """Members grouped by address; every operation takes constant time."""

    def __init__(self) -> None:
        self._members: dict[str, dict[T, None]] = {}
        # The addresses by their number of members.
        self._having: dict[int, dict[str, None]] = {}
        self._most = 0

    def add(self, address: str, member: T) -> None:
        """Add a member, unless the address has it already."""
        members = self._members.setdefault(address, {})
        if member not in members:
            members[member] = None
            self._recount(address, len(members) - 1, len(members))

    def discard(self, address: str, member: T) -> None:
        """Remove a member, if the address has it."""
        members = self._members.get(address)
        if members is None or member not in members:
            return
        del members[member]
        if not members:
            del self._members[address]
        self._recount(address, len(members) + 1, len(members))

    def of(self, address: str) -> Iterable[T]:
        """Return the members of an address, the oldest first."""
        return self._members.get(address, {})

    def count(self, address: str) -> int:
        """Return the number of members of an address."""
        return len(self._members.get(address, _NO_MEMBERS))

    def largest_address(self) -> str | None:
        """Return the address that has most members, or None if there are no members."""
        return next(iter(self._having[self._most])) if self._most else None

    def _recount(self, address: str, before: int, after: int) -> None:
        if before:
            del self._having[before][address]
            if not self._having[before]:
                del self._having[before]
        if after:
            self._having.setdefault(after, {})[address] = None
        # Members come and go one at a time, so the largest number changes by one at most.
        if after > self._most or self._most not in self._having:
            self._most = after
