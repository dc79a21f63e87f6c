"""The PROXY protocol: its TLVs, and what a header says."""

import copy
import logging
import operator
import pickle

import pytest

from aiosmtpd.proxy_protocol import (
    AF,
    PROTO,
    V2_CMD,
    MalformedTLV,
    ProxyData,
    ProxyTLV,
    UnknownTypeTLV,
)
from tests.compat.proxy_headers import DIFFERS, INET, SSL_PART, V1_TCP4, VECTORS, read, tlv, v2
from tests.rows import each_row


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

    def test_without_vectors_there_is_no_tlv(self) -> None:
        assert read(v2(0x21, 0x11, INET)).tlv is None
        assert read(V1_TCP4).tlv is None
        assert ProxyData(version=2).tlv is None
        assert ProxyTLV.from_raw(b"") is None
        assert ProxyTLV.parse(b"") == ({}, {})

    @DIFFERS
    def test_version_1_has_no_tlv(self) -> None:
        header = b"PROXY UNKNOWN \x00\x05\x01\x00\x00\x00\x00\r\n"
        assert ProxyTLV.from_raw(read(header).rest) == {
            "SSL": True,
            "SSL_CLIENT": 1,
            "SSL_VERIFY": 0,
        }
        assert read(header).tlv is None

    @each_row("kind", ProxyTLV.PP2_TYPENAME)
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
