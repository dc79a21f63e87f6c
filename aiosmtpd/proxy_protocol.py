"""What a proxy says of the client before the client speaks: HAProxy's PROXY protocol, 1 and 2.

Section numbers are those of HAProxy's ``proxy-protocol.txt``.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, ClassVar, Protocol

import attrs
from public import public

log = logging.getLogger("mail.debug")

EndpointAddress = IPv4Address | IPv6Address | str | bytes
"""An address of either end: of IP, or the 108 octets of a UNIX socket's."""

_V1_SIGNATURE = b"PROXY"
_V1_LIMIT = 107
"""The longest header of version 1, in octets with its CRLF (section 2.1)."""

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16
"""The octets of a header of version 2 before its addresses (section 2.2)."""


@public
class V2_CMD(IntEnum):  # noqa: N801 - the published name
    """What version 2 is used for: LOCAL is the proxy's own connection, such as a health check."""

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
"""The 14th octets of version 2 behind which addresses stand."""

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
    """A vector is cut short, or stands where none may stand."""


@public
class UnknownTypeTLV(KeyError):
    """A vector is of a type that is not registered."""


@public
class AsyncReader(Protocol):
    """What a header is read from: an :class:`asyncio.StreamReader`, or what reads like it."""

    async def read(self, n: int = ...) -> bytes:
        """Return at most *n* octets, none at the end."""
        ...

    async def readexactly(self, n: int) -> bytes:
        """Return *n* octets; raises IncompleteReadError where they do not come."""
        ...

    async def readuntil(self, separator: bytes = ...) -> bytes:
        """Return what comes up to and with *separator*; raises IncompleteReadError."""
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

    Values are bytes, but ``SSL`` is True, ``SSL_CLIENT`` and ``SSL_VERIFY`` are numbers; what
    stands inside the SSL vector stands beside it. Each is an attribute too, None where it is
    missing. ``tlv_loc`` has the place of each vector in the data, in octets; of one inside the
    SSL vector it is the place of SSL plus the place behind SSL's own two numbers.
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
    """The registered types; one that is not here is named by its number, as ``xE0``."""

    tlv_loc: dict[str, int]

    def __init__(self, *args: Any, _tlv_loc: dict[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tlv_loc = _tlv_loc

    def __getattr__(self, item: str) -> Any:
        # copy and pickle ask for special methods, for which None is no answer.
        if item.startswith("__"):
            raise AttributeError(item)
        return self.get(item)

    def same_attribs(self, _raises: bool = False, **kwargs: Any) -> bool:
        """Return whether all of *kwargs* are here and equal.

        With *_raises*, KeyError says which is missing and ValueError which is different.
        """
        return _compare(self, kwargs, _raises)

    @classmethod
    def parse(
        cls, data: bytes | bytearray | memoryview, partial_ok: bool = True, strict: bool = False
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Return the vectors in *data* by name, and the place of each.

        Raises MalformedTLV unless *partial_ok*, which ends at the first malformed vector and
        keeps those before (``SSL`` is False where that one is inside it). Raises UnknownTypeTLV
        at a type that is not registered, where *strict*.
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
        """Yield name, value and place of each vector, and of what the SSL vector is made of."""
        place = 0
        while place < len(data):
            kind = data[place]
            name = cls.PP2_TYPENAME.get(kind, f"x{kind:02X}")
            if strict and kind not in cls.PP2_TYPENAME:
                raise UnknownTypeTLV(name)
            begin = place + 3
            end = begin + int.from_bytes(data[place + 1 : begin], "big")
            # The second level is the last one: recursion ends here.
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
        """Yield what stands in an SSL vector; "SSL" is True when all of it was there."""
        yield "SSL", False, place
        if len(data) < _SSL_FIXED.size:
            # Nothing is taken from it: an absent SSL_VERIFY read as 0 says "verified".
            raise MalformedTLV(f"TLV 0x{_TYPE_SSL:02X} is malformed!")
        client, verify = _SSL_FIXED.unpack_from(data)
        yield "SSL_CLIENT", client, None
        yield "SSL_VERIFY", verify, None
        yield from cls._vectors(data[_SSL_FIXED.size :], strict, place)
        yield "SSL", True, place

    @classmethod
    def from_raw(cls, raw: bytes | bytearray | memoryview, strict: bool = False) -> ProxyTLV | None:
        """Return the vectors in *raw*, None where it has none.

        Raises MalformedTLV, and where *strict* also UnknownTypeTLV.
        """
        found, places = cls.parse(raw, partial_ok=False, strict=strict)
        return cls(found, _tlv_loc=places) if found else None

    @classmethod
    def name_to_num(cls, name: str) -> int | None:
        """Return the number of a registered type, None of another."""
        return next((kind for kind, known in cls.PP2_TYPENAME.items() if known == name), None)


@public
@attrs.define(order=True)
class ProxyData:
    """A PROXY header, taken apart; false where it is not valid.

    ``version`` is 1 or 2, None where there was no header at all. ``command`` is of version 2
    alone. ``family`` and ``protocol`` are AF and PROTO, or the number a refused header had.
    Addresses are of :mod:`ipaddress`, or the 108 octets of a UNIX socket's; they and the ports
    are None for UNKNOWN and UNSPEC. ``rest`` is what follows the addresses, ``whole_raw`` the
    header as it came, ``tlv_start`` the place of ``rest`` in it where that is a list of vectors
    behind addresses. ``error`` says what is wrong and is empty where nothing is.
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
        """Whether the header was read to its end and nothing is wrong with it."""
        return not self.error and self.version is not None and self.protocol is not None

    def __bool__(self) -> bool:
        return self.valid

    @property
    def tlv(self) -> ProxyTLV | None:
        """The vectors of version 2, taken from ``rest`` when first asked for.

        None where there are none or one of them is malformed.
        """
        # Version 1 knows no vectors, but an UNKNOWN's rest begins with 0x20, the type SSL.
        if self._tlv is None and self.version != 1:
            try:
                self._tlv = ProxyTLV.from_raw(self.rest)
            except MalformedTLV:
                return None
        return self._tlv

    def with_error(self, error_msg: str, log_prefix: bool = True) -> ProxyData:
        """Note what is wrong, warn in the log (after "PROXY error: ", if so asked), return self."""
        log.warning("%s%s", "PROXY error: " if log_prefix else "", error_msg)
        self.error = error_msg
        return self

    def same_attribs(self, _raises: bool = False, **kwargs: Any) -> bool:
        """Return whether all of *kwargs* are attributes and equal.

        With *_raises*, KeyError says which is missing and ValueError which is different.
        """
        actual = {name: getattr(self, name) for name in kwargs if hasattr(self, name)}
        return _compare(actual, kwargs, _raises)


class _Refused(Exception):
    """The header is not valid; the text is for ProxyData.error."""


@public
async def get_proxy(reader_func: AsyncReader) -> ProxyData:
    """Read a PROXY header, of version 1 or 2, and not an octet more.

    Whatever comes, or does not come, is answered with a ProxyData: see its ``valid`` and
    ``error``. Only a cancellation is raised. There is no time limit.
    """
    data = ProxyData(version=None)
    try:
        signature = await reader_func.readexactly(len(_V1_SIGNATURE))
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
    # One by one: a longer line is not waited for, and nothing behind the line is taken.
    while not line.endswith(b"\n") and len(line) < _V1_LIMIT:
        octet = await reader.read(1)
        if not octet:
            raise asyncio.IncompleteReadError(bytes(line), None)
        line += octet
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
            raise ValueError("a zone is no part of an address on the wire")
        return ip_address(field.decode("ascii"))
    except ValueError:
        raise _Refused("PROXYv1 address malformed") from None


def _v1_port(field: bytes) -> int:
    if not field.isdigit() or (field.startswith(b"0") and field != b"0"):
        raise _Refused("PROXYv1 port malformed")
    return int(field)


async def _read_v2(reader: AsyncReader, data: ProxyData, begun: bytes) -> None:
    """Read the octets of version 2 (section 2.2); *begun* has been read of the signature."""
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


async def _read_part(reader: AsyncReader, octets: int, name: str) -> bytes:
    try:
        return await reader.readexactly(octets)
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
