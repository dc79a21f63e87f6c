"""Read the header with which a proxy describes its client: HAProxy's PROXY protocol, 1 and 2.

Section numbers are those of HAProxy's ``proxy-protocol.txt``.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, ClassVar, Protocol

import attrs
from public import public

log = logging.getLogger("mail.debug")

EndpointAddress = IPv4Address | IPv6Address | str | bytes
"""The address of one end: an IP address, or the 108 bytes of a UNIX socket's address."""

_V1_SIGNATURE = b"PROXY"
_V1_LIMIT = 107
"""The longest header of version 1, in bytes including its CRLF (section 2.1)."""

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16
"""The size, in bytes, of the part of a version 2 header before its addresses (section 2.2)."""


@public
class V2_CMD(IntEnum):  # noqa: N801 - the published name
    """The commands of version 2. LOCAL: the proxy's own connection, such as a health check."""

    LOCAL = 0
    PROXY = 1


class AF(IntEnum):
    """Address families; UNSPEC is also the UNKNOWN of version 1."""

    UNSPEC = 0
    INET = 1
    INET6 = 2
    UNIX = 3


class PROTO(IntEnum):
    """Transport protocols; UNSPEC is also the UNKNOWN of version 1."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


V2_VALID_CMDS = {int(command) for command in V2_CMD}
V2_VALID_FAMS = {int(family) for family in AF}
V2_VALID_PROS = {int(protocol) for protocol in PROTO}

V2_PARSE_ADDR_FAMPRO = {0x11, 0x12, 0x21, 0x22, 0x31, 0x32}
"""The values of the 14th byte of version 2 (family and protocol) with addresses after it."""

public(
    V2_SIGNATURE=V2_SIGNATURE,
    V2_VALID_CMDS=V2_VALID_CMDS,
    V2_VALID_FAMS=V2_VALID_FAMS,
    V2_VALID_PROS=V2_VALID_PROS,
    V2_PARSE_ADDR_FAMPRO=V2_PARSE_ADDR_FAMPRO,
)

_V1_FAMILIES = {b"4": AF.INET, b"6": AF.INET6}

_V2_ADDRESSES: dict[int, tuple[int, Callable[[bytes], EndpointAddress]]] = {
    AF.INET: (4, IPv4Address),
    AF.INET6: (16, IPv6Address),
    AF.UNIX: (108, bytes),
}
_PORTS = struct.Struct("!HH")

_TYPE_SSL = 0x20
_SSL_FIXED = struct.Struct("!BL")


@public
class MalformedTLV(RuntimeError):
    """A vector is incomplete, or is in a place where it is not allowed."""


@public
class UnknownTypeTLV(KeyError):
    """The type of a vector is not registered."""


@public
class AsyncReader(Protocol):
    """The source of a header: an ``asyncio.StreamReader`` or an object with these methods."""

    async def read(self, n: int = ...) -> bytes | bytearray:
        """Return at most *n* bytes, ``b""`` at the end."""
        ...

    async def readexactly(self, n: int) -> bytes | bytearray:
        """Return *n* bytes; raises IncompleteReadError if the input ends before."""
        ...

    async def readuntil(self, separator: bytes = ...) -> bytes | bytearray:
        """Return the bytes up to and including *separator*; raises IncompleteReadError."""
        ...


def _compare(actual: dict[str, Any], expected: dict[str, Any], raises: bool) -> bool:
    for name, value in expected.items():
        if name not in actual:
            if raises:
                raise KeyError(f"notfound:{name}")
            return False
        if actual[name] != value:
            if raises:
                raise ValueError(f"mismatch:{name} actual={actual[name]!r} expect={value!r}")
            return False
    return True


@public
class ProxyTLV(dict[str, Any]):
    """The type-length-value vectors of a header, by type name (sections 2.2.1 to 2.2.8).

    Values are bytes, except that ``SSL`` is True and ``SSL_CLIENT`` and ``SSL_VERIFY`` are ints.
    Vectors inside the SSL vector are listed beside it. Each vector is an attribute too, None if it
    is missing. ``tlv_loc`` is the offset of each vector in the data, in bytes; for a vector inside
    the SSL vector it is the offset of SSL plus the offset after SSL's two numbers.
    """

    __slots__ = ("tlv_loc",)

    PP2_TYPENAME: ClassVar[dict[int, str]] = {
        0x01: "ALPN",
        0x02: "AUTHORITY",
        0x03: "CRC32C",
        0x04: "NOOP",
        0x05: "UNIQUE_ID",
        0x20: "SSL",
        0x21: "SSL_VERSION",
        0x22: "SSL_CN",
        0x23: "SSL_CIPHER",
        0x24: "SSL_SIG_ALG",
        0x25: "SSL_KEY_ALG",
        0x30: "NETNS",
    }
    """The registered types; other types are named by their number, such as ``xE0``."""

    tlv_loc: dict[str, int]

    def __init__(self, *args: Any, _tlv_loc: dict[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tlv_loc = _tlv_loc

    def __getattr__(self, item: str) -> Any:
        # copy and pickle look up special methods, which must not be None.
        if item.startswith("__"):
            raise AttributeError(item)
        return self.get(item)

    def same_attribs(self, _raises: bool = False, **kwargs: Any) -> bool:
        """Return True if all of *kwargs* are vectors with equal values.

        With *_raises*, raise KeyError for a missing one and ValueError for a different one.
        """
        return _compare(self, kwargs, _raises)

    @classmethod
    def parse(
        cls, data: bytes | bytearray | memoryview, partial_ok: bool = True, strict: bool = False
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Return the vectors in *data* by name, and the offset of each in bytes.

        At a malformed vector, raises MalformedTLV or, with *partial_ok*, returns the vectors before
        it (with ``SSL`` False if it is inside the SSL vector). With *strict*, raises UnknownTypeTLV
        for a type that is not registered.
        """
        found: dict[str, Any] = {}
        places: dict[str, int] = {}
        try:
            for name, value, place in cls._vectors(bytes(data), strict):
                found[name] = value
                if place is not None:
                    places[name] = place
        except MalformedTLV:
            if not partial_ok:
                raise
        return found, places

    @classmethod
    def _vectors(
        cls, data: bytes, strict: bool, ssl_place: int | None = None
    ) -> Iterator[tuple[str, Any, int | None]]:
        """Yield name, value and offset of each vector, and of those inside the SSL vector."""
        place = 0
        while place < len(data):
            kind = data[place]
            name = cls.PP2_TYPENAME.get(kind, f"x{kind:02X}")
            if strict and kind not in cls.PP2_TYPENAME:
                raise UnknownTypeTLV(name)
            begin = place + 3
            end = begin + int.from_bytes(data[place + 1 : begin], "big")
            # An SSL vector inside another one is malformed: the recursion ends at two levels.
            if len(data) < end or (kind == _TYPE_SSL and ssl_place is not None):
                raise MalformedTLV(f"TLV 0x{kind:02X} is malformed!")
            if kind == _TYPE_SSL:
                yield from cls._ssl_vectors(data[begin:end], strict, place)
            else:
                yield name, data[begin:end], place + (ssl_place or 0)
            place = end

    @classmethod
    def _ssl_vectors(
        cls, data: bytes, strict: bool, place: int
    ) -> Iterator[tuple[str, Any, int | None]]:
        """Yield the parts of an SSL vector; ``SSL`` becomes True if all of it is there."""
        yield "SSL", False, place
        if len(data) < _SSL_FIXED.size:
            # Use no part of it: a missing SSL_VERIFY read as 0 would mean "verified".
            raise MalformedTLV(f"TLV 0x{_TYPE_SSL:02X} is malformed!")
        client, verify = _SSL_FIXED.unpack_from(data)
        yield "SSL_CLIENT", client, None
        yield "SSL_VERIFY", verify, None
        yield from cls._vectors(data[_SSL_FIXED.size :], strict, place)
        yield "SSL", True, place

    @classmethod
    def from_raw(cls, raw: bytes | bytearray | memoryview, strict: bool = False) -> ProxyTLV | None:
        """Return the vectors in *raw*, or None if there are none.

        Raises MalformedTLV and, with *strict*, UnknownTypeTLV.
        """
        found, places = cls.parse(raw, partial_ok=False, strict=strict)
        return cls(found, _tlv_loc=places) if found else None

    @classmethod
    def name_to_num(cls, name: str) -> int | None:
        """Return the number of a registered type, or None if *name* is not one."""
        return next((kind for kind, known in cls.PP2_TYPENAME.items() if known == name), None)


@public
@attrs.define(order=True)
class ProxyData:
    """A parsed PROXY header; its truth value is :attr:`valid`.

    ``version`` is 1 or 2, or None without a header. Only version 2 has ``command``. ``family`` and
    ``protocol`` are members of AF and PROTO, or the number in a refused header. Addresses are
    objects of :mod:`ipaddress`, or the 108 bytes of a UNIX socket's address; addresses and ports
    are None for UNKNOWN and UNSPEC. ``rest`` contains the bytes after the addresses and
    ``whole_raw`` the whole header. ``tlv_start`` is the offset of ``rest`` in the header, in bytes,
    if vectors follow the addresses. ``error`` describes the error, and is empty without one.
    """

    version: int | None = attrs.field(kw_only=True)
    command: V2_CMD | int | None = attrs.field(default=None, init=False)
    family: AF | int | None = attrs.field(default=None, init=False)
    protocol: PROTO | int | None = attrs.field(default=None, init=False)
    src_addr: EndpointAddress | None = attrs.field(default=None, init=False)
    dst_addr: EndpointAddress | None = attrs.field(default=None, init=False)
    src_port: int | None = attrs.field(default=None, init=False)
    dst_port: int | None = attrs.field(default=None, init=False)
    rest: bytes | bytearray = attrs.field(default=b"", init=False)
    whole_raw: bytearray = attrs.field(factory=bytearray, init=False)
    tlv_start: int | None = attrs.field(default=None, init=False)
    error: str = attrs.field(default="", init=False)
    _tlv: ProxyTLV | None = attrs.field(default=None, init=False, eq=False)

    @property
    def valid(self) -> bool:
        """True if the header is complete and has no error."""
        return not self.error and self.version is not None and self.protocol is not None

    def __bool__(self) -> bool:
        return self.valid

    @property
    def tlv(self) -> ProxyTLV | None:
        """The vectors of version 2, parsed from ``rest`` at the first access.

        None if there are none or one of them is malformed.
        """
        # Version 1 has no vectors, but the rest of UNKNOWN begins with 0x20, the type SSL.
        if self._tlv is None and self.version != 1:
            try:
                self._tlv = ProxyTLV.from_raw(self.rest)
            except MalformedTLV:
                return None
        return self._tlv

    def with_error(self, error_msg: str, log_prefix: bool = True) -> ProxyData:
        """Set ``error`` and return self; log it as a warning, with *log_prefix* after a prefix."""
        log.warning("%s%s", "PROXY error: " if log_prefix else "", error_msg)
        self.error = error_msg
        return self

    def same_attribs(self, _raises: bool = False, **kwargs: Any) -> bool:
        """Return True if all of *kwargs* are attributes with equal values.

        With *_raises*, raise KeyError for a missing one and ValueError for a different one.
        """
        actual = {name: getattr(self, name) for name in kwargs if hasattr(self, name)}
        return _compare(actual, kwargs, _raises)


class _Refused(Exception):
    """The header is not valid; the text becomes ``ProxyData.error``."""


@public
async def get_proxy(reader_func: AsyncReader) -> ProxyData:
    """Read a PROXY header, of version 1 or 2, and not one byte after it.

    The result is a ProxyData for any input or none: see its ``valid`` and ``error``. Only a
    cancellation is raised. There is no time limit.
    """
    data = ProxyData(version=None)
    try:
        signature = bytes(await reader_func.readexactly(len(_V1_SIGNATURE)))
        if signature == _V1_SIGNATURE:
            data.version = 1
            await _read_v1(reader_func, data)
        elif V2_SIGNATURE.startswith(signature):
            await _read_v2(reader_func, data, signature)
        else:
            raise _Refused("PROXY unrecognized signature")
    except _Refused as refusal:
        return data.with_error(str(refusal))
    except Exception as error:
        nothing = ProxyData(version=None)
        return nothing.with_error(f"PROXY exception: {error}", log_prefix=False)
    return data


async def _read_v1(reader: AsyncReader, data: ProxyData) -> None:
    """Read the line of version 1 (section 2.1)."""
    line = bytearray(_V1_SIGNATURE)
    # Byte by byte: do not wait for more than the limit, and take nothing after the line.
    while not line.endswith(b"\n") and len(line) < _V1_LIMIT:
        byte = await reader.read(1)
        if not byte:
            raise asyncio.IncompleteReadError(bytes(line), None)
        line += byte
    data.whole_raw = line
    if not line.endswith(b"\n"):
        raise _Refused("PROXYv1 header too long")
    if not line.endswith(b"\r\n"):
        raise _Refused("PROXYv1 malformed")
    _parse_v1(bytes(line[len(_V1_SIGNATURE) : -2]), data)


def _parse_v1(text: bytes, data: ProxyData) -> None:
    fields = iter(text.split(b" "))
    if next(fields):
        raise _Refused("PROXYv1 wrong signature")
    name = _next_field(fields)
    if name == b"UNKNOWN":
        data.family, data.protocol = AF.UNSPEC, PROTO.UNSPEC
        data.rest = text[len(b" UNKNOWN") :]
        return
    data.family = _V1_FAMILIES.get(name[-1:])
    if data.family is None:
        raise _Refused("PROXYv1 unrecognized family")
    if name not in (b"TCP4", b"TCP6"):
        raise _Refused("PROXYv1 unrecognized protocol")
    data.protocol = PROTO.STREAM
    source = _v1_address(_next_field(fields))
    target = _v1_address(_next_field(fields))
    digit = name[-1:].decode()
    if not source.version == target.version == int(digit):
        raise _Refused(f"PROXYv1 address not IPv{digit}")
    data.src_addr, data.dst_addr = source, target
    data.src_port = _v1_port(_next_field(fields))
    data.dst_port = _v1_port(_next_field(fields))
    if data.src_port > 65535:
        raise _Refused("PROXYv1 src port out of bounds")
    if data.dst_port > 65535:
        raise _Refused("PROXYv1 dst port out of bounds")
    if next(fields, None) is not None:
        raise _Refused("PROXYv1 unrecognized extraneous data")


def _next_field(fields: Iterator[bytes]) -> bytes:
    field = next(fields, None)
    if field is None:
        raise EOFError("PROXYv1 header ends before its last field")
    return field


def _v1_address(field: bytes) -> IPv4Address | IPv6Address:
    try:
        if b"%" in field:
            raise ValueError("an address on the wire has no zone")
        return ip_address(field.decode("ascii"))
    except ValueError:
        raise _Refused("PROXYv1 address malformed") from None


def _v1_port(field: bytes) -> int:
    if not field.isdigit() or (field.startswith(b"0") and field != b"0"):
        raise _Refused("PROXYv1 port malformed")
    return int(field)


async def _read_v2(reader: AsyncReader, data: ProxyData, begun: bytes) -> None:
    """Read a header of version 2 (section 2.2); *begun* is the start of it, already read."""
    missing = len(V2_SIGNATURE) - len(begun)
    signature = begun + await _read_part(reader, missing, "signature")
    data.version = 2
    if signature != V2_SIGNATURE:
        raise _Refused("PROXYv2 wrong signature")
    fixed = await _read_part(reader, _V2_FIXED - len(signature), "header")
    if fixed[0] >> 4 != 2:
        raise _Refused("PROXYv2 illegal version")
    data.command = fixed[0] & 0x0F
    if data.command not in V2_VALID_CMDS:
        raise _Refused("PROXYv2 unsupported command")
    data.command = V2_CMD(data.command)
    data.family = fixed[1] >> 4
    if data.command == V2_CMD.LOCAL:
        await _read_local_block(reader, data, signature + fixed)
        return
    if data.family not in V2_VALID_FAMS:
        raise _Refused("PROXYv2 unsupported family")
    data.family = AF(data.family)
    data.protocol = fixed[1] & 0x0F
    if data.protocol not in V2_VALID_PROS:
        raise _Refused("PROXYv2 unsupported protocol")
    data.protocol = PROTO(data.protocol)
    tail = await _read_part(reader, int.from_bytes(fixed[2:], "big"), "tail part")
    data.whole_raw = bytearray(signature + fixed + tail)
    if fixed[1] in V2_PARSE_ADDR_FAMPRO:
        _parse_v2_addresses(tail, data, data.family)
    else:
        data.rest = tail


async def _read_local_block(reader: AsyncReader, data: ProxyData, begun: bytes) -> None:
    """Read the rest of the header of the proxy's own connection, such as a health check.

    "The receiver must accept this connection as valid and must use the real connection endpoints
    and discard the protocol block including the family which is ignored" (section 2.2).
    """
    family, protocol = data.family, begun[-3] & 0x0F
    data.family = AF(family) if family in V2_VALID_FAMS else AF.UNSPEC
    data.protocol = PROTO(protocol) if protocol in V2_VALID_PROS else PROTO.UNSPEC
    tail = await _read_part(reader, int.from_bytes(begun[-2:], "big"), "tail part")
    data.whole_raw = bytearray(begun + tail)
    data.rest = tail
    if begun[-3] in V2_PARSE_ADDR_FAMPRO:
        with suppress(_Refused):
            _parse_v2_addresses(tail, data, data.family)


async def _read_part(reader: AsyncReader, size: int, name: str) -> bytes:
    try:
        return bytes(await reader.readexactly(size))
    except asyncio.IncompleteReadError:
        raise ConnectionError(f"Connection lost while waiting for {name}") from None


def _parse_v2_addresses(tail: bytes, data: ProxyData, family: AF) -> None:
    size, address = _V2_ADDRESSES[family]
    ports_at = 2 * size
    end = ports_at if family == AF.UNIX else ports_at + _PORTS.size
    if len(tail) < end:
        raise _Refused("PROXYv2 truncated address")
    data.src_addr = address(tail[:size])
    data.dst_addr = address(tail[size:ports_at])
    if family != AF.UNIX:
        data.src_port, data.dst_port = _PORTS.unpack_from(tail, ports_at)
    data.rest = tail[end:]
    if data.rest:
        data.tlv_start = _V2_FIXED + end
