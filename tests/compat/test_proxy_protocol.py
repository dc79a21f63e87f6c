"""The PROXY protocol: the names and texts of 1.4, and headers of both versions."""

import asyncio
import inspect
import logging
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from aiosmtpd import proxy_protocol
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
from tests.compat.proxy_headers import (
    DIFFERS,
    INET,
    INET6,
    UNIX,
    V1_TCP4,
    VALID,
    VALID_V1,
    VALID_V2,
    VECTORS,
    Octets,
    finish,
    read,
    tlv,
    v2,
)
from tests.rows import each_row


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

    @each_row(
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

    @each_row(("header", "values"), VALID_V2)
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

    @each_row("header", VALID)
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

    @each_row(("header", "text"), ERRORS_V2)
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
