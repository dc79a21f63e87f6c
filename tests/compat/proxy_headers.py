"""PROXY headers for tests."""

import asyncio
import struct
from collections.abc import Coroutine
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

import pytest

import aiosmtpd.smtp
from aiosmtpd.proxy_protocol import AF, PROTO, V2_SIGNATURE, ProxyData, get_proxy

DIFFERS = pytest.mark.skipif(
    aiosmtpd.smtp.__version__.startswith("1.4"), reason="a deliberate difference"
)

T = TypeVar("T")


class Octets:
    """Reads from bytes and never waits."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.most = 0

    def take(self, octets: int) -> bytes:
        self.most = max(self.most, octets)
        taken, self.data = self.data[:octets], self.data[octets:]
        return taken

    async def read(self, n: int = -1) -> bytes:
        return self.take(len(self.data) if n < 0 else n)

    async def readexactly(self, n: int) -> bytes:
        taken = self.take(n)
        if len(taken) < n:
            raise asyncio.IncompleteReadError(taken, n)
        return taken

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        place = self.data.find(separator)
        if place < 0:
            raise asyncio.IncompleteReadError(self.data, None)
        return self.take(place + len(separator))


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as result:
        returned: T = result.value
        return returned
    raise AssertionError("it waits")


def read(data: bytes) -> ProxyData:
    return finish(get_proxy(Octets(data)))


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(command: int, family: int, *parts: bytes, length: int | None = None) -> bytes:
    """A header of version 2; *command* and *family* are its 13th and 14th byte."""
    tail = b"".join(parts)
    size = len(tail) if length is None else length
    return V2_SIGNATURE + struct.pack("!BBH", command, family, size) + tail


V1_TCP4 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n"

INET = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 56324, 25)
INET6 = (
    IPv6Address("2001:db8::1").packed
    + IPv6Address("2001:db8::2").packed
    + struct.pack("!HH", 65535, 0)
)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")

SSL_PART = b"\x07\x00\x00\x00\x00" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client.test")
VECTORS = tlv(0x01, b"smtp") + tlv(0x20, SSL_PART) + tlv(0x05, b"id\xff")


NOWHERE = (None, None, None, None)
HERE = ("192.0.2.1", "198.51.100.2", 56324, 25)
HERE6 = ("2001:db8::1", "2001:db8::2", 65535, 0)

VALID_V1 = [
    (V1_TCP4, (AF.INET, PROTO.STREAM, *HERE, b"")),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        (AF.INET, PROTO.STREAM, "255.255.255.255", "255.255.255.255", 65535, 65535, b""),
    ),
    (
        b"PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 65535 0\r\n",
        (AF.INET6, PROTO.STREAM, *HERE6, b""),
    ),
    (
        b"PROXY TCP6 ::ffff:192.0.2.1 :: 1 1\r\n",
        (AF.INET6, PROTO.STREAM, str(ip_address("::ffff:192.0.2.1")), "::", 1, 1, b""),
    ),
    (b"PROXY UNKNOWN\r\n", (AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b"")),
    (b"PROXY UNKNOWN \r\n", (AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b" ")),
    (b"PROXY UNKNOWN TCP4 a\rb\r\n", (AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b" TCP4 a\rb")),
    (
        b"PROXY UNKNOWN " + b"\xff" * 91 + b"\r\n",
        (AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b" " + b"\xff" * 91),
    ),
]

VALID_V2 = [
    (v2(0x21, 0x11, INET), (1, AF.INET, PROTO.STREAM, *HERE, b"")),
    (v2(0x21, 0x12, INET), (1, AF.INET, PROTO.DGRAM, *HERE, b"")),
    (v2(0x21, 0x21, INET6), (1, AF.INET6, PROTO.STREAM, *HERE6, b"")),
    (v2(0x21, 0x22, INET6, b"\0"), (1, AF.INET6, PROTO.DGRAM, *HERE6, b"\0")),
    (
        v2(0x21, 0x31, UNIX),
        (1, AF.UNIX, PROTO.STREAM, str(UNIX[:108]), str(UNIX[108:]), None, None, b""),
    ),
    (
        v2(0x21, 0x32, UNIX, VECTORS),
        (1, AF.UNIX, PROTO.DGRAM, str(UNIX[:108]), str(UNIX[108:]), None, None, VECTORS),
    ),
    (v2(0x21, 0x11, INET, VECTORS), (1, AF.INET, PROTO.STREAM, *HERE, VECTORS)),
    (v2(0x20, 0x00), (0, AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b"")),
    (v2(0x20, 0x00, b"anything"), (0, AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b"anything")),
    (v2(0x20, 0x11, INET), (0, AF.INET, PROTO.STREAM, *HERE, b"")),
    (v2(0x21, 0x00), (1, AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b"")),
    (v2(0x21, 0x00, INET), (1, AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, INET)),
    (v2(0x21, 0x01), (1, AF.UNSPEC, PROTO.STREAM, *NOWHERE, b"")),
    (v2(0x21, 0x02), (1, AF.UNSPEC, PROTO.DGRAM, *NOWHERE, b"")),
    (v2(0x21, 0x10, INET), (1, AF.INET, PROTO.UNSPEC, *NOWHERE, INET)),
    (v2(0x21, 0x20, INET6), (1, AF.INET6, PROTO.UNSPEC, *NOWHERE, INET6)),
    (v2(0x21, 0x30, UNIX), (1, AF.UNIX, PROTO.UNSPEC, *NOWHERE, UNIX)),
    (
        v2(0x21, 0x00, b"x" * 65535),
        (1, AF.UNSPEC, PROTO.UNSPEC, *NOWHERE, b"x" * 65535),
    ),
]

VALID = [header for header, _ in VALID_V1 + [(header, values[1:]) for header, values in VALID_V2]]
