"""Return-Path, Received and mail loops: RFC 5321 sections 4.4 and 6.3."""

from email import message_from_bytes
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.protocol.trace import fields, hops, is_looping, protocol_of

KNOWN: dict[str, Any] = {
    "client": "client.test",
    "address": "192.0.2.1",
    "server": "mx.test",
    "protocol": "ESMTP",
    "identifier": "0123abcd",
    "date": "Wed, 25 Nov 2026 02:30:08 +0000",
}


@pytest.mark.parametrize(
    ("family", "extended", "utf8", "tls", "authenticated", "expected"),
    [
        ("SMTP", False, False, True, False, "SMTP"),
        ("SMTP", True, False, False, False, "ESMTP"),
        ("SMTP", True, False, True, False, "ESMTPS"),
        ("SMTP", True, False, False, True, "ESMTPA"),
        ("SMTP", True, False, True, True, "ESMTPSA"),
        ("SMTP", True, True, True, True, "UTF8SMTPSA"),
        ("LMTP", True, False, False, False, "LMTP"),
        ("LMTP", True, False, True, True, "LMTPSA"),
        ("LMTP", True, True, False, False, "UTF8LMTP"),
    ],
)
def test_the_protocol_name(
    family: str, extended: bool, utf8: bool, tls: bool, authenticated: bool, expected: str
) -> None:
    """RFC 3848, RFC 6531 section 4.3."""
    found = protocol_of(family, extended=extended, utf8=utf8, tls=tls, authenticated=authenticated)
    assert found == expected


def test_only_a_single_recipient_is_named() -> None:
    assert fields("a@b.test", ["c@d.test"], **KNOWN) == (
        b"Return-Path: <a@b.test>\r\n"
        b"Received: from client.test ([192.0.2.1])\r\n"
        b"\tby mx.test with ESMTP id 0123abcd\r\n"
        b"\tfor <c@d.test>; Wed, 25 Nov 2026 02:30:08 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("path", "recipients", "changed", "expected"),
    [
        ("<>", ["c@d.test"], {}, b"Return-Path: <>\r\n"),
        (None, ["c@d.test"], {}, b"Return-Path: <>\r\n"),
        ("a@b", ["c@d", "e@f"], {}, b"id 0123abcd\r\n\t; Wed"),
        ("a@b", ["c@d"], {"client": None}, b"from unknown ([192"),
        ("a@b", ["c@d"], {"client": "x (evil"}, b"from unknown ([192"),
        ("a@b", ["c@d"], {"client": "x\r\nX-Evil: 1"}, b"from unknown ([192"),
        ("a@b", ["c@d"], {"client": "[192.0.2.9]"}, b"from [192.0.2.9] ([192"),
        ("a@b", ["c@d"], {"address": "2001:db8::1"}, b"([IPv6:2001:db8::1])"),
        ("a@b", ["c@d"], {"address": ""}, b"from client.test\r\n"),
        ("\xe9@b", ["c@d"], {}, b"<\xc3\xa9@b>"),
    ],
)
def test_fields(path: str | None, recipients: list[str], changed: Any, expected: bytes) -> None:
    assert expected in fields(path, recipients, **{**KNOWN, **changed})


@given(st.text())
def test_a_client_cannot_inject_a_field(client: str) -> None:
    found = fields("a@b", ["c@d"], **{**KNOWN, "client": client})
    assert message_from_bytes(found + b"\r\n").keys() == ["Return-Path", "Received"]


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (b"", 0),
        (b"Received: x\r\nreceived : y\r\n\tz\r\nSubject: Received: no\r\n\r\nReceived: no\r\n", 2),
        (b"Received: x\nRECEIVED:\n\nReceived: no", 2),
        (b"\r\nReceived: no", 1),
        # A message with only headers does not take long.
        (b"x: y\r\n" * 100_000 + b"Received: far away\r\n", 0),
    ],
)
def test_received_fields_are_counted(message: bytes, count: int) -> None:
    assert hops(message) == count


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("more", [b"", b"Subject: x" * 50])
def test_a_loop_is_found_in_the_shortest_fields(line_end: bytes, more: bytes) -> None:
    message = (b"Received:" + line_end) * 7 + more + b"\r\n\r\nReceived:\r\n"
    assert is_looping(message, 6)
    assert not is_looping(message, 7)
