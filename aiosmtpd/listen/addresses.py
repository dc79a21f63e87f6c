"""The places where a server listens: how they are written, read and shown."""

from __future__ import annotations

import re
from socket import AF_INET6, inet_pton
from typing import Literal, TypeAlias, cast

from attrs import frozen

Address: TypeAlias = tuple[str, int] | str
"""The host and the port, or the path of a Unix socket."""

LOOPBACKS = ("::1", "127.0.0.1")
"""The hosts of a place without a host."""

Scheme: TypeAlias = Literal["smtp", "smtps", "lmtp"]

SCHEMES = ("smtp", "smtps", "lmtp")
LONGEST_NUMBER = 9
"""Digits of a port or descriptor; int() refuses thousands of them with an error of its own."""


@frozen
class Listen:
    """One place to listen at; a value that its text does not give is None.

    A place is a ``path``, an ``fd``, or a ``host`` with a ``port``. Without a host it is the
    loopback, without a port the default port, and without a scheme the usual protocol of the
    server.
    """

    scheme: Scheme | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    fd: int | None = None


def parse_listen(text: str) -> Listen:
    """Parse ``[SCHEME://]PLACE`` with the scheme smtp, smtps or lmtp.

    PLACE is ``HOST:PORT``, ``HOST``, ``:PORT``, ``PORT``, an IPv6 address with or without brackets,
    ``unix:PATH`` or ``fd:NUMBER``. Without brackets the last group of digits of an IPv6 address is
    the port if the rest is an address too. Raises ValueError with a text of one line.
    """
    text = text.strip()
    if not text.isprintable():
        raise ValueError(f"Invalid address {text!r}")
    scheme, place = _split_scheme(text)
    if place.startswith("unix:"):
        path = place.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError(f"No socket path in {text!r}: write unix:/path/to/socket")
        return Listen(scheme, path=path)
    if place.startswith("fd:"):
        number = place.removeprefix("fd:")
        if not _is_number(number) or len(number) > LONGEST_NUMBER:
            raise ValueError(f"Invalid file descriptor: {number}")
        return Listen(scheme, fd=int(number))
    if "/" in place:
        raise ValueError(f"Invalid address {text!r}: a socket path is written unix:/path/to/socket")
    host, port = _split_port(place)
    return Listen(scheme, host=host or None, port=_port_number(port))


def _split_scheme(text: str) -> tuple[Scheme | None, str]:
    name, mark, place = text.partition("://")
    if not mark or name == "unix":
        return None, text
    scheme = name.lower()
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown scheme {name!r} in {text!r}: write {', '.join(SCHEMES)}")
    return cast(Scheme, scheme), place.removesuffix("/")


def _split_port(place: str) -> tuple[str, str | None]:
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or not _is_ipv6(host) or (rest and not rest.startswith(":")):
            raise ValueError(f"Invalid address {place!r}: write [IPV6-ADDRESS]:PORT")
        return host, rest[1:] or None
    if _is_number(place):
        return "", place
    host, colon, port = place.rpartition(":")
    if not colon:
        return place, None
    if _is_number(port) and _is_ipv6(host):
        return host, port
    if _is_ipv6(place):
        return place, None
    if _is_number(port) and ":" in host:
        raise ValueError(f"Invalid address {place!r}: write [IPV6-ADDRESS]:PORT")
    return host, port or None


def _port_number(port: str | None) -> int | None:
    if port is None:
        return None
    if not _is_number(port) or len(port) > LONGEST_NUMBER or int(port) > 65535:
        raise ValueError(f"Invalid port number: {port}")
    return int(port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_ipv6(text: str) -> bool:
    address, _, _zone = text.partition("%")
    try:
        inet_pton(AF_INET6, address)
    except (OSError, ValueError):
        return False
    return True


def spell(address: Address) -> str:
    """Return an address as people write it: ``host:port``, ``[ipv6]:port`` or the path."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def explain(error: Exception) -> str:
    """Return why a place cannot be bound, with the address as ``spell()`` writes it."""
    text = getattr(error, "strerror", None) or str(error)
    text = text.removeprefix("error while attempting to bind on address ")
    found = re.match(r"\('([^']+)', ([0-9]+)(?:, [0-9]+, [0-9]+)?\)", text)
    return spell((found[1], int(found[2]))) + text[found.end() :] if found else text


def reachable(host: str) -> str:
    """Return the address by which this machine reaches a host where a server listens."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - never bound
