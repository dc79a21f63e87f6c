"""The PROXY protocol: the names and texts of 1.4, headers of both versions, and a server."""

import asyncio
import copy
import gc
import inspect
import logging
import operator
import pickle
import ssl
import struct
import threading
import time
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

import attrs
import pytest
from hypothesis import example, given, strategies as st

import aiosmtpd.smtp
from aiosmtpd import proxy_protocol
from aiosmtpd.handlers import Sink
from aiosmtpd.proxy_protocol import (
    AF,
    PROTO,
    V2_CMD,
    V2_PARSE_ADDR_FAMPRO,
    V2_SIGNATURE,
    V2_VALID_CMDS,
    V2_VALID_FAMS,
    V2_VALID_PROS,
    AsyncReader,
    EndpointAddress,
    MalformedTLV,
    ProxyData,
    ProxyTLV,
    UnknownTypeTLV,
    get_proxy,
)
from aiosmtpd.smtp import SMTP, Envelope, Refused, Session
from tests.conftest import Certificates
from tests.net.support import PATIENCE, Catcher, Client, serving

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


class TestNames:
    def test_all(self) -> None:
        names = set(proxy_protocol.__all__)  # type: ignore[attr-defined]
        assert {
            "AsyncReader",
            "MalformedTLV",
            "ProxyData",
            "ProxyTLV",
            "UnknownTypeTLV",
            "V2_CMD",
            "V2_PARSE_ADDR_FAMPRO",
            "V2_SIGNATURE",
            "V2_VALID_CMDS",
            "V2_VALID_FAMS",
            "V2_VALID_PROS",
            "get_proxy",
        } <= names
        assert not names & {"AF", "PROTO"}

    def test_numbers(self) -> None:
        assert {member.name: member.value for member in V2_CMD} == {"LOCAL": 0, "PROXY": 1}
        assert {member.name: member.value for member in AF} == {
            "UNSPEC": 0,
            "INET": 1,
            "INET6": 2,
            "UNIX": 3,
        }
        assert {member.name: member.value for member in PROTO} == {
            "UNSPEC": 0,
            "STREAM": 1,
            "DGRAM": 2,
        }
        assert V2_SIGNATURE.hex() == "0d0a0d0a000d0a515549540a"
        assert sorted(V2_VALID_CMDS) == [0, 1]
        assert sorted(V2_VALID_FAMS) == [0, 1, 2, 3]
        assert sorted(V2_VALID_PROS) == [0, 1, 2]
        assert sorted(V2_PARSE_ADDR_FAMPRO) == [0x11, 0x12, 0x21, 0x22, 0x31, 0x32]

    def test_addresses(self) -> None:
        assert EndpointAddress == IPv4Address | IPv6Address | str | bytes

    def test_exceptions_have_the_bases_of_1_4(self) -> None:
        assert issubclass(MalformedTLV, RuntimeError)
        assert issubclass(UnknownTypeTLV, KeyError)

    def test_the_logger_is_mail_debug(self) -> None:
        assert proxy_protocol.log.name == "mail.debug"

    @pytest.mark.parametrize(
        ("function", "parameters"),
        [
            (get_proxy, ["reader_func"]),
            (ProxyData.with_error, ["self", "error_msg", "log_prefix=True"]),
            (ProxyData.same_attribs, ["self", "_raises=False", "kwargs"]),
            (ProxyTLV.__init__, ["self", "args", "_tlv_loc", "kwargs"]),
            (ProxyTLV.same_attribs, ["self", "_raises=False", "kwargs"]),
            (ProxyTLV.parse, ["data", "partial_ok=True", "strict=False"]),
            (ProxyTLV.from_raw, ["raw", "strict=False"]),
            (ProxyTLV.name_to_num, ["name"]),
            (AsyncReader.read, ["self", "n=Ellipsis"]),
            (AsyncReader.readexactly, ["self", "n"]),
            (AsyncReader.readuntil, ["self", "separator=Ellipsis"]),
        ],
    )
    def test_signature(self, function: Any, parameters: list[str]) -> None:
        found = [
            name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
            for name, parameter in inspect.signature(function).parameters.items()
        ]
        assert found == parameters

    def test_attributes(self) -> None:
        assert [field.name for field in attrs.fields(ProxyData)] == [
            "version",
            "command",
            "family",
            "protocol",
            "src_addr",
            "dst_addr",
            "src_port",
            "dst_port",
            "rest",
            "whole_raw",
            "tlv_start",
            "error",
            "_tlv",
        ]


def described(data: ProxyData) -> tuple[object, ...]:
    return (
        data.version,
        data.command,
        data.family,
        data.protocol,
        data.src_addr and str(data.src_addr),
        data.dst_addr and str(data.dst_addr),
        data.src_port,
        data.dst_port,
        bytes(data.rest),
    )


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


class TestValid:
    @pytest.mark.parametrize(("header", "values"), VALID_V1)
    def test_version_1(self, header: bytes, values: tuple[object, ...]) -> None:
        data = read(header)
        assert described(data) == (1, None, *values)
        assert data.error == ""
        assert data.valid is True
        assert bool(data) is True
        assert data.whole_raw == bytearray(header)
        assert data.tlv_start is None

    @pytest.mark.parametrize(("header", "values"), VALID_V2)
    def test_version_2(self, header: bytes, values: tuple[object, ...]) -> None:
        data = read(header)
        assert described(data) == (2, *values)
        assert data.error == ""
        assert data.valid is True
        assert bool(data) is True
        assert isinstance(data.whole_raw, bytearray)
        assert data.whole_raw == header

    def test_types(self) -> None:
        assert isinstance(read(v2(0x21, 0x11, INET)).src_addr, IPv4Address)
        assert isinstance(read(v2(0x21, 0x21, INET6)).dst_addr, IPv6Address)
        assert read(v2(0x21, 0x31, UNIX)).src_addr == b"/run/a" + bytes(102)
        assert isinstance(read(V1_TCP4).src_addr, IPv4Address)
        assert read(V1_TCP4).family is AF.INET
        assert read(V1_TCP4).protocol is PROTO.STREAM

    @DIFFERS
    def test_numbers_of_version_2_are_members(self) -> None:
        data = read(v2(0x21, 0x12, INET))
        assert data.command is V2_CMD.PROXY
        assert data.family is AF.INET
        assert data.protocol is PROTO.DGRAM

    @pytest.mark.parametrize("header", VALID)
    def test_bytes_after_the_header_are_not_taken(self, header: bytes) -> None:
        reader = Octets(header + b"EHLO client.test\r\n")
        assert finish(get_proxy(reader)).valid
        assert reader.data == b"EHLO client.test\r\n"

    @pytest.mark.parametrize("header", VALID)
    async def test_a_header_arrives_byte_by_byte(self, header: bytes) -> None:
        reader = asyncio.StreamReader()
        task = asyncio.create_task(get_proxy(reader))
        for octet in header[:-1][:300]:
            reader.feed_data(bytes([octet]))
            await asyncio.sleep(0)
        assert not task.done()
        reader.feed_data(header[:-1][300:] + header[-1:])
        assert (await task).whole_raw == header

    def test_tlv_start(self) -> None:
        assert read(v2(0x21, 0x11, INET, b"x")).tlv_start == 16 + 12
        assert read(v2(0x21, 0x21, INET6, b"x")).tlv_start == 16 + 36
        assert read(v2(0x21, 0x31, UNIX, b"x")).tlv_start == 16 + 216
        assert read(v2(0x21, 0x11, INET)).tlv_start is None
        assert read(v2(0x21, 0x00, b"x")).tlv_start is None


ERRORS_V1 = [
    (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "header too long"),
    (b"PROXY UNKNOWN " + b"x" * 500 + b"\r\n", "header too long"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 1\n", "malformed"),
    (b"PROXY UNKNOWN a\nb\r\n", "malformed"),
    (b"PROXY\n", "malformed"),
    (b"PROXYTCP4 192.0.2.1 198.51.100.2 1 1\r\n", "wrong signature"),
    (b"PROXY\tUNKNOWN\r\n", "wrong signature"),
    (b"PROXY \r\n", "unrecognized family"),
    (b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 1\r\n", "unrecognized family"),
    (b"PROXY TCP 192.0.2.1 198.51.100.2 1 1\r\n", "unrecognized family"),
    (b"PROXY TCP5 192.0.2.1 198.51.100.2 1 1\r\n", "unrecognized family"),
    (b"PROXY UNIX /a /b\r\n", "unrecognized family"),
    (b"PROXY unknown\r\n", "unrecognized family"),
    (b"PROXY UNKNOWNx\r\n", "unrecognized family"),
    (b"PROXY \xff\r\n", "unrecognized family"),
    (b"PROXY UDP4 192.0.2.1 198.51.100.2 1 1\r\n", "unrecognized protocol"),
    (b"PROXY UDP6 ::1 ::2 1 1\r\n", "unrecognized protocol"),
    (b"PROXY tcp4 192.0.2.1 198.51.100.2 1 1\r\n", "unrecognized protocol"),
    (b"PROXY UNKNOWN4\r\n", "unrecognized protocol"),
    (b"PROXY TCP4 192.0.2.256 198.51.100.2 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 192.0.2.01 198.51.100.2 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 3221225985 198.51.100.2 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 192.0.2.\xd9\xa1 198.51.100.2 1 1\r\n", "address malformed"),
    (b"PROXY TCP4  192.0.2.1 198.51.100.2 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 client.test 198.51.100.2 1 1\r\n", "address malformed"),
    (b"PROXY TCP6 1::2::3 ::1 1 1\r\n", "address malformed"),
    (b"PROXY TCP6 00001:: ::1 1 1\r\n", "address malformed"),
    (b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 ::1 nothing 1 1\r\n", "address malformed"),
    (b"PROXY TCP4 192.0.2.1 ::1 1 1\r\n", "address not IPv4"),
    (b"PROXY TCP4 ::1 192.0.2.1 1 1\r\n", "address not IPv4"),
    (b"PROXY TCP6 192.0.2.1 ::1 1 1\r\n", "address not IPv6"),
    (b"PROXY TCP6 ::1 192.0.2.1 1 1\r\n", "address not IPv6"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 01 1\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 00 1\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 1\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 1\r\n", "port malformed"),
    pytest.param(b"PROXY TCP4 192.0.2.1 198.51.100.2 1_0 1\r\n", "port malformed", marks=DIFFERS),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1x 1\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2  1 1\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 \r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 \xd9\xa1\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 70000 x\r\n", "port malformed"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 1\r\n", "src port out of bounds"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 123456 65536\r\n", "src port out of bounds"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n", "dst port out of bounds"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536 x\r\n", "dst port out of bounds"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 1 \r\n", "unrecognized extraneous data"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 1 x\r\n", "unrecognized extraneous data"),
]

ERRORS_V2 = [
    (V2_SIGNATURE[:8] + b"xxxxxxxx", "wrong signature"),
    (v2(0x11, 0x11, INET), "illegal version"),
    (v2(0x31, 0x44), "illegal version"),
    (v2(0x22, 0x11, INET), "unsupported command"),
    (v2(0x2F, 0x44), "unsupported command"),
    (v2(0x21, 0x41, INET), "unsupported family"),
    (v2(0x21, 0x13, INET), "unsupported protocol"),
    (v2(0x21, 0x11, INET[:-1]), "truncated address"),
    (v2(0x21, 0x12), "truncated address"),
    (v2(0x21, 0x21, INET6[:-1]), "truncated address"),
    (v2(0x21, 0x31, UNIX[:-1]), "truncated address"),
]


class TestErrors:
    @pytest.mark.parametrize(("header", "text"), ERRORS_V1)
    def test_version_1(self, header: bytes, text: str) -> None:
        data = read(header)
        assert (data.version, data.error) == (1, f"PROXYv1 {text}")
        assert data.valid is False
        assert bool(data) is False

    @pytest.mark.parametrize(("header", "text"), ERRORS_V2)
    def test_version_2(self, header: bytes, text: str) -> None:
        data = read(header)
        assert (data.version, data.error) == (2, f"PROXYv2 {text}")
        assert data.valid is False
        assert bool(data) is False

    @pytest.mark.parametrize(
        "header", [b"EHLO client.test\r\n", b"proxy UNKNOWN\r\n", b"PROXZ", bytes(20)]
    )
    def test_other_input_is_refused(self, header: bytes) -> None:
        data = read(header)
        assert (data.version, data.error) == (None, "PROXY unrecognized signature")
        assert not data

    @pytest.mark.parametrize(
        "header",
        [
            b"PROXY\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        ],
    )
    def test_a_missing_field_is_an_error(self, header: bytes) -> None:
        data = read(header)
        assert data.version is None
        assert data.error.startswith("PROXY exception: ")
        assert not data

    @DIFFERS
    @pytest.mark.parametrize(
        "name", [b"TCPxx4", b"TCP44", b"TCP64", b"TCP46", b"TCP\xff4", b"TCP-6", b"TCP04"]
    )
    def test_the_family_must_match_exactly(self, name: bytes) -> None:
        data = read(b"PROXY " + name + b" 192.0.2.1 198.51.100.2 1 1\r\n")
        assert data.error == "PROXYv1 unrecognized protocol"
        assert not data

    @DIFFERS
    def test_a_long_line_is_not_waited_for(self) -> None:
        reader = Octets(b"PROXY UNKNOWN " + b"x" * 1000000)
        data = finish(get_proxy(reader))
        assert data.error == "PROXYv1 header too long"
        assert bytes(data.whole_raw) == b"PROXY UNKNOWN " + b"x" * 93
        assert reader.most <= 107

    def test_fields_before_the_error_are_kept(self) -> None:
        data = read(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n")
        assert data.same_attribs(
            True,
            family=AF.INET,
            protocol=PROTO.STREAM,
            src_addr=IPv4Address("192.0.2.1"),
            dst_addr=IPv4Address("198.51.100.2"),
            src_port=1,
            dst_port=65536,
        )
        data = read(v2(0x21, 0xE7))
        assert data.same_attribs(True, command=V2_CMD.PROXY, family=14, protocol=None)
        data = read(v2(0x21, 0x17))
        assert data.same_attribs(True, command=V2_CMD.PROXY, family=AF.INET, protocol=7)
        assert read(v2(0x29, 0x11)).command == 9

    def test_errors_are_logged_as_warnings(self, caplog: pytest.LogCaptureFixture) -> None:
        read(b"PROXY \r\n")
        read(V2_SIGNATURE)
        read(V1_TCP4)
        assert [record for record in caplog.record_tuples if record[0] == "mail.debug"] == [
            ("mail.debug", logging.WARNING, "PROXY error: PROXYv1 unrecognized family"),
            (
                "mail.debug",
                logging.WARNING,
                "PROXY exception: Connection lost while waiting for header",
            ),
        ]


class Failing(Octets):
    """Reads some bytes, then raises."""

    def __init__(self, data: bytes, error: BaseException) -> None:
        super().__init__(data)
        self.error = error

    def take(self, octets: int) -> bytes:
        if not self.data:
            raise self.error
        return super().take(octets)


BEGINNINGS = [b"", b"PROXY", V2_SIGNATURE[:5], V2_SIGNATURE, v2(0x21, 0x11, length=12)]


class TestTheEnd:
    @DIFFERS
    @pytest.mark.parametrize("header", VALID)
    def test_a_header_cut_anywhere_is_invalid(self, header: bytes) -> None:
        for size in [*range(min(len(header), 300)), len(header) - 1]:
            data = read(header[:size])
            assert not data
            assert data.version is None
            assert data.error.startswith("PROXY exception: ")

    @pytest.mark.parametrize(
        ("size", "part"),
        [(5, "signature"), (11, "signature"), (12, "header"), (15, "header"), (16, "tail part")],
    )
    def test_a_lost_connection_is_an_error(self, size: int, part: str) -> None:
        data = read(v2(0x21, 0x11, INET)[:size])
        assert data.error == f"PROXY exception: Connection lost while waiting for {part}"

    @DIFFERS
    @pytest.mark.parametrize("beginning", BEGINNINGS)
    @pytest.mark.parametrize("error", [ConnectionResetError("gone"), OSError("gone"), KeyError(1)])
    def test_an_exception_of_the_reader_is_an_error(
        self, beginning: bytes, error: Exception
    ) -> None:
        data = finish(get_proxy(Failing(beginning, error)))
        assert (data.version, data.error) == (None, f"PROXY exception: {error}")
        assert not data

    @pytest.mark.parametrize("beginning", BEGINNINGS)
    async def test_a_cancellation_is_raised(self, beginning: bytes) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(beginning)
        task = asyncio.create_task(get_proxy(reader))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


FRAGMENTS = st.sampled_from(
    [
        b"PROXY",
        b" ",
        b"TCP4",
        b"TCP6",
        b"UNKNOWN",
        b"192.0.2.1",
        b"2001:db8::1",
        b"65535",
        b"65536",
        b"\r\n",
        b"\n",
        V2_SIGNATURE,
        V2_SIGNATURE + b"\x21\x11\x00",
        V2_SIGNATURE + b"\x20\x00\x00",
        INET,
        INET6,
        VECTORS,
        b"\x20\x00",
    ]
)
NOISE = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(FRAGMENTS, st.binary(max_size=3)), max_size=12).map(b"".join),
)


@DIFFERS
class TestNoise:
    @given(NOISE)
    @example(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n")
    def test_any_input_gives_a_result(self, noise: bytes) -> None:
        reader = Octets(noise)
        data = finish(get_proxy(reader))
        assert data.valid is (data.error == "")
        assert noise.startswith(bytes(data.whole_raw))
        assert reader.most <= 65535
        if data.valid:
            assert noise == bytes(data.whole_raw) + reader.data
            assert data.tlv is None or data.version == 2

    @given(st.sampled_from(VALID), st.data())
    def test_a_header_with_one_byte_changed(self, header: bytes, draw: st.DataObject) -> None:
        place = draw.draw(st.integers(0, min(len(header), 300) - 1))
        octet = draw.draw(st.integers(0, 255))
        data = read(header[:place] + bytes([octet]) + header[place + 1 :])
        assert data.valid is (data.error == "")
        if data.valid and data.version == 1:
            assert data.whole_raw.endswith(b"\r\n")

    @given(
        st.binary(max_size=20),
        st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4))
        | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
        st.integers(0, 65535),
        st.integers(0, 65535),
    )
    def test_a_built_header_parses_to_its_fields(
        self,
        behind: bytes,
        ends: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address],
        source: int,
        target: int,
    ) -> None:
        version = ends[0].version
        line = f"PROXY TCP{version} {ends[0]} {ends[1]} {source} {target}\r\n".encode()
        family = 0x11 if version == 4 else 0x21
        packed = ends[0].packed + ends[1].packed + struct.pack("!HH", source, target)
        for header in (line, v2(0x21, family, packed, behind)):
            data = read(header)
            assert data.valid
            assert (data.src_addr, data.dst_addr) == ends
            assert (data.src_port, data.dst_port) == (source, target)

    @given(NOISE, st.booleans(), st.booleans())
    def test_any_vectors_are_parsed_or_malformed(
        self, noise: bytes, partial_ok: bool, strict: bool
    ) -> None:
        try:
            found, places = ProxyTLV.parse(noise, partial_ok, strict)
        except UnknownTypeTLV:
            assert strict
        except MalformedTLV:
            assert not partial_ok
        else:
            assert set(places) == set(found) - {"SSL_CLIENT", "SSL_VERIFY"}

    @given(st.lists(st.tuples(st.integers(0xE0, 0xEF), st.binary(max_size=300)), max_size=9))
    def test_built_vectors_parse_to_the_same_vectors(
        self, vectors: list[tuple[int, bytes]]
    ) -> None:
        raw = b"".join(tlv(kind, value) for kind, value in vectors)
        found = ProxyTLV.from_raw(raw)
        assert (found or {}) == {f"x{kind:02X}": value for kind, value in vectors}

    def test_deep_nesting_does_not_recurse(self) -> None:
        raw = b""
        while len(raw) < 60000:
            raw = tlv(0x20, bytes(5) + raw)
        data = read(v2(0x21, 0x11, INET, raw))
        assert data.valid
        assert data.tlv is None


class TestTLV:
    def test_all(self) -> None:
        found = ProxyTLV.from_raw(VECTORS)
        assert isinstance(found, ProxyTLV)
        assert found == {
            "ALPN": b"smtp",
            "SSL": True,
            "SSL_CLIENT": 7,
            "SSL_VERIFY": 0,
            "SSL_VERSION": b"TLSv1.3",
            "SSL_CN": b"client.test",
            "UNIQUE_ID": b"id\xff",
        }
        ssl_size = 3 + 5 + 3 + 7 + 3 + 11
        assert found.tlv_loc == {
            "ALPN": 0,
            "SSL": 7,
            "SSL_VERSION": 7,
            "SSL_CN": 7 + 3 + 7,
            "UNIQUE_ID": 7 + ssl_size,
        }

    def test_of_a_header(self) -> None:
        data = read(v2(0x21, 0x11, INET, VECTORS))
        vectors = data.tlv
        assert isinstance(vectors, ProxyTLV)
        assert vectors is data.tlv
        assert vectors.AUTHORITY is None
        assert vectors.SSL_CN == b"client.test"
        assert data.tlv_start is not None
        place = data.tlv_start + vectors.tlv_loc["UNIQUE_ID"]
        assert data.whole_raw[place : place + 6] == b"\x05\x00\x03id\xff"

    def test_without_addresses(self) -> None:
        assert read(v2(0x20, 0x00, tlv(0x01, b"h2"))).tlv == {"ALPN": b"h2"}
        assert read(v2(0x21, 0x00, tlv(0x01, b"h2"))).tlv == {"ALPN": b"h2"}

    def test_no_vectors_is_none(self) -> None:
        assert read(v2(0x21, 0x11, INET)).tlv is None
        assert read(V1_TCP4).tlv is None
        assert ProxyData(version=2).tlv is None
        assert ProxyTLV.from_raw(b"") is None
        assert ProxyTLV.parse(b"") == ({}, {})

    @DIFFERS
    def test_version_1_has_none(self) -> None:
        header = b"PROXY UNKNOWN \x00\x05\x01\x00\x00\x00\x00\r\n"
        assert ProxyTLV.from_raw(read(header).rest) == {
            "SSL": True,
            "SSL_CLIENT": 1,
            "SSL_VERIFY": 0,
        }
        assert read(header).tlv is None

    @pytest.mark.parametrize("kind", ProxyTLV.PP2_TYPENAME)
    def test_type(self, kind: int) -> None:
        name = ProxyTLV.PP2_TYPENAME[kind]
        assert ProxyTLV.name_to_num(name) == kind
        if name != "SSL":
            assert ProxyTLV.from_raw(tlv(kind, b"value")) == {name: b"value"}

    def test_types(self) -> None:
        assert ProxyTLV.PP2_TYPENAME == {
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

    @pytest.mark.parametrize("name", ["xE0", "alpn", "", "SSL_CLIENT", "nothing"])
    def test_an_unregistered_name_has_no_number(self, name: str) -> None:
        assert ProxyTLV.name_to_num(name) is None

    def test_unknown_type(self) -> None:
        raw = tlv(0x01, b"a") + tlv(0xE0, b"b") + tlv(0x0A, b"")
        found = ProxyTLV.from_raw(raw)
        assert found == {"ALPN": b"a", "xE0": b"b", "x0A": b""}
        assert found is not None
        assert found.xE0 == b"b"
        for parse in (ProxyTLV.parse, ProxyTLV.from_raw):
            with pytest.raises(UnknownTypeTLV) as caught:
                parse(raw, strict=True)
            assert caught.value.args == ("xE0",)

    def test_an_unknown_type_inside_ssl(self) -> None:
        raw = tlv(0x20, bytes(5) + tlv(0xE1, b"x"))
        assert ProxyTLV.parse(raw)[0]["xE1"] == b"x"
        with pytest.raises(UnknownTypeTLV) as caught:
            ProxyTLV.parse(raw, strict=True)
        assert caught.value.args == ("xE1",)

    def test_the_last_of_a_type_counts(self) -> None:
        found = ProxyTLV.from_raw(tlv(1, b"a") + tlv(1, b"b"))
        assert found == {"ALPN": b"b"}
        assert found is not None
        assert found.tlv_loc == {"ALPN": 4}

    @pytest.mark.parametrize("whole", [bytes, bytearray, memoryview])
    def test_bytes_like_objects_are_parsed(
        self, whole: type[bytes | bytearray | memoryview]
    ) -> None:
        assert ProxyTLV.from_raw(whole(tlv(0x01, b"h2"))) == {"ALPN": b"h2"}

    def test_a_truncated_vector_is_malformed(self) -> None:
        raw = tlv(0x01, b"a") + b"\x02\x00\x05host"
        assert ProxyTLV.parse(raw) == ({"ALPN": b"a"}, {"ALPN": 0})
        with pytest.raises(MalformedTLV, match=r"^TLV 0x02 is malformed!$"):
            ProxyTLV.parse(raw, partial_ok=False)
        with pytest.raises(MalformedTLV, match=r"^TLV 0x02 is malformed!$"):
            ProxyTLV.from_raw(raw)
        assert read(v2(0x21, 0x11, INET, raw)).tlv is None

    @DIFFERS
    @pytest.mark.parametrize("end", [b"\x02", b"\x02\x00"])
    def test_a_truncated_length_is_malformed(self, end: bytes) -> None:
        raw = tlv(0x01, b"a") + end
        assert ProxyTLV.parse(raw) == ({"ALPN": b"a"}, {"ALPN": 0})
        with pytest.raises(MalformedTLV, match=r"^TLV 0x02 is malformed!$"):
            ProxyTLV.from_raw(raw)

    def test_a_truncated_vector_inside_ssl(self) -> None:
        raw = tlv(0x20, SSL_PART + b"\x23\x00\x09x") + tlv(0x01, b"a")
        found, places = ProxyTLV.parse(raw)
        assert found == {
            "SSL": False,
            "SSL_CLIENT": 7,
            "SSL_VERIFY": 0,
            "SSL_VERSION": b"TLSv1.3",
            "SSL_CN": b"client.test",
        }
        assert places == {"SSL": 0, "SSL_VERSION": 0, "SSL_CN": 10}
        with pytest.raises(MalformedTLV, match=r"^TLV 0x23 is malformed!$"):
            ProxyTLV.from_raw(raw)

    def test_ssl_numbers(self) -> None:
        found, _ = ProxyTLV.parse(tlv(0x20, b"\x05\x00\x01\x02\x03"))
        assert found == {"SSL": True, "SSL_CLIENT": 5, "SSL_VERIFY": 0x010203}

    @DIFFERS
    @pytest.mark.parametrize("size", range(5))
    def test_ssl_too_short_is_not_verified(self, size: int) -> None:
        raw = tlv(0x20, b"\x07\x00\x00\x00\x00"[:size])
        assert ProxyTLV.parse(raw) == ({"SSL": False}, {"SSL": 0})
        with pytest.raises(MalformedTLV, match=r"^TLV 0x20 is malformed!$"):
            ProxyTLV.from_raw(raw)

    @DIFFERS
    def test_ssl_inside_ssl_is_malformed(self) -> None:
        raw = tlv(0x20, bytes(5) + tlv(0x20, b"\x07" + bytes(4)))
        with pytest.raises(MalformedTLV, match=r"^TLV 0x20 is malformed!$"):
            ProxyTLV.from_raw(raw)

    def test_built(self) -> None:
        vectors = ProxyTLV({"ALPN": b"a"}, _tlv_loc={"ALPN": 3}, NETNS=b"n")
        assert vectors == {"ALPN": b"a", "NETNS": b"n"}
        assert vectors.tlv_loc == {"ALPN": 3}
        assert (vectors.ALPN, vectors.NETNS, vectors.other) == (b"a", b"n", None)
        with pytest.raises(TypeError):
            ProxyTLV()  # type: ignore[call-arg]
        with pytest.raises(AttributeError):
            vectors.ALPN = b"b"  # type: ignore[attr-defined]

    @DIFFERS
    def test_copied_and_pickled(self) -> None:
        vectors = ProxyTLV.from_raw(VECTORS)
        assert vectors is not None
        for another in (
            copy.copy(vectors),
            copy.deepcopy(vectors),
            pickle.loads(pickle.dumps(vectors)),
        ):
            assert type(another) is ProxyTLV
            assert another == vectors
            assert another.tlv_loc == vectors.tlv_loc
        with pytest.raises(AttributeError):
            vectors.__nothing__  # noqa: B018

    def test_same_attribs(self) -> None:
        vectors = ProxyTLV.from_raw(VECTORS)
        assert vectors is not None
        assert vectors.same_attribs()
        assert vectors.same_attribs(ALPN=b"smtp", SSL=True)
        assert vectors.same_attribs(True, ALPN=b"smtp")
        assert not vectors.same_attribs(ALPN=b"http")
        assert not vectors.same_attribs(AUTHORITY=None)
        with pytest.raises(ValueError, match=r"^mismatch:ALPN actual=b'smtp' expect=b'http'$"):
            vectors.same_attribs(_raises=True, ALPN=b"http")
        with pytest.raises(KeyError) as caught:
            vectors.same_attribs(_raises=True, AUTHORITY=None)
        assert caught.value.args == ("notfound:AUTHORITY",)


class TestProxyData:
    def test_a_new_header_is_empty(self) -> None:
        data = ProxyData(version=1)
        assert data.same_attribs(
            True,
            version=1,
            command=None,
            family=None,
            protocol=None,
            src_addr=None,
            dst_addr=None,
            src_port=None,
            dst_port=None,
            rest=b"",
            whole_raw=bytearray(),
            tlv_start=None,
            error="",
            valid=False,
            tlv=None,
        )
        assert not data

    def test_version_is_the_only_argument(self) -> None:
        for arguments, keywords in (((), {}), ((1,), {}), ((), {"version": 1, "command": 1})):
            with pytest.raises(TypeError):
                ProxyData(*arguments, **keywords)

    def test_other_attributes_are_refused(self) -> None:
        data = ProxyData(version=1)
        with pytest.raises(AttributeError):
            data.nothing = 1  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            data.tlv = None  # type: ignore[misc]

    def test_valid(self) -> None:
        data = ProxyData(version=2)
        data.command = V2_CMD.PROXY
        data.family = AF.UNSPEC
        assert not data.valid
        data.protocol = PROTO.UNSPEC
        assert data.valid
        data.error = "something"
        assert not data.valid
        nothing = ProxyData(version=None)
        nothing.protocol = PROTO.STREAM
        assert not nothing.valid

    def test_with_error(self, caplog: pytest.LogCaptureFixture) -> None:
        data = read(V1_TCP4)
        assert data.with_error("100 % wrong") is data
        assert data.error == "100 % wrong"
        assert not data
        assert data.with_error("too", log_prefix=False).error == "too"
        assert [record for record in caplog.record_tuples if record[0] == "mail.debug"] == [
            ("mail.debug", logging.WARNING, "PROXY error: 100 % wrong"),
            ("mail.debug", logging.WARNING, "too"),
        ]

    def test_same_attribs(self) -> None:
        data = read(V1_TCP4)
        assert data.same_attribs()
        assert data.same_attribs(version=1, src_port=56324)
        assert data.same_attribs(_raises=True, version=1)
        assert not data.same_attribs(version=2)
        assert not data.same_attribs(nothing=None)
        with pytest.raises(ValueError, match=r"^mismatch:version actual=1 expect=2$"):
            data.same_attribs(_raises=True, version=2)
        with pytest.raises(KeyError) as caught:
            data.same_attribs(_raises=True, nothing=None)
        assert caught.value.args == ("notfound:nothing",)

    def test_headers_are_compared_by_value(self) -> None:
        assert read(V1_TCP4) == read(V1_TCP4)
        assert read(V1_TCP4) != read(b"PROXY UNKNOWN\r\n")
        assert operator.lt(ProxyData(version=1), ProxyData(version=2))
        with pytest.raises(TypeError):
            hash(ProxyData(version=1))

    @DIFFERS
    def test_reading_the_vectors_changes_nothing(self) -> None:
        header = v2(0x21, 0x11, INET, VECTORS)
        seen, unseen = read(header), read(header)
        assert seen.tlv
        assert seen == unseen

    def test_the_repr_shows_the_fields(self) -> None:
        shown = repr(read(V1_TCP4))
        assert shown.startswith("ProxyData(version=1, command=None, family=<AF.INET: 1>, ")
        assert "src_addr=IPv4Address('192.0.2.1')" in shown


class Behind(Catcher):
    """A handler that keeps the arguments of ``handle_PROXY`` and returns *answer*."""

    def __init__(self, answer: Any = True) -> None:
        super().__init__()
        self.answer = answer
        self.proxied: list[tuple[Session, ProxyData]] = []

    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> Any:
        self.proxied.append((session, proxy_data))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Gated(Behind):
    """Answers once the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.gate = threading.Event()

    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> Any:
        self.reached.set()
        await asyncio.to_thread(self.gate.wait, PATIENCE)
        return True


def until_closed(client: Client) -> bytes:
    """Return all bytes until the server closes or resets the connection."""
    received = b""
    try:
        while piece := client.socket.recv(4096):
            received += piece
    except ConnectionResetError:
        pass
    return received


def delivered(client: Client) -> None:
    client.transaction()
    assert client.ask(b"\r\nbody\r\n.") == b"250 OK\r\n"


class TestServer:
    @pytest.mark.parametrize("header", VALID)
    def test_a_valid_header(self, header: bytes) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(header)
            assert client.reply().startswith(b"220 mx.test ")
            delivered(client)
            client_address = client.socket.getsockname()
        [(session, data)] = handler.proxied
        assert data == read(header)
        session_at_end, _ = handler.caught.get(timeout=PATIENCE)
        assert session_at_end.proxy_data is data
        assert session_at_end.peer == client_address
        assert session.peer == client_address

    def test_no_greeting_before_the_header_is_accepted(self) -> None:
        handler = Gated()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert handler.reached.wait(PATIENCE)
            client.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.socket.recv(1)
            client.socket.settimeout(PATIENCE)
            handler.gate.set()
            assert client.reply().startswith(b"220 ")

    def test_commands_pipelined_with_the_header(self) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(v2(0x21, 0x11, INET, VECTORS) + b"EHLO client.test\r\nNOOP\r\n")
            assert client.reply().startswith(b"220 ")
            assert client.reply().startswith(b"250-mx.test\r\n")
            assert client.reply() == b"250 OK\r\n"
            delivered(client)

    def test_a_header_in_pieces(self) -> None:
        header = v2(0x21, 0x21, INET6)
        with (
            serving(Behind(), proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            for octet in header:
                client.send(bytes([octet]))
            assert client.reply().startswith(b"220 ")

    def test_each_connection_has_its_own_header(self) -> None:
        handler = Behind()
        with serving(handler, proxy_protocol_timeout=PATIENCE) as controller:
            for port in (1, 2):
                with Client(controller.port, greet=False) as client:
                    client.send(b"PROXY TCP4 192.0.2.1 198.51.100.2 %d 25\r\n" % port)
                    assert client.reply().startswith(b"220 ")
        assert [data.src_port for _, data in handler.proxied] == [1, 2]

    @pytest.mark.parametrize("answer", [False, None, 0, ""])
    def test_a_false_result_of_the_hook_closes(self, answer: object) -> None:
        handler = Behind(answer)
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b""
        assert len(handler.proxied) == 1

    def test_without_the_hook_the_connection_closes(self) -> None:
        with (
            serving(Sink(), proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b""

    def test_a_refusal_reaches_the_client(self, caplog: pytest.LogCaptureFixture) -> None:
        """The proxy has sent a valid header: its client may get the reason."""
        with (
            serving(
                Behind(Refused("554 5.7.1 Not from there")), proxy_protocol_timeout=PATIENCE
            ) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b"554 5.7.1 Not from there\r\n"
        assert not [record for record in caplog.records if record.exc_info]

    @DIFFERS
    def test_a_hook_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        handler = Behind(ValueError("the hook's own"))
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b""
        # A task whose exception was never retrieved complains when it is collected.
        handler.answer = None
        gc.collect()
        told = [
            record.name
            for record in caplog.records
            if record.exc_info and "the hook's own" in str(record.exc_info[1])
        ]
        assert told == ["mail.log"]

    @pytest.mark.parametrize(
        "header",
        [
            b"EHLO client.test\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.2 1 1\r\n",
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY UNKNOWN " + b"x" * 500,
            v2(0x31, 0x11, INET),
            v2(0x21, 0x11, INET[:-1]),
            pytest.param(
                b"PROXY TCPxx4 192.0.2.1 198.51.100.2 1 1\r\n",
                marks=DIFFERS,
            ),
        ],
    )
    def test_a_malformed_header_closes(self, header: bytes) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(header + b"\r\nEHLO client.test\r\n")
            assert until_closed(client) == b""
        assert handler.proxied == []

    @DIFFERS
    @pytest.mark.parametrize("beginning", [b"", b"PRO", V1_TCP4[:-1], v2(0x21, 0x11, length=12)])
    def test_the_client_goes_before_the_end_of_the_header(self, beginning: bytes) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(beginning)
            client.socket.shutdown(1)
            assert until_closed(client) == b""
            with Client(controller.port, greet=False) as another:
                another.send(V1_TCP4)
                assert another.reply().startswith(b"220 ")
        assert len(handler.proxied) == 1

    @pytest.mark.parametrize("beginning", [b"", b"PRO", V1_TCP4[:-1], v2(0x21, 0x11, length=12)])
    def test_a_late_header_closes(self, beginning: bytes) -> None:
        handler = Behind()
        begun = time.monotonic()
        with (
            serving(handler, proxy_protocol_timeout=0.2) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(beginning)
            assert until_closed(client) == b""
            assert 0.19 < time.monotonic() - begun < PATIENCE
        assert handler.proxied == []

    def test_the_time_limit_ends_with_the_header(self) -> None:
        begun = time.monotonic()
        with (
            serving(Behind(), proxy_protocol_timeout=0.2, timeout=0.5) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert client.reply().startswith(b"220 ")
            until_closed(client)
            assert 0.49 < time.monotonic() - begun < PATIENCE

    def test_without_the_option_a_header_is_a_command(self) -> None:
        handler = Behind()
        with serving(handler) as controller, Client(controller.port) as client:
            assert client.ask(b"PROXY UNKNOWN").startswith(b"500 ")
        assert handler.proxied == []

    @DIFFERS
    def test_the_header_is_kept_after_starttls(self, certificates: Certificates) -> None:
        handler = Behind()
        with (
            serving(
                handler,
                proxy_protocol_timeout=PATIENCE,
                tls_context=certificates.server_context(),
            ) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert client.reply().startswith(b"220 ")
            assert client.ask(b"EHLO client.test").startswith(b"250")
            assert client.ask(b"STARTTLS").startswith(b"220 ")
            client.file.close()
            context = certificates.client_context()
            client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
            client.file = client.socket.makefile("rb")
            assert isinstance(client.socket, ssl.SSLSocket)
            delivered(client)
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert session.proxy_data is handler.proxied[0][1]

    @pytest.mark.parametrize("timeout", [0, -1, -0.1])
    async def test_a_time_limit_must_be_positive(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match=r"^proxy_protocol_timeout must be > 0$"):
            SMTP(Sink(), proxy_protocol_timeout=timeout, loop=loop)
