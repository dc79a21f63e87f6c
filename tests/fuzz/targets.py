"""The targets. Each takes any bytes, and raises ``AssertionError`` if a promise is broken."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.mail import html_text, links
from aiosmtpd.protocol import paths
from aiosmtpd.protocol.maildata import END_OF_DATA, MailData
from aiosmtpd.protocol.receiver import LineFlood, LineTooLong, Receiver
from aiosmtpd.proxy_protocol import MalformedTLV, ProxyData, ProxyTLV, get_proxy
from aiosmtpd.smtp import MODERN, SMTP, AuthResult, xclient, xforward
from tests.attack.mutations import PIECES, faults_of
from tests.dialogue.harness import all_records, finish
from tests.dialogue.transport import MemoryTransport
from tests.fuzz import mail_targets

LIMIT = 64

WORDS = [piece for piece in [*PIECES, *mail_targets.MAIL_PIECES] if len(piece) < 30]
"""Words that a fuzzer would need a long time to find."""


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _lines(pieces: list[bytes]) -> list[bytes | None]:
    """Return the lines that a receiver returns, None for each that is too long."""
    receiver = Receiver()
    lines: list[bytes | None] = []
    for piece in pieces:
        receiver.feed(piece)
        while True:
            try:
                line = receiver.line(LIMIT)
            except LineTooLong:
                lines.append(None)
                continue
            if line is None:
                break
            lines.append(line)
        assert len(receiver) <= LIMIT, "the receiver keeps more than a line may have"
    return lines


def receiver(data: bytes) -> None:
    """Check that lines do not depend on their pieces, and match a simple split at LF."""
    if not data:
        return
    size, text = data[0] % 16 + 1, data[1:]
    simple = [
        None if len(line) > LIMIT else line.removesuffix(b"\r") for line in text.split(b"\n")[:-1]
    ]
    with suppress(LineFlood):
        assert _lines([text]) == simple
        assert _lines(_pieces(text, size)) == simple


def _message(pieces: list[bytes], line: int, size: int, newline: str) -> tuple[Any, ...]:
    """Return the message, the refusal, and the bytes left for the next command."""
    receiver = Receiver()
    data = MailData(receiver, line, size, newline)
    message = b""
    left = b""
    for piece in pieces:
        if data.done:
            left += piece
            continue
        receiver.feed(piece)
        message += data.read()
    left = receiver.take(len(receiver)) + left if data.done else b""
    return message if data.refusal is None else None, data.refusal, data.done, left


def maildata(data: bytes) -> None:
    """Check that a message does not depend on its pieces, and matches a simple search."""
    if len(data) < 2:
        return
    size, choice, text = data[0] % 16 + 1, data[1], data[2:]
    newline = ("accept", "normalize", "reject")[choice % 3]
    limits = (0, 0) if choice & 0x80 else (20, 100)
    whole = _message([text], *limits, newline)
    done = whole[2]
    # The pieces of an incomplete message may differ: compare only complete ones.
    assert not done or whole == _message(_pieces(text, size), *limits, newline)
    end = (b"\r\n" + text).find(END_OF_DATA)
    assert done is (end >= 0)
    if done and limits == (0, 0) and newline == "accept":
        content = (b"\r\n" + text)[2 : end + 2]
        assert whole[0] == (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]
        assert whole[3] == text[end + 3 :]


def path(data: bytes) -> None:
    """Check that an address is refused, or parses to itself when it is written again."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        address, rest = paths.parse(text)
    except paths.MalformedPath:
        return
    assert rest == rest.strip(" \t\r")
    assert not any(character < " " or character == "\x7f" for character in address)
    address.encode()
    if address != paths.NULL_PATH:
        assert paths.parse(f"<{address}>") == (address, "")
        assert paths.parse(f"<{address}> X=1") == (address, "X=1")


def parameters(data: bytes) -> None:
    """Check that parameters have upper-case keywords, and values without blanks."""
    text = data.decode("utf-8", "surrogateescape")
    found = paths.parameters(paths.words(text))
    for keyword, value in (found or {}).items():
        assert keyword == keyword.upper()
        assert value is None or (value and value == value.strip())
        with suppress(ValueError):
            paths.xtext(value or "")


def proxy(data: bytes) -> None:
    """Check that a PROXY header is valid or has an error, and that bytes after it are left."""

    async def read() -> tuple[ProxyData, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await get_proxy(reader), await reader.read()

    header, left = _run(read())
    assert header.valid is not bool(header.error)
    if header.valid:
        assert header.whole_raw is not None
        assert bytes(header.whole_raw) + left == data
        header.tlv  # noqa: B018 - is parsed on access
    with suppress(MalformedTLV):
        ProxyTLV.from_raw(data)


def _is_text(text: str) -> bool:
    text.encode()
    return all(one in "\n\t" or not (one < " " or "\x7f" <= one < "\xa0") for one in text)


def html(data: bytes) -> None:
    """Check that texts and links of HTML are safe, and that a cut page has no other links."""
    text = data.decode("utf-8", "surrogateescape")
    found = html_text.read(text)
    assert _is_text(found.text)
    assert all(_is_text(link) and "\n" not in link for link in found.links)
    shown = html_text.shown(text, targets=True)
    assert _is_text(shown)
    assert "\n\n\n" not in shown
    if "base" not in text.lower():
        begun = html_text.read(text[: len(text) // 2]).links
        assert begun == found.links[: len(begun)]


def search(data: bytes) -> None:
    """Check that each address in a text is found where it stands."""
    text = data.decode("utf-8", "surrogateescape")
    end = 0
    for link in links.each(text):
        assert end <= link.begin < link.end
        assert links.is_web_address(link.url)
        assert link.url == "".join(text[link.begin : link.end].split())
        end = link.end
    assert len(links.blanked(text)) <= len(text)


class _Handler:
    """Accepts everything."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        assert envelope.mail_from is not None
        assert envelope.rcpt_tos
        return "250 OK"

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, address: str) -> str:
        return f"252 {address}"


class _Stream:
    """Reads a message as it arrives, and not always to its end."""

    async def handle_BODY(self, server: Any, session: Any, envelope: Any, body: Any) -> str:
        size = 0
        async for piece in body:
            size += len(piece)
            if size > 200:
                return "552 5.3.4 enough"
        return "250 OK"


async def _accept(*_: object) -> AuthResult:
    return AuthResult(success=True)


SERVERS: tuple[Callable[[], SMTP], ...] = (
    lambda: SMTP(_Handler(), hostname="mx.test"),
    lambda: SMTP(_Handler(), hostname="mx.test", enable_SMTPUTF8=True, extensions="modern"),
    lambda: SMTP(_Handler(), hostname="mx.test", enable_SMTPUTF8=True, extensions="all"),
    lambda: LMTP(_Handler(), hostname="mx.test", extensions="modern", bare_newline="normalize"),
    lambda: SMTP(
        _Handler(),
        hostname="mx.test",
        enable_SMTPUTF8=True,
        auth_require_tls=False,
        authenticator=_accept,
        bare_newline="reject",
    ),
    lambda: SMTP(_Handler(), hostname="mx.test", decode_data=True, data_size_limit=100),
    lambda: SMTP(_Stream(), hostname="mx.test", extensions="all", data_size_limit=300),
    lambda: LMTP(_Stream(), hostname="mx.test", extensions="modern", bare_newline="normalize"),
    lambda: SMTP(
        _Handler(),
        hostname="mx.test",
        extensions=[*MODERN, xclient("192.0.2.0/24"), xforward("192.0.2.0/24")],
        spill_size=20,
        max_hops=1,
        max_errors=3,
        max_junk_commands=5,
        max_recipients=2,
        unknown_params="ignore",
        command_call_limit=4,
    ),
)


def dialogue(data: bytes) -> None:
    """Check that replies to any input are well-formed, without errors or tasks left."""
    if len(data) < 2:
        return
    make, size, text = SERVERS[data[0] % len(SERVERS)], data[1] or 4096, data[2:]

    async def hold() -> MemoryTransport:
        transport = MemoryTransport(asyncio.get_running_loop(), make())
        await asyncio.sleep(0)
        for piece in _pieces(text, size):
            transport.feed(piece)
            await asyncio.sleep(0)
        transport.feed_eof()
        await finish(transport)
        return transport

    with all_records() as records:
        transport = _run(hold())
    assert faults_of(bytes(transport.sent)) == 0, bytes(transport.sent)
    assert not transport.written_after_close
    for record in records:
        assert record.levelno < logging.ERROR, record.getMessage()


_loop: asyncio.AbstractEventLoop | None = None


def _run(work: Any) -> Any:
    """Run in one loop for all inputs: making a new one for each takes too long."""
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
    return _loop.run_until_complete(work)


def close() -> None:
    """Close the loop; a target that needs one makes a new one."""
    if _loop is not None:
        _loop.close()


TARGETS: dict[str, Callable[[bytes], None]] = {
    **mail_targets.TARGETS,
    "receiver": receiver,
    "maildata": maildata,
    "path": path,
    "parameters": parameters,
    "proxy": proxy,
    "dialogue": dialogue,
    "html": html,
    "search": search,
}
