"""A thousand messages of every size and kind: each arrives byte for byte, however it is cut."""

import base64
import hashlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import Client
from tests.net.support import serving

MESSAGES = 1000
LARGEST = 5 * 10**6
CUT_BELOW = 10**6
"""Bytes up to which a message is also sent cut at random places."""

KINDS = ("text", "lone dots", "leading dots", "8-bit", "UTF-8 header", "base64", "long lines")


def size_of(number: int) -> int:
    """Give sizes on a log scale, from none to the largest."""
    if number < 10:
        return number
    return int(10 * (LARGEST / 10) ** ((number - 10) / (MESSAGES - 11)) + 0.5)


def message(number: int) -> bytes:
    """Make the message of a number: the same in each run. It ends in CRLF, or is empty."""
    chance = random.Random(number)
    size = size_of(number)
    if size == 0:
        return b""
    kind = KINDS[number % len(KINDS)]
    header = f"Subject: number {number}\r\nX-Kind: {kind}\r\n".encode()
    if kind == "UTF-8 header":
        header += f"X-Name: {'grüße ' * 5}{number}\r\n".encode()
    return (header + b"\r\n" + body(kind, size, chance))[: size - 2] + b"\r\n"


def body(kind: str, size: int, chance: random.Random) -> bytes:
    if kind == "base64":
        return base64.encodebytes(chance.randbytes(size * 3 // 4 + 60)).replace(b"\n", b"\r\n")
    block = b"".join(lines(kind, chance))
    return block * (size // len(block) + 1)


def lines(kind: str, chance: random.Random) -> Iterator[bytes]:
    for _ in range(40):
        if kind == "lone dots":
            yield chance.choice([b".", b"..", b"", b". ", b"a."]) + b"\r\n"
        elif kind == "leading dots":
            yield b"." * chance.randrange(1, 5) + b"text behind dots\r\n"
        elif kind == "8-bit":
            octets = chance.randbytes(70)
            yield octets.translate(None, b"\r\n") + b"\r\n"
        elif kind == "long lines":
            yield b"x" * chance.choice([998, 997, 1, 500]) + b"\r\n"
        else:
            yield b"The quick brown fox jumps over the lazy dog. " * chance.randrange(2) + b"\r\n"


def stuffed(content: bytes) -> bytes:
    """Write mail data as a client must: RFC 5321 section 4.5.2."""
    content = content.replace(b"\r\n.", b"\r\n..")
    return (b"." if content.startswith(b".") else b"") + content + b".\r\n"


class Digests:
    """Keeps of each message enough to tell it from all others."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        self.seen.append((len(content), hashlib.sha256(content).hexdigest()))
        return "250 OK"


def transaction(client: Client) -> None:
    assert client.ask(b"MAIL FROM:<a@b.test>") == b"250 OK\r\n"
    assert client.ask(b"RCPT TO:<c@d.test>") == b"250 OK\r\n"
    assert client.ask(b"DATA")[:3] == b"354"


def in_pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cut at some places, most of them where a CR, an LF or a dot is."""
    places = {chance.randrange(len(data) + 1) for _ in range(6)}
    for _ in range(6):
        place = data.find(b"\r\n", chance.randrange(len(data)))
        places.add(max(place, 0) + chance.randrange(5))
    before = 0
    for place in [*sorted(place for place in places if place < len(data)), len(data)]:
        if place > before:
            yield data[before:place]
            before = place


def test_every_message_arrives_byte_for_byte() -> None:
    handler = Digests()
    expected = []
    with serving(handler) as controller, Client(controller.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.ask(b"EHLO client.test")
        for number in range(MESSAGES):
            content = message(number)
            told = len(content), hashlib.sha256(content).hexdigest()
            data = stuffed(content)
            transaction(client)
            client.send(data)
            assert client.reply() == b"250 OK\r\n", number
            expected.append(told)
            if len(content) < CUT_BELOW:
                transaction(client)
                for piece in in_pieces(data, random.Random(-number)):
                    client.send(piece)
                assert client.reply() == b"250 OK\r\n", number
                expected.append(told)
    assert handler.seen == expected
    sizes = {size for size, _ in expected}
    assert min(sizes) == 0
    assert max(sizes) == LARGEST


@pytest.fixture
def mailbox(tmp_path: Path) -> Controller:
    return Controller(Mailbox(tmp_path / "mail"), hostname="127.0.0.1", port=0)


def test_a_maildir_keeps_the_same_message(mailbox: Controller) -> None:
    """With LF line ends and the three fields of ours, and nothing else changed."""
    new = Path(mailbox.handler.mail_dir) / "new"
    with mailbox, Client(mailbox.port) as client:
        client.ask(b"EHLO client.test")
        peer = client.socket.getsockname()
        added = f"X-Peer: {peer!r}\nX-MailFrom: a@b.test\nX-RcptTo: c@d.test\n".encode()
        for number in range(0, MESSAGES, 5):
            content = message(number)
            if b"\r\n\r\n" not in content or b"\r" in content.replace(b"\r\n", b""):
                continue
            transaction(client)
            client.send(stuffed(content))
            assert client.reply() == b"250 OK\r\n"
            (file,) = new.iterdir()
            header, _, text = file.read_bytes().partition(b"\n\n")
            file.unlink()
            header += b"\n"
            assert header.endswith(added), header[-300:]
            original = header.removesuffix(added) + b"\n" + text
            assert original.replace(b"\n", b"\r\n") == content, number
