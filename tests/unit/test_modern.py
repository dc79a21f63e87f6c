"""The parameters of the extensions that 1.4 did not have."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.protocol.extensions import ExtensionTable
from aiosmtpd.protocol.modern import (
    ALL,
    LONGEST_HOLD,
    MODERN,
    DeliverBy,
    OriginalRecipient,
    ValidSince,
)
from aiosmtpd.protocol.replies import Refused, Reply, with_code
from aiosmtpd.protocol.settings import extension_table
from tests.rows import each_row

TABLE = extension_table("all")
SECURE = SimpleNamespace(session=SimpleNamespace(ssl={}), decode_data=False, data_size_limit=None)
SECURE.session.ssl = {"cipher": None}
PLAIN = SimpleNamespace(session=SimpleNamespace(ssl=None), decode_data=False, data_size_limit=None)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def parse(name: str, value: str | None, server: Any = SECURE) -> Any:
    return {**TABLE.mail, **TABLE.rcpt}[name](server, value)


@each_row(
    ("name", "value", "meaning"),
    [
        # RFC 3461 sections 4.1 to 4.4
        ("RET", "FULL", "FULL"),
        ("RET", "hdrs", "HDRS"),
        ("ENVID", "QQ314159", "QQ314159"),
        ("ENVID", "a+2Bb+3D", "a+b="),
        ("ENVID", "x" * 100, "x" * 100),
        ("NOTIFY", "NEVER", ("NEVER",)),
        ("NOTIFY", "success,Failure,DELAY", ("SUCCESS", "FAILURE", "DELAY")),
        ("ORCPT", "rfc822;a+2Bb@c.test", OriginalRecipient("rfc822", "a+b@c.test")),
        ("ORCPT", "utf-8;\\x{E9}@c.test", OriginalRecipient("utf-8", "\\x{E9}@c.test")),
        # RFC 3030 section 3, RFC 6152 section 3
        ("BODY", "binarymime", "BINARYMIME"),
        ("BODY", "8bitmime", "8BITMIME"),
        # RFC 8689 section 4.2
        ("REQUIRETLS", None, True),
        # RFC 2852 section 4
        ("BY", "120;R", DeliverBy(120, "R", False)),
        ("BY", "-120;nT", DeliverBy(-120, "N", True)),
        ("BY", "+1;Rt", DeliverBy(1, "R", True)),
        # RFC 4865 section 3
        ("HOLDFOR", "86400", 86400),
        # RFC 6710 section 4.1
        ("MT-PRIORITY", "0", 0),
        ("MT-PRIORITY", "-9", -9),
        ("MT-PRIORITY", "9", 9),
        # RFC 7293 section 3.1
        ("RRVS", "2026-01-02T12:00:00Z", ValidSince(NOON, "R")),
        ("RRVS", "2026-01-02t14:00:00+02:00;c", ValidSince(NOON, "C")),
    ],
)
def test_parameters_are_parsed(name: str, value: str | None, meaning: object) -> None:
    assert parse(name, value) == meaning


def in_the_future(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def test_hold_until_is_a_time_in_the_future() -> None:
    text = in_the_future(3600)
    assert parse("HOLDUNTIL", text) == datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RET", None),
        ("RET", ""),
        ("RET", "BODY"),
        ("ENVID", None),
        ("ENVID", "a=b"),
        ("ENVID", "a+2"),
        ("ENVID", "a+2b"),
        ("ENVID", "+00"),
        ("ENVID", "+0D+0A"),
        ("ENVID", "x" * 101),
        ("NOTIFY", None),
        ("NOTIFY", ""),
        ("NOTIFY", "NEVER,SUCCESS"),
        ("NOTIFY", "SUCCESS,SUCCESS"),
        ("NOTIFY", "SUCCESS,"),
        ("NOTIFY", "ALWAYS"),
        ("ORCPT", None),
        ("ORCPT", "a@b.test"),
        ("ORCPT", ";a@b.test"),
        ("ORCPT", "rfc822;"),
        ("ORCPT", "rfc822;a=b"),
        ("ORCPT", "rfc822;+0A"),
        ("ORCPT", "rf c;a"),
        ("ORCPT", "rfc822;" + "x" * 501),
        ("BODY", "9BIT"),
        ("BODY", None),
        ("REQUIRETLS", "YES"),
        ("REQUIRETLS", ""),
        ("BY", None),
        ("BY", "120"),
        ("BY", "120;X"),
        ("BY", "0;R"),
        ("BY", "-1;R"),
        ("BY", "1234567890;N"),
        ("BY", "\u0661;N"),
        ("HOLDFOR", None),
        ("HOLDFOR", "0"),
        ("HOLDFOR", "-1"),
        ("HOLDFOR", str(LONGEST_HOLD)),
        ("HOLDFOR", "9" * 5000),
        ("HOLDUNTIL", None),
        ("HOLDUNTIL", "tomorrow"),
        ("HOLDUNTIL", "2026-01-02T12:00:00Z"),
        ("HOLDUNTIL", "2026-13-02T12:00:00Z"),
        ("MT-PRIORITY", None),
        ("MT-PRIORITY", "10"),
        ("MT-PRIORITY", "-0"),
        ("MT-PRIORITY", "+1"),
        ("RRVS", None),
        ("RRVS", "2026-01-02"),
        ("RRVS", "2026-01-02T12:00:00Z;X"),
        ("RRVS", "2026-01-02T12:00:00Z;"),
    ],
)
def test_wrong_values_are_refused(name: str, value: str | None) -> None:
    with pytest.raises(Refused) as caught:
        parse(name, value)
    assert caught.value.reply.startswith("501 ")


@pytest.mark.parametrize(
    ("seconds", "end"), [(2 * LONGEST_HOLD, None), (3600, -1)], ids=["too late", "without a zone"]
)
def test_hold_until_is_refused(seconds: float, end: int | None) -> None:
    test_wrong_values_are_refused("HOLDUNTIL", in_the_future(seconds)[:end])


def test_requiretls_is_unknown_without_tls() -> None:
    """RFC 8689 section 4.2.1."""
    assert parse("REQUIRETLS", None, PLAIN) is NotImplemented
    offers = {one.keyword: one.advertise for one in ALL}
    assert offers["REQUIRETLS"](PLAIN) is None
    assert offers["REQUIRETLS"](SECURE) == "REQUIRETLS"


def test_two_release_times_are_refused() -> None:
    """RFC 4865 section 3."""
    TABLE.check_mail({"HOLDFOR": 1, "RET": "FULL"})
    with pytest.raises(Refused):
        TABLE.check_mail({"HOLDFOR": 1, "HOLDUNTIL": NOON})


@given(st.sampled_from(sorted({*TABLE.mail, *TABLE.rcpt})), st.text())
def test_any_text_is_parsed_or_refused(name: str, value: str) -> None:
    if name in ("SIZE", "SMTPUTF8"):
        return
    try:
        parse(name, value)
    except Refused as refused:
        assert refused.reply.code == 501


def test_binarymime_needs_chunking() -> None:
    """RFC 3030 section 3."""
    with pytest.raises(ValueError, match="BINARYMIME needs CHUNKING"):
        ExtensionTable.of([one for one in ALL if one.keyword != "CHUNKING"])


def test_each_preset_contains_the_smaller_one() -> None:
    keywords = [{one.keyword for one in preset} for preset in (MODERN, ALL)]
    assert keywords[0] < keywords[1]
    assert extension_table("modern").extensions == MODERN
    assert extension_table("modern").has_codes
    assert not extension_table("classic").has_codes


def test_extensions_lengthen_commands() -> None:
    assert TABLE.growth("RCPT", SECURE) == 536 + 40
    assert TABLE.growth("NOOP", SECURE) == 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply("250 OK"), "250 2.0.0 OK"),
        (Reply("250 OK", "2.1.5"), "250 2.1.5 OK"),
        (Reply("250 OK", ""), "250 OK"),
        (Reply("250 2.6.0 OK", "2.1.5"), "250 2.6.0 OK"),
        (Reply("334 more"), "334 more"),
        (Reply("250 5.7.1 fine"), "250 2.0.0 5.7.1 fine"),
        (Reply("421-a\r\n421 b"), "421-4.0.0 a\r\n421 4.0.0 b"),
        (Reply("250-2.6.0 a\r\n250 b"), "250-2.6.0 a\r\n250 2.6.0 b"),
        (Reply("250-a\r\n250 2.6.0 b"), "250-2.0.0 a\r\n250 2.6.0 b"),
    ],
)
def test_replies_get_their_enhanced_code(reply: Reply, expected: str) -> None:
    assert with_code(reply) == expected


@given(st.sampled_from("245"), st.text(max_size=1500))
def test_each_line_of_any_reply_gets_a_code(kind: str, text: str) -> None:
    """RFC 2034 section 4; RFC 5321 section 4.5.3.1.5."""
    for line in with_code(Reply(f"{kind}50 {text}")).octets.split(b"\r\n")[:-1]:
        assert len(line) <= 510
        assert line[4:].startswith(f"{kind}.".encode())
