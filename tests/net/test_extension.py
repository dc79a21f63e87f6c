"""An extension of a program's own: a keyword, a parameter and a verb (RFC 5321 section 2.2)."""

from typing import Any

from aiosmtpd.smtp import CLASSIC, SMTP, DeliverBy, Extension, OriginalRecipient, Recipient, Refused
from tests.client import Client
from tests.net.support import Catcher, serving


def colour(server: SMTP, value: str | None) -> str:
    if value not in ("RED", "BLUE"):
        raise Refused("501 5.5.4 COLOUR is RED or BLUE")
    return value


async def paint(server: SMTP, arg: str | None) -> None:
    if arg is None:
        raise Refused("501 5.5.4 Syntax: PAINT colour")
    await server.push(f"250 2.0.0 Painted {arg}")


COLOUR = Extension(
    keyword="COLOUR",
    advertise=lambda _: "COLOUR RED BLUE",
    mail={"COLOUR": colour},
    verbs={"PAINT": paint},
    line_length=12,
)


def test_a_keyword_a_parameter_and_a_verb() -> None:
    handler = Catcher()
    keywords: dict[str, Any] = {"extensions": [*CLASSIC, COLOUR]}
    with serving(handler, **keywords) as controller, Client(controller.port) as client:
        assert b"250-COLOUR RED BLUE\r\n" in client.ask(b"EHLO client.test")
        assert client.ask(b"PAINT it") == b"250 2.0.0 Painted it\r\n"
        assert client.ask(b"PAINT") == b"501 5.5.4 Syntax: PAINT colour\r\n"
        wrong = b"501 5.5.4 COLOUR is RED or BLUE\r\n"
        assert client.ask(b"MAIL FROM:<a@b.test> COLOUR=GREEN") == wrong
        assert client.ask(b"MAIL FROM:<a@b.test> COLOUR=RED") == b"250 OK\r\n"
        assert client.ask(b"RCPT TO:<c@d.test> COLOUR=RED")[:3] == b"555"
        assert client.ask(b"RCPT TO:<c@d.test>") == b"250 OK\r\n"
        assert client.ask(b"DATA")[:3] == b"354"
        assert client.ask(b".") == b"250 OK\r\n"
    assert handler.envelope().mail_options == ["COLOUR=RED"]


def test_without_the_extension_its_verbs_are_unknown() -> None:
    with serving(Catcher()) as controller, Client(controller.port) as client:
        assert b"COLOUR" not in client.ask(b"EHLO client.test")
        assert client.ask(b"PAINT it") == b'500 Error: command "PAINT" not recognized\r\n'
        assert client.ask(b"MAIL FROM:<a@b.test> COLOUR=RED")[:3] == b"555"


def test_the_handler_gets_the_meaning_of_parameters() -> None:
    """RFC 3461, RFC 2852, RFC 6710."""
    handler = Catcher()
    with serving(handler, extensions="all") as controller, Client(controller.port) as client:
        client.ask(b"EHLO client.test")
        for command in (
            b"MAIL FROM:<a@b.test> ret=hdrs ENVID=a+2Bb BY=60;NT MT-PRIORITY=3 SIZE=100",
            b"RCPT TO:<c@d.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;e+2Bf@d.test",
            b"RCPT TO:<g@h.test>",
        ):
            assert client.ask(command)[:3] == b"250"
        assert client.ask(b"DATA")[:3] == b"354"
        client.send(b".\r\n")
        client.reply()
    envelope = handler.envelope()
    assert envelope.mail_params == {
        "RET": "HDRS",
        "ENVID": "a+b",
        "BY": DeliverBy(60, "N", True),
        "MT-PRIORITY": 3,
        "SIZE": 100,
    }
    first, second = envelope.recipients
    assert first.address == "c@d.test"
    assert first.params == {
        "NOTIFY": ("SUCCESS", "DELAY"),
        "ORCPT": OriginalRecipient("rfc822", "e+f@d.test"),
    }
    assert second == Recipient("g@h.test", {})
    assert "ENVID=a+2Bb" in envelope.mail_options
