"""Each parameter of each extension, given as it should be and in every way that is wrong."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.protocol.xclient import XCLIENT_NAMES, XFORWARD_NAMES
from aiosmtpd.smtp import ALL, MODERN, SMTP, xclient, xforward

from .conversation import Conversation
from .transport import PEER

SYNTAX = {
    "MAIL": "501 5.5.4 Syntax: MAIL FROM: <address> [SP <mail-parameters>]",
    "RCPT": "501 5.5.4 Syntax: RCPT TO: <address> [SP <mail-parameters>]",
}
AFTER_HELO = {
    "MAIL": "501 Syntax: MAIL FROM: <address>",
    "RCPT": "501 Syntax: RCPT TO: <address>",
}
UNKNOWN = {
    "MAIL": "555 5.5.4 MAIL FROM parameters not recognized or not implemented",
    "RCPT": "555 5.5.4 RCPT TO parameters not recognized or not implemented",
}
PATH = {"MAIL": "MAIL FROM:<a@b.test>", "RCPT": "RCPT TO:<c@d.test>"}
TAKEN = {"MAIL": "250 2.1.0 OK", "RCPT": "250 2.1.5 OK"}
TOO_LONG = "500 5.5.6 Command line too long"
TOO_BIG = "552 5.3.4 Error: message size exceeds fixed maximum message size"
BAD_BODY = "501 5.5.4 Error: BODY can only be one of 7BIT, 8BITMIME"
BAD_AUTH = "501 5.5.4 Error: AUTH= takes xtext or <>"
HAS_VALUE = "501 5.5.4 Error: SMTPUTF8 takes no arguments"

NO_XTEXT = ("a=b", "a+", "a+2", "a+2b", "a+zz", "\u00e9", "a+0D+0Ab", "+00", "+7F")
"""Texts that are not xtext (RFC 3461 section 4), or stand for control characters."""


@attrs.frozen
class Row:
    """A parameter: its section of an RFC, a good value, bad ones, and the refusal of these."""

    verb: str
    name: str
    section: str
    good: str | None
    wrong: tuple[str | None, ...]
    refusal: str = attrs.field()
    long: str = "x" * 300
    long_refusal: str = attrs.field()
    tls: bool = False

    @refusal.default
    def _usual_refusal(self) -> str:
        return f"501 5.5.4 Error: bad value of {self.name}"

    @long_refusal.default
    def _same_refusal(self) -> str:
        return self.refusal

    def __str__(self) -> str:
        return self.name


def soon() -> str:
    return f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


ROWS = [
    Row(
        *("MAIL", "SIZE", "RFC 1870 section 4", "999"),
        (None, "x", "-1", "1.0", "1k"),
        SYNTAX["MAIL"],
        long="9" * 300,
        long_refusal=TOO_BIG,
    ),
    Row(*("MAIL", "BODY", "RFC 6152 section 2", "7BIT"), (None, "8BIT", "7BIT,8BIT"), BAD_BODY),
    Row(*("MAIL", "SMTPUTF8", "RFC 6531 section 3.4", None), ("x", "1", "\u00e9"), HAS_VALUE),
    Row(*("MAIL", "AUTH", "RFC 4954 section 5", "<>"), (None, *NO_XTEXT), BAD_AUTH, "+" * 300),
    Row(*("MAIL", "RET", "RFC 3461 section 4.3", "HDRS"), (None, "BODY", "FULL,HDRS")),
    Row(*("MAIL", "ENVID", "RFC 3461 section 4.4", "a+2Bb"), (None, *NO_XTEXT)),
    Row(
        *("RCPT", "NOTIFY", "RFC 3461 section 4.1", "SUCCESS,DELAY"),
        (None, "ALWAYS", "NEVER,DELAY", "DELAY,DELAY", "DELAY,", ","),
        long=",".join(["DELAY"] * 50),
    ),
    Row(
        *("RCPT", "ORCPT", "RFC 3461 section 4.2", "rfc822;a+2Bb@c.test"),
        (None, "a@b.test", ";a", "rfc822;", *(f"rfc822;{one}" for one in NO_XTEXT)),
        long="rfc822;" + "x" * 501,
    ),
    Row(*("MAIL", "REQUIRETLS", "RFC 8689 section 2", None), ("x", "NO"), tls=True),
    Row(
        *("MAIL", "BY", "RFC 2852 section 4", "120;RT"),
        (None, "120", "x;R", "120;X", "0;R", "-1;R", "1;N;T", "1.5;N"),
        long="9" * 300 + ";N",
    ),
    Row(
        *("MAIL", "HOLDFOR", "RFC 4865 section 3", "60"),
        (None, "0", "-1", "1.5", "x", soon()),
        long="9" * 300,
    ),
    Row(
        *("MAIL", "HOLDUNTIL", "RFC 4865 section 3", soon()),
        (None, "60", "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "2026-13-01T00:00:00Z"),
        long="2026-01-01T00:00:00." + "0" * 300 + "Z",
    ),
    Row(
        *("MAIL", "MT-PRIORITY", "RFC 6710 section 4", "-4"),
        (None, "10", "-10", "+1", "-0", "x"),
        long="1" * 300,
    ),
    Row(
        *("RCPT", "RRVS", "RFC 7293 section 3.1", "2020-01-01T00:00:00Z;C"),
        (None, "2020-01-01", "2020-01-01T00:00:00Z;X", "2020-01-01T00:00:00Z;", ";C"),
    ),
]


def parameters() -> Iterator[tuple[str, str]]:
    """Name the parameters that the extensions have, with their verbs."""
    for extension in ALL:
        yield from (("MAIL", name) for name in extension.mail)
        yield from (("RCPT", name) for name in extension.rcpt)


def test_each_parameter_has_a_row() -> None:
    assert sorted((row.verb, row.name) for row in ROWS) == sorted(set(parameters()))


def without(name: str) -> list[Any]:
    """Return all extensions but those with a parameter of this name."""
    return [one for one in ALL if name not in {**one.mail, **one.rcpt}]


@asynccontextmanager
async def open_to(row: Row, hello: str = "EHLO", **keywords: Any) -> AsyncIterator[Conversation]:
    """Connect, and send all that must come before the row's verb."""
    settings = {"extensions": "all", "enable_SMTPUTF8": True, "data_size_limit": 1000, **keywords}
    server = SMTP(Sink(), hostname="mx.test", **settings)
    async with Conversation(server, tls=row.tls) as client:
        await client.ask(f"{hello} client.test")
        if row.verb == "RCPT":
            assert (await client.ask(PATH["MAIL"])).startswith("250 ")
        yield client


def given(row: Row, value: str | None) -> str:
    return row.name if value is None else f"{row.name}={value}"


async def nothing_came_of_it(client: Conversation, row: Row) -> None:
    """The session goes on, and there is no sender, or no recipient."""
    if row.verb == "MAIL":
        assert (await client.ask(PATH["RCPT"])).endswith("Error: need MAIL command")
    else:
        assert (await client.ask("DATA")).endswith("Error: need RCPT command")


every_row = pytest.mark.parametrize("row", ROWS, ids=str)


@every_row
async def test_as_it_should_be(row: Row) -> None:
    for name in (row.name, row.name.lower()):
        async with open_to(row) as client:
            text = given(row, row.good).replace(row.name, name)
            assert await client.ask(f"{PATH[row.verb]} {text}") == TAKEN[row.verb], row.section


def wrongs(row: Row) -> Iterator[tuple[str, str]]:
    """Yield wrong texts after the path, each with its refusal."""
    good = given(row, row.good)
    yield f"{good} {good}", SYNTAX[row.verb]
    yield f"{good} {good.lower()}", SYNTAX[row.verb]
    yield f"{row.name}=", SYNTAX[row.verb]
    yield f"{row.name}= {good}", SYNTAX[row.verb]
    yield f"{good}\x00", SYNTAX[row.verb]
    yield f"{row.name}={row.long}", row.long_refusal
    yield f"{row.name}={'x' * 900}", TOO_LONG if row.verb == "MAIL" else row.refusal
    yield f"{row.name}={'x' * 2000}", "500 5.5.6 Command line too long"
    for value in row.wrong:
        if value is not None or row.good is not None:
            yield given(row, value), row.refusal


@every_row
async def test_every_wrong_form_of_a_parameter_is_refused(row: Row) -> None:
    for text, refusal in wrongs(row):
        async with open_to(row) as client:
            told = await client.ask(f"{PATH[row.verb]} {text}")
            assert told == refusal, f"{row.section}: {text[:80]}"
            await nothing_came_of_it(client, row)


@every_row
async def test_with_the_other_verb(row: Row) -> None:
    other = {"MAIL": "RCPT", "RCPT": "MAIL"}[row.verb]
    async with open_to(attrs.evolve(row, verb=other)) as client:
        told = await client.ask(f"{PATH[other]} {given(row, row.good)}")
        assert told == UNKNOWN[other], row.section


@every_row
async def test_after_helo(row: Row) -> None:
    """RFC 5321 section 4.1.1.1: HELO offers no extensions."""
    async with open_to(row, "HELO") as client:
        told = await client.ask(f"{PATH[row.verb]} {given(row, row.good)}")
        assert told == AFTER_HELO[row.verb], row.section
        await nothing_came_of_it(client, row)


@every_row
async def test_without_its_extension(row: Row) -> None:
    """RFC 5321 section 4.1.1.11."""
    async with open_to(row, extensions=without(row.name)) as client:
        told = await client.ask(f"{PATH[row.verb]} {given(row, row.good)}")
        assert told == UNKNOWN[row.verb], row.section
        await nothing_came_of_it(client, row)


@every_row
async def test_a_verb_out_of_order_is_refused_first(row: Row) -> None:
    """RFC 5321 section 4.1.4: the order of commands is checked before the parameters."""
    command = f"{PATH[row.verb]} {row.name}=?"
    async with open_to(row) as client:
        if row.verb == "MAIL":
            assert await client.ask(PATH["MAIL"]) == TAKEN["MAIL"]
            assert await client.ask(command) == "503 5.5.1 Error: nested MAIL command"
        else:
            assert await client.ask("RSET") == "250 2.0.0 OK"
            assert await client.ask(command) == "503 5.5.1 Error: need MAIL command"


@every_row
async def test_without_smtputf8_nothing_but_ascii(row: Row) -> None:
    async with open_to(row, enable_SMTPUTF8=False) as client:
        told = await client.ask(f"{PATH[row.verb]} {row.name}=\u00e9")
        assert told == "500 5.6.7 Error: strict ASCII mode"


async def test_some_refusals_depend_on_the_server() -> None:
    """BODY if mail data is decoded, SMTPUTF8 and REQUIRETLS if they are not offered."""
    plain = Row("MAIL", "REQUIRETLS", "RFC 8689 section 4.2.1", None, ())
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"decode_data": True}, "BODY=7BIT", UNKNOWN["MAIL"]),
        ({"enable_SMTPUTF8": False}, "SMTPUTF8", "501 5.5.4 Error: SMTPUTF8 disabled"),
        ({}, "REQUIRETLS", UNKNOWN["MAIL"]),
        ({}, f"HOLDFOR=60 HOLDUNTIL={soon()}", "501 5.5.4 Error: bad value of HOLDUNTIL"),
    ]
    for keywords, text, refusal in cases:
        async with open_to(plain, **keywords) as client:
            assert await client.ask(f"{PATH['MAIL']} {text}") == refusal


# Attributes that proxies send of their clients.


@attrs.frozen
class Attribute:
    """An attribute of XCLIENT or XFORWARD: a good value, and wrong ones."""

    name: str
    good: str
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


ADDRESSES = ("1.2.3", "1.2.3.400", "IPV6:1.2.3.4.5", "IPV6:g::1", "client.test", "1.2.3.4/8")
PORTS = ("x", "-1", "65536", "000001", "1.0")
ATTRIBUTES = {
    "XCLIENT": [
        Attribute("NAME", "client.test"),
        Attribute("ADDR", "IPV6:2001:db8::1", ADDRESSES),
        Attribute("PORT", "65535", PORTS),
        Attribute("PROTO", "ESMTP", ("HTTP", "SMTPS")),
        Attribute("HELO", "client.test"),
        Attribute("LOGIN", "anne"),
        Attribute("DESTADDR", "203.0.113.1", ADDRESSES),
        Attribute("DESTPORT", "25", PORTS),
    ],
    "XFORWARD": [
        Attribute("NAME", "client.test"),
        Attribute("ADDR", "203.0.113.1", ADDRESSES),
        Attribute("PORT", "1", PORTS),
        Attribute("PROTO", "LMTP"),
        Attribute("HELO", "[203.0.113.1]"),
        Attribute("IDENT", "4bXY2z"),
        Attribute("SOURCE", "REMOTE", ("BOTH", "LOCAL,REMOTE")),
    ],
}
every_attribute = pytest.mark.parametrize(
    ("verb", "row"), [(verb, row) for verb, rows in ATTRIBUTES.items() for row in rows], ids=str
)


def test_each_attribute_has_a_row() -> None:
    """As Postfix documents them, in XCLIENT_README and XFORWARD_README."""
    assert [row.name for row in ATTRIBUTES["XCLIENT"]] == list(XCLIENT_NAMES)
    assert [row.name for row in ATTRIBUTES["XFORWARD"]] == list(XFORWARD_NAMES)


def trusting(network: str = PEER[0]) -> SMTP:
    extensions = [*MODERN, xclient(network), xforward(network)]
    return SMTP(Sink(), hostname="mx.test", extensions=extensions, enable_SMTPUTF8=True)


@every_attribute
async def test_an_attribute_as_it_should_be(verb: str, row: Attribute) -> None:
    for value in (row.good, row.good.lower(), "[UNAVAILABLE]", "[tempunavail]"):
        async with Conversation(trusting()) as client:
            await client.ask("EHLO proxy.test")
            told = await client.ask(f"{verb} {row.name}={value}")
            assert told[:4] == {"XCLIENT": "220 ", "XFORWARD": "250 "}[verb]


@every_attribute
async def test_every_wrong_form_of_an_attribute_is_refused(verb: str, row: Attribute) -> None:
    good = f"{row.name}={row.good}"
    syntax = f"501 5.5.4 Syntax: {verb} NAME=value ..."
    bad = f"501 5.5.4 Error: bad value of {row.name}"
    stranger = "SOURCE=LOCAL" if verb == "XCLIENT" else "LOGIN=anne"
    for text, refusal in (
        (f"{good} {good}", syntax),
        (f"{row.name}=", syntax),
        (f"{good} {stranger}", syntax),
        (f"{good} =", syntax),
        (row.name, bad),
        (f"{row.name}={'x' * 600}", TOO_LONG),
        *((f"{row.name}={value}", bad) for value in (*row.wrong, *NO_XTEXT)),
    ):
        async with Conversation(trusting()) as client:
            await client.ask("EHLO proxy.test")
            assert await client.ask(f"{verb} {text}") == refusal, text[:80]
            assert await client.ask("NOOP") == "250 2.0.0 OK"


@every_attribute
async def test_an_attribute_at_the_wrong_time(verb: str, row: Attribute) -> None:
    command = f"{verb} {row.name}={row.good}"
    async with Conversation(trusting()) as client:
        await client.ask("EHLO proxy.test")
        await client.ask(PATH["MAIL"])
        told = await client.ask(command)
        assert told == "503 5.5.1 Error: a mail transaction is in progress"
    async with Conversation(trusting("198.51.100.0/24")) as client:
        await client.ask("EHLO proxy.test")
        told = await client.ask(command)
        assert told == f'500 5.5.1 Error: command "{verb}" not recognized'


class Picky(Sink):
    """Refuses one sender, and fails at another."""

    async def handle_MAIL(
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address.startswith("fail"):
            raise LookupError
        if address.startswith("no"):
            return "550 5.7.1 No"
        envelope.mail_from = address
        return "250 2.1.0 OK"


@pytest.mark.parametrize(
    "refused",
    [
        "MAIL FROM:<a@b.test> SMTPUTF8 SIZE=99999999",
        "MAIL FROM:<a@b.test> SMTPUTF8 NAME=x",
        "MAIL FROM:<no@b.test> SMTPUTF8",
        "MAIL FROM:<fail@b.test> SMTPUTF8",
    ],
)
async def test_smtputf8_of_a_refused_mail_is_forgotten(refused: str) -> None:
    """RFC 6531 section 3.4: the parameter is that of one transaction."""
    server = SMTP(Picky(), extensions="modern", enable_SMTPUTF8=True)
    async with Conversation(server) as client:
        await client.ask("EHLO client.test")
        assert (await client.ask(refused))[0] in "45"
        needed = "553 5.6.7 Error: address is not ASCII, SMTPUTF8 is needed"
        assert await client.ask("MAIL FROM:<\u00e9@b.test>") == needed
        assert await client.ask(PATH["MAIL"]) == TAKEN["MAIL"]
        assert await client.ask("RCPT TO:<\u00e9@b.test>") == needed
        assert (await client.ask("MAIL FROM:<a@b.test> SMTPUTF8"))[:3] == "503"
        assert server.envelope.smtp_utf8 is False


async def test_smtputf8_stays_after_a_second_mail() -> None:
    server = SMTP(Picky(), enable_SMTPUTF8=True)
    async with Conversation(server) as client:
        await client.ask("EHLO client.test")
        await client.ask("MAIL FROM:<\u00e9@b.test> SMTPUTF8")
        assert (await client.ask("MAIL FROM:<a@b.test>"))[:3] == "503"
        assert await client.ask("RCPT TO:<\u00e9@b.test>") == "250 OK"
