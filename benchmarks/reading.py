"""Measure the reading of messages beside the standard library's ``email``, in one process.

``python benchmarks/reading.py`` prints the CPU time of one message, the median of rounds in which
all readers take turns. Each reads the same: all header fields, text, HTML and attachments decoded;
a row that ends in "listed" only names the parts and their places.
"""

import statistics
import time
from base64 import encodebytes
from collections.abc import Callable, Iterator
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import SMTP, Policy, compat32, default
from typing import Any

from aiosmtpd import Envelope, Session
from aiosmtpd.mail.message import DecodedMail

ROUNDS = 9


def plain() -> bytes:
    """Return a message of 1.7 KB: text, and the header that mail servers leave."""
    message = EmailMessage()
    for number in range(3):
        message.add_header(
            "Received",
            f"from a{number}.example.com (a{number}.example.com [192.0.2.{number}]) by"
            f" mx.example.org with ESMTPS id {number}; Sat, 28 Nov 2026 10:00:0{number} +0000",
        )
    message["From"] = "Grüße <shop@example.com>"
    message["To"] = "anna@example.org"
    message["Subject"] = "Your new password ✓"
    message["Message-ID"] = "<1@example.com>"
    message.set_content("Hello Änna, your code is 482913, and more text follows here.\n" * 16)
    return message.as_bytes(policy=SMTP)


def page() -> bytes:
    """Return a message of 100 KB: text and HTML."""
    message = EmailMessage()
    message["Subject"] = "News"
    message.set_content("See the page.\n")
    row = '<tr><td class="x">Grüße</td><td><a href="https://example.com/?a=1">a</a></td></tr>\n'
    message.add_alternative(f"<table>{row * 1000}</table>", subtype="html")
    return message.as_bytes(policy=SMTP)


def attached() -> bytes:
    """Return a message of 20 MB: a text and an attachment in base64."""
    head = (
        b"Subject: big\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHello\r\n"
        b"--b\r\nContent-Type: application/pdf; name=a.pdf\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n"
    )
    body = encodebytes(bytes(range(256)) * 58_000).replace(b"\n", b"\r\n")
    return head + body + b"--b--\r\n"


def ours(content: bytes) -> DecodedMail:
    envelope = Envelope()
    envelope.original_content = content
    session: Any = None
    return DecodedMail(Session(session), envelope)


def read_ours(content: bytes) -> None:
    mail = ours(content)
    _ = mail.headers, mail.text, mail.html, mail.attachments


def list_ours(content: bytes) -> None:
    for part in ours(content).parts:
        _ = part.type, part.name, part.position, part.end


def leaves(message: Message) -> Iterator[Message]:
    return (part for part in message.walk() if not part.is_multipart())


def reader(policy: "Policy[Any]") -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        message = BytesParser(policy=policy).parsebytes(content)
        for _, value in message.items():
            _ = str(make_header(decode_header(value))) if policy is compat32 else str(value)
        for part in leaves(message):
            body: Any = part.get_payload(decode=True)
            if part.get_content_maintype() == "text":
                _ = body.decode(part.get_content_charset() or "utf-8")

    return read


def lister(policy: "Policy[Any]") -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        for part in leaves(BytesParser(policy=policy).parsebytes(content)):
            _ = part.get_content_type(), part.get_filename()

    return read


ROWS = {
    "1.7 KB text": (plain, read_ours, reader, 100),
    "100 KB HTML": (page, read_ours, reader, 5),
    "20 MB attached": (attached, read_ours, reader, 1),
    "20 MB listed": (attached, list_ours, lister, 1),
}


def cpu(read: Callable[[bytes], None], content: bytes, times: int) -> float:
    """Return the milliseconds of CPU of one reading."""
    began = time.process_time()
    for _ in range(times):
        read(content)
    return (time.process_time() - began) / times * 1e3


def main() -> None:
    print(f"{'ms':16} {'aiosmtpd':>10} {'compat32':>10} {'default':>10}")
    for name, (make, own, other, times) in ROWS.items():
        content = make()
        readers = [own, other(compat32), other(default)]
        rounds = [[cpu(read, content, times) for read in readers] for _ in range(ROUNDS)]
        medians = map(statistics.median, zip(*rounds, strict=True))
        print(f"{name:16} " + " ".join(f"{median:10.3f}" for median in medians))


if __name__ == "__main__":
    main()
