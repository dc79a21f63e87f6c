"""Service extensions: RFC 5321 section 2.2 and the RFC of each."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.extensions import (
    CLASSIC,
    EIGHTBITMIME,
    SIZE,
    SMTPUTF8,
    STARTTLS,
    Extension,
    ExtensionTable,
    parse_parameters,
)
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import Envelope
from aiosmtpd.protocol.settings import extension_table
from tests.rows import each_row

WRONG = Reply("501 Syntax: MAIL FROM: <address>")


@dataclass
class Server:
    """The parts of a server that the extensions use."""

    data_size_limit: int | None = 1000
    decode_data: bool = False
    enable_SMTPUTF8: bool = True
    starttls_offered: bool = True
    auth: str | None = "AUTH LOGIN PLAIN"
    envelope: Envelope = field(default_factory=Envelope)

    def mail_syntax(self) -> Reply:
        return WRONG

    def offer_of_auth(self) -> str | None:
        return self.auth


def meaning(server: Server, keyword: str, value: str | None) -> Any:
    """Parse one parameter of MAIL."""
    table = extension_table("classic")
    meanings, strangers = parse_parameters(server, table.mail, {keyword: value})
    if strangers:
        assert (meanings, strangers) == ({}, {keyword})
        return NotImplemented
    return meanings[keyword]


# The lines of EHLO.


@pytest.mark.parametrize(
    ("server", "lines"),
    [
        (
            Server(),
            ["SIZE 1000", "8BITMIME", "SMTPUTF8", "STARTTLS", "AUTH LOGIN PLAIN"],
        ),
        (Server(data_size_limit=None), ["8BITMIME", "SMTPUTF8", "STARTTLS", "AUTH LOGIN PLAIN"]),
        (Server(data_size_limit=0), ["8BITMIME", "SMTPUTF8", "STARTTLS", "AUTH LOGIN PLAIN"]),
        (Server(decode_data=True), ["SIZE 1000", "SMTPUTF8", "STARTTLS", "AUTH LOGIN PLAIN"]),
        (
            Server(enable_SMTPUTF8=False, starttls_offered=False, auth=None),
            ["SIZE 1000", "8BITMIME"],
        ),
        (Server(None, True, False, False, None), []),
    ],
)
def test_ehlo_lines_depend_on_the_settings(server: Server, lines: list[str]) -> None:
    assert extension_table("classic").lines(server) == lines


def test_ehlo_lines_keep_the_order_of_the_list() -> None:
    assert ExtensionTable.of([STARTTLS, SIZE]).lines(Server()) == ["STARTTLS", "SIZE 1000"]


def test_the_default_ehlo_line_is_the_keyword() -> None:
    assert Extension(keyword="PIPELINING").advertise(Server()) == "PIPELINING"
    quiet = Extension(keyword="X", advertise=lambda _: None)
    assert ExtensionTable.of([quiet]).lines(Server()) == []


@pytest.mark.parametrize(
    ("server", "growth"),
    [
        (Server(), 36),
        (Server(data_size_limit=None), 10),
        (Server(enable_SMTPUTF8=False), 26),
        (Server(data_size_limit=None, enable_SMTPUTF8=False), 0),
    ],
)
def test_offered_extensions_lengthen_mail(server: Server, growth: int) -> None:
    """RFC 1870 section 3 and RFC 6531 section 3.3."""
    assert extension_table("classic").growth("MAIL", server) == growth


def test_a_programs_extension_lengthens_mail() -> None:
    mine = Extension(keyword="X", line_length=500)
    assert ExtensionTable.of([*CLASSIC, mine]).growth("MAIL", Server()) == 536


# Parameters.


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("00001000", 1000),
        ("0" * 5000, 0),
        ("0" * 5000 + "7", 7),
    ],
)
def test_size_is_parsed(value: str, size: int) -> None:
    """RFC 1870 section 4."""
    assert meaning(Server(), "SIZE", value) == size


def test_any_size_is_accepted_without_a_limit() -> None:
    assert meaning(Server(data_size_limit=None), "SIZE", "99999999999999999999") == 10**20 - 1
    assert meaning(Server(data_size_limit=0), "SIZE", "9" * 64) == int("9" * 64)
    assert meaning(Server(data_size_limit=0), "SIZE", "9" * 5000) >= 10**64


@pytest.mark.parametrize("value", ["1001", "99999999999999999999", "9" * 65, "9" * 5000])
def test_a_size_over_the_limit_is_refused(value: str) -> None:
    with pytest.raises(Refused) as refused:
        meaning(Server(), "SIZE", value)
    assert refused.value.reply is replies.MESSAGE_TOO_BIG


@each_row("value", [None, "", "x", "-1", "+1", "1.0", "1_0", "\u0661", "\u00b2", "0x1"])
def test_a_malformed_size_is_refused(value: str | None) -> None:
    with pytest.raises(Refused) as refused:
        meaning(Server(), "SIZE", value)
    assert refused.value.reply is WRONG


@pytest.mark.parametrize(
    ("value", "body"),
    [("7BIT", "7BIT"), ("8BITMIME", "8BITMIME"), ("7bit", "7BIT"), ("8BitMime", "8BITMIME")],
)
def test_body_is_parsed(value: str, body: str) -> None:
    """RFC 6152 section 3."""
    assert meaning(Server(), "BODY", value) == body


@pytest.mark.parametrize("value", [None, "", "BINARYMIME", "8BIT", "7BIT8BITMIME"])
def test_a_malformed_body_is_refused(value: str | None) -> None:
    with pytest.raises(Refused) as refused:
        meaning(Server(), "BODY", value)
    assert refused.value.reply is replies.BAD_BODY


@pytest.mark.parametrize("value", ["7BIT", None, "?"])
def test_body_is_unknown_with_decode_data(value: str | None) -> None:
    assert meaning(Server(decode_data=True), "BODY", value) is NotImplemented


def test_smtputf8_marks_the_envelope() -> None:
    """RFC 6531 section 3.4."""
    server = Server()
    assert not server.envelope.smtp_utf8
    assert meaning(server, "SMTPUTF8", None) is True
    assert server.envelope.smtp_utf8


@pytest.mark.parametrize(
    ("enabled", "value", "reply"),
    [
        (True, "1", replies.SMTPUTF8_HAS_VALUE),
        (False, None, replies.SMTPUTF8_DISABLED),
        (False, "1", replies.SMTPUTF8_HAS_VALUE),
    ],
)
def test_smtputf8_is_refused(enabled: bool, value: str | None, reply: Reply) -> None:
    server = Server(enable_SMTPUTF8=enabled)
    with pytest.raises(Refused) as refused:
        meaning(server, "SMTPUTF8", value)
    assert refused.value.reply is reply
    assert not server.envelope.smtp_utf8


@pytest.mark.parametrize(
    ("value", "mailbox"),
    [("<>", "<>"), ("a@b.test", "a@b.test"), ("e+3Dmc2@b.test", "e=mc2@b.test")],
)
def test_auth_is_parsed(value: str, mailbox: str) -> None:
    """RFC 4954 section 5."""
    assert meaning(Server(), "AUTH", value) == mailbox


@pytest.mark.parametrize("value", [None, "e=mc2@b.test", "a+b", "é"])
def test_a_malformed_auth_is_refused(value: str | None) -> None:
    with pytest.raises(Refused) as refused:
        meaning(Server(), "AUTH", value)
    assert refused.value.reply is replies.BAD_AUTH_PARAMETER


def test_unknown_parameters_are_returned() -> None:
    table = extension_table("classic")
    given = {"RET": "HDRS", "SIZE": "1", "ENVID": None}
    assert parse_parameters(Server(), table.mail, given) == ({"SIZE": 1}, {"RET", "ENVID"})
    assert parse_parameters(Server(), table.mail, {}) == ({}, set())


def test_rcpt_has_no_parameters_by_default() -> None:
    table = extension_table("classic")
    assert parse_parameters(Server(), table.rcpt, {"SIZE": "1"}) == ({}, {"SIZE"})


@pytest.mark.parametrize("extensions", [CLASSIC, tuple(reversed(CLASSIC))])
def test_parameters_are_checked_in_the_order_of_1_4(
    extensions: tuple[Extension, ...],
) -> None:
    """As in 1.4: BODY, then SMTPUTF8, then SIZE, in any order of the command."""
    table = ExtensionTable.of(extensions)
    given: dict[str, str | None] = {"SIZE": "x", "AUTH": None, "SMTPUTF8": "x", "BODY": "x"}
    told = []
    for _ in range(4):
        with pytest.raises(Refused) as refused:
            parse_parameters(Server(), table.mail, given)
        told.append(refused.value.reply)
        for keyword in ("BODY", "SMTPUTF8", "SIZE", "AUTH"):
            if given.pop(keyword, None) or keyword == "AUTH":
                break
    assert told == [
        replies.BAD_BODY,
        replies.SMTPUTF8_HAS_VALUE,
        WRONG,
        replies.BAD_AUTH_PARAMETER,
    ]


# Tables.


async def verb(server: Any, arg: str | None) -> None:
    """Do nothing."""


def test_a_table_merges_its_extensions() -> None:
    def parse(_: Any, value: str | None) -> str | None:
        return value

    one = Extension(keyword="ONE", mail={"ONE": parse}, rcpt={"ONE": parse}, verbs={"ONE": verb})
    two = Extension(keyword="TWO", rcpt={"TWO": parse})
    table = ExtensionTable.of([one, two])
    assert table.extensions == (one, two)
    assert dict(table.mail) == {"ONE": parse}
    assert dict(table.rcpt) == {"ONE": parse, "TWO": parse}
    assert dict(table.verbs) == {"ONE": verb}


def test_the_last_of_two_equal_parameters_wins() -> None:
    mine = Extension(keyword="SIZE", mail={"SIZE": lambda _, value: value})
    table = ExtensionTable.of([*CLASSIC, mine])
    assert parse_parameters(Server(), table.mail, {"SIZE": "x"}) == ({"SIZE": "x"}, set())


def test_presets_by_name() -> None:
    assert extension_table("classic").extensions == CLASSIC
    with pytest.raises(ValueError, match="extensions must be one of classic"):
        extension_table("modern?")
    with pytest.raises(TypeError):
        ExtensionTable.of(5)  # type: ignore[arg-type]


def test_any_iterable_of_extensions_is_accepted() -> None:
    assert ExtensionTable.of(iter([SIZE, SMTPUTF8])).extensions == (SIZE, SMTPUTF8)
    assert ExtensionTable.of([]).lines(Server()) == []


def test_an_extension_needs_only_a_keyword() -> None:
    bare = Extension(keyword="X")
    assert (bare.mail, bare.rcpt, bare.verbs, bare.line_length) == ({}, {}, {}, 0)
    with pytest.raises(AttributeError):
        bare.keyword = "Y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Extension()  # type: ignore[call-arg]
    # Hashed by identity: their dicts cannot be hashed.
    assert len({bare, Extension(keyword="X"), EIGHTBITMIME}) == 3
