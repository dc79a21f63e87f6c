"""Messages that the server keeps in a file: they are read in pieces, when they are asked for."""

import smtplib
from base64 import encodebytes

from aiosmtpd import SMTP, Controller, Envelope, Session
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.printing import pretty
from tests.mail.making import multipart, part

IMAGE = bytes(range(256)) * 10_000


class Keep:
    """A handler that keeps each message."""

    def __init__(self) -> None:
        self.messages: list[DecodedMail] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.messages.append(DecodedMail(session, envelope))
        return "250 OK"


def test_a_spilled_message_is_listed_without_loading_it() -> None:
    head = "Content-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64"
    content = multipart(
        "mixed",
        part("X: y", "Your code is 482913"),
        part(head, encodebytes(IMAGE).replace(b"\n", b"\r\n")),
    )
    handler = Keep()
    with (
        Controller(handler, hostname="127.0.0.1", port=0, spill_size=1000) as server,
        smtplib.SMTP("127.0.0.1", server.port) as client,
    ):
        client.sendmail("shop@example.com", ["anna@example.org"], b"Subject: big\r\n" + content)
    # Alone: in the cycle of handler and server, the file would be left to the collector.
    mail = handler.messages.pop()
    assert [(one.number, one.name) for one in mail.parts] == [("0", ""), ("1", ""), ("2", "a.png")]
    assert (mail.subject, mail.text, mail.code()) == ("big", "Your code is 482913", "482913")
    assert f"{len(IMAGE):,} bytes" in pretty(mail)
    assert "big" in repr(mail)
    assert "original_content" not in vars(mail.envelope)
    assert mail.size == len(mail.content)
    assert mail.attachments == [("a.png", "image/png", IMAGE)]
