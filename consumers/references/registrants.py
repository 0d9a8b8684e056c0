"""Whom a host belongs to, as far as its name or address tells.

Names are free to whoever holds a domain, so that limits for each name would be limits for nobody.
A registrant is known by the registrable domain: one label below a public suffix, by the list that
ships with `publicsuffixlist`. Its private suffixes count, since the users of github.io are as many
strangers.
"""

import functools
from collections.abc import Container
from ipaddress import IPv6Address, IPv6Network

from publicsuffixlist import PublicSuffixList

from consumers.references.addresses import inner_ipv4, literal

# Whoever has one IPv6 address has all of its network.
_NETWORK_BITS = 64


@functools.cache
def suffixes() -> PublicSuffixList:
    """Read the list from disk at the first call: 0.04 s."""
    return PublicSuffixList()


def registrant(host: str, hosts_allowed: Container[str] = ()) -> str:
    """The registrable domain of `host`, an address' network, or a name that stands for itself.

    `hosts_allowed` were named by the operator: nobody else can make more of them.
    """
    name = host.lower().rstrip(".")
    if name in hosts_allowed:
        return name
    address = literal(name)
    if isinstance(address, IPv6Address):
        inner = inner_ipv4(address)
        if inner is None:
            return str(IPv6Network((address, _NETWORK_BITS), strict=False))
        address = inner
    if address is not None:
        return str(address)
    # A public suffix itself, or a name of one label, has no registrant above it.
    return suffixes().privatesuffix(name) or name
