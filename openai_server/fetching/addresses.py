"""The addresses that a request may make this server connect to. PURE."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_PRIVATE = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("fc00::/7"),
)
"""Networks of organizations, such as a cluster's."""

_REFUSED = (
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("fd00:ec2::254/128"),
    IPv6Network("fd20:ce::254/128"),
    IPv6Network("3fff::/20"),
)
"""Services of clouds for their machines (Azure, Oracle, AWS, Google), whose addresses look like public or private ones,
and special networks that not every version of `ipaddress` has."""


def is_allowed(text: str, *, allows_private: bool = False) -> bool:
    """Whether the address is a public one, or one of _PRIVATE where those are allowed. No address that stands for
    another one is allowed, such as those of NAT64, nor one of this machine or link: metadata of clouds is there."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None or address.is_site_local:
            return False
        if address.sixtofour is not None or address.teredo is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_allowed(str(address.ipv4_mapped), allows_private=allows_private)
    if _is_in(address, _REFUSED):
        return False
    if address.is_multicast or address.is_loopback or address.is_link_local or address.is_reserved:
        return False
    if address.is_global and not address.is_private:
        return True
    return allows_private and _is_in(address, _PRIVATE)


def _is_in(address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)
