"""Which IP addresses are the public internet, by a list of our own.

An image's URL must not reach the machine itself, its network or its cloud's metadata service. Python's
`is_global` differs from version to version and calls some of these global, so the networks stand here (IANA's
IPv4 and IPv6 special-purpose registries, late 2026).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

IPAddress: TypeAlias = "IPv4Address | IPv6Address"

_BLOCKED_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' own, and a cloud's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, public only by its number
        "169.254.0.0/16",  # link-local, and metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Only this part of IPv6 is handed out; loopback, private, link-local, multicast and the addresses that carry
# an IPv4 address (mapped, compatible, NAT64) all lie outside.
_GLOBAL_6 = IPv6Network("2000::/3")
_BLOCKED_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries an IPv4 address
        "3fff::/20",  # documentation
    )
)


def is_public(address: IPAddress) -> bool:
    """Tell whether an address belongs to the public internet and to no special purpose."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _BLOCKED_4)
    return address in _GLOBAL_6 and not any(address in network for network in _BLOCKED_6)
