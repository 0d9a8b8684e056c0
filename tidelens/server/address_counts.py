"""Counts connections by the address of their client, and finds the address with most of them."""

import socket
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

_MAPPED = bytes(10) + b"\xff\xff"
_NOBODY: Mapping[object, None] = {}


def address_of(host: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 client.

    A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d, which all lie in one such network.
    """
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))


class MembersByAddress(Generic[T]):
    """Members by address; each step takes the same short time, however many addresses there are."""

    def __init__(self) -> None:
        self._members: dict[str, dict[T, None]] = {}
        # Number of members -> the addresses that have so many.
        self._having: dict[int, dict[str, None]] = {}
        self._most = 0

    def add(self, address: str, member: T) -> None:
        members = self._members.setdefault(address, {})
        if member not in members:
            members[member] = None
            self._recount(address, len(members) - 1, len(members))

    def discard(self, address: str, member: T) -> None:
        members = self._members.get(address)
        if members is None or member not in members:
            return
        del members[member]
        if not members:
            del self._members[address]
        self._recount(address, len(members) + 1, len(members))

    def of(self, address: str) -> Iterable[T]:
        """The members of an address, the oldest first."""
        return self._members.get(address, {})

    def count(self, address: str) -> int:
        return len(self._members.get(address, _NOBODY))

    def fullest(self) -> str | None:
        """Return the address that has most members, or None where there are none."""
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
