"""Which hosts are trusted: networks by their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ipaddress

Networks = tuple["ipaddress.IPv4Network | ipaddress.IPv6Network", ...]


def parse(texts: str | Iterable[str]) -> Networks:
    """Return networks written as ``192.0.2.0/24``, ``2001:db8::/32`` or one address.

    Raises ValueError for what is none.
    """
    return _parse((texts,) if isinstance(texts, str) else tuple(texts))


@lru_cache(maxsize=16)
def _parse(texts: tuple[str, ...]) -> Networks:
    import ipaddress  # seldom needed

    # A server is made for each connection: the same few settings come again and again.
    return tuple(ipaddress.ip_network(text) for text in texts)


def host_key(address: str) -> str:
    """Return what a host is counted by: its address, of IPv6 the network (/64) that is one host's.

    Anything that is no address stands for itself.
    """
    import ipaddress

    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(number, ipaddress.IPv4Address):
        return str(number)
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return str(ipaddress.ip_network((number, 64), strict=False))


def holds(networks: Networks | None, peer: Any) -> bool:
    """Tell whether a socket's peer is in one of the networks; any is where they are None.

    A peer without an address (a Unix socket's) is on this machine, and is trusted.
    """
    if networks is None or not isinstance(peer, tuple):
        return True
    import ipaddress

    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
