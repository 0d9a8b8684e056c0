"""The IP addresses that a reference may lead to: public ones only, however they are written."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_METADATA = {
    ip_address("169.254.169.254"),
    ip_address("fd00:ec2::254"),
    # Azure's metadata service, whose number is a public address.
    ip_address("168.63.129.16"),
}
_NAT64 = IPv6Network("64:ff9b::/96")
# Networks in IANA's special registries that a supported Python takes for public ones.
_SPECIAL = [
    ip_network("192.0.0.0/24"),  # 192.0.0.192 is Oracle Cloud's metadata service
    ip_network("192.88.99.0/24"),
    ip_network("64:ff9b:1::/48"),
    ip_network("3fff::/20"),
    ip_network("5f00::/16"),
]


def literal(host: str) -> Address | None:
    """Return the address that `host` spells, or None for a name.

    Spellings of inet_aton(3) count too: 127.1, 0x7f.1, 2130706433.
    """
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def refusal(address: Address) -> str | None:
    """Return why nothing may be fetched from `address`, or None if it is public."""
    if address in _METADATA:
        return "a cloud's metadata service"
    if isinstance(address, IPv6Address):
        # These two are other ways to write an IPv4 address.
        inner = address.ipv4_mapped or _translated(address)
        if inner is not None:
            return refusal(inner)
        for tunnelled in (address.sixtofour, *(address.teredo or ())):
            if tunnelled is not None and (why := refusal(tunnelled)):
                return f"{why}, inside {address}"
        if address.is_site_local:
            return "a private address"
    return _special(address)


def inner_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address inside this one, which has the same holder, or None."""
    return address.ipv4_mapped or _translated(address) or address.sixtofour


def _special(address: Address) -> str | None:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_reserved:
        return "a reserved address"
    if address.is_private:
        return "a private address"
    # This leaves the networks of carriers (100.64.0.0/10), documentation and benchmarks.
    public = address.is_global and not any(address in network for network in _SPECIAL)
    return None if public else "not a public address"


def _translated(address: IPv6Address) -> IPv4Address | None:
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
