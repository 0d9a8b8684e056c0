"""The registrant of a host, as far as its name or address shows.

The holder of a domain can make any number of names, so a limit for each name would limit nobody.
A registrant is known by the registrable domain, one label below a public suffix of the list that
comes with `publicsuffixlist`. Its private suffixes count, since the users of github.io are
different people.
"""

import functools
from collections.abc import Container
from ipaddress import IPv6Address, IPv6Network

from publicsuffixlist import PublicSuffixList

from consumers.references.addresses import inner_ipv4, literal

# The holder of one IPv6 address holds all of its network.
_NETWORK_BITS = 64


@functools.cache
def suffixes() -> PublicSuffixList:
    """Read the list from disk at the first call: 0.04 s."""
    return PublicSuffixList()


def registrant(host: str, hosts_allowed: Container[str] = ()) -> str:
    """Return the registrable domain of `host`, the network of an address, or `host` itself.

    `hosts_allowed` stand for themselves: the operator named them, and nobody else can add to them.
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
