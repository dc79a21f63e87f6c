"""Networks of IP addresses: which hosts are trusted, and which count as one host."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ipaddress

Networks = tuple["ipaddress.IPv4Network | ipaddress.IPv6Network", ...]


def parse(texts: str | Iterable[str]) -> Networks:
    """Return the networks that are written as ``192.0.2.0/24``, ``2001:db8::/32`` or one address.

    Raises ValueError for any other text.
    """
    return _parse((texts,) if isinstance(texts, str) else tuple(texts))


@lru_cache(maxsize=16)
def _parse(texts: tuple[str, ...]) -> Networks:
    import ipaddress  # rarely needed

    # Cached: the same few settings are parsed for each connection.
    return tuple(ipaddress.ip_network(text) for text in texts)


def host_key(address: str) -> str:
    """Return the key by which a host is counted: its IPv4 address or its IPv6 /64.

    An IPv4 address mapped into IPv6 is counted as IPv4. Other text is returned unchanged.
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
    """Return True if *peer*, the address of a socket's peer, is in one of *networks*.

    None stands for all networks. A peer on a Unix socket has no address: it is on this machine and
    always trusted. A peer that is None is not: it has reset the connection before it was accepted,
    and the bytes that it sent can still be read.
    """
    if networks is None:
        return True
    if not isinstance(peer, tuple):
        return peer is not None
    import ipaddress

    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
