"""Handlers that print messages, for people to read or as JSON."""

from __future__ import annotations

import logging
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from public import public

from aiosmtpd.mail import html_text as hypertext, links as addresses
from aiosmtpd.mail.builder import TextBuilder
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.terminal import Terminal, json_line, safe, safe_line, terminal_of

if TYPE_CHECKING:
    from aiosmtpd.mail.tree import Part
    from aiosmtpd.protocol.session import Envelope, Session

log = logging.getLogger("mail.debug")

_SHOWN = ("From", "To", "Cc", "Reply-To", "Subject")
_LABEL = 11
"""Width of the labels, in columns."""


@public
def pretty(mail: DecodedMail, terminal: Terminal | None = None) -> str:
    """Return a message as lines for a person to read, safe on any terminal.

    The lines show the envelope, the most useful headers, the text, a list of the attachments, and
    notices of parts that cannot be read as the sender meant them.
    """
    made = TextBuilder()
    for line in _lines(mail, terminal or Terminal()):
        made.add(line)
        made.add("\n")
    made.add("\n")
    return made.text()


def _lines(mail: DecodedMail, terminal: Terminal) -> Iterator[str]:
    yield terminal.rule()
    for label, value in _fields(mail):
        yield from _field(terminal, label, value)
    body = safe(_body(mail)).strip("\n")
    if body:
        yield terminal.rule()
        yield from terminal.wrapped(body)
    for number, (label, value) in enumerate(_below(mail, body)):
        if not number:
            yield terminal.rule()
        yield from _field(terminal, label, value)
    yield terminal.rule()


def _body(mail: DecodedMail) -> str:
    """Return the text, or that of the HTML with the addresses of its links."""
    return mail.text if mail.text.strip() else hypertext.shown(mail.html, targets=True)


def _below(mail: DecodedMail, body: str) -> Iterator[tuple[str, str]]:
    """Yield the links that the HTML does not show in its text, the attachments, the notices."""
    if not mail.text.strip():
        shown = {link.rstrip("/") for link in addresses.find(body)}
        yield from (("Link", link) for link in mail.links if link.rstrip("/") not in shown)
    for part in mail.attached:
        yield "Attached", f"{part.name or '-'}, {part.type}, {_size(part.size)}"
    for notice in mail.notices:
        yield "Notice", notice


def _fields(mail: DecodedMail) -> Iterator[tuple[str, str]]:
    yield "MAIL FROM", " ".join([mail.sender, *mail.envelope.mail_options])
    for recipient in mail.recipients:
        yield "RCPT TO", recipient
    tls = tls_version(mail.session)
    name = mail.session.host_name
    host, port = mail.session.client_address
    if host:
        client = f"{host}:{port}"
    else:
        client = "an unknown address" if mail.session.xclient else "a local socket"
    client += f" ({name})" if name else ""
    yield "Client", client + (f", {tls}" if tls else "")
    yield "Received", f"{mail.received:%H:%M:%S}, {_size(mail.size)}"
    for header in _SHOWN:
        for value in mail.headers.get_all(header):
            yield header, value


def _field(terminal: Terminal, label: str, value: str) -> Iterator[str]:
    show = terminal.bold if label == "Subject" else str
    for number, line in enumerate(terminal.wrapped(safe_line(value), _LABEL)):
        yield terminal.dim(("" if number else label).ljust(_LABEL)) + show(line)


def _size(size: int) -> str:
    return f"{size:,} byte{'' if size == 1 else 's'}"


def tls_version(session: Session) -> str | None:
    """Return the TLS version of the connection, such as ``TLSv1.3``; None without TLS."""
    return session.ssl["ssl_object"].version() if session.ssl else None


@public
def as_object(mail: DecodedMail) -> dict[str, Any]:
    """Return a message as a dict for JSON; docs/reference/cli explains each key."""
    try:
        raw = mail.content.decode()
    except UnicodeDecodeError:
        raw = None
    host, port = mail.session.client_address
    return {
        "received": mail.received.isoformat(timespec="milliseconds"),
        "client_address": host,
        "client_port": port,
        "client_name": mail.session.host_name,
        "tls": tls_version(mail.session),
        "authenticated": bool(mail.session.authenticated),
        "sender": mail.sender,
        "recipients": mail.recipients,
        "mail_options": mail.envelope.mail_options,
        "rcpt_options": mail.envelope.rcpt_options,
        "headers": mail.headers.fields,
        "subject": mail.subject,
        "text": mail.text,
        "html": mail.html,
        "links": mail.links,
        "attachments": [
            {"name": name, "type": kind, "size": len(content), "base64": _base64(content)}
            for name, kind, content in mail.attachments
        ],
        "size": len(mail.content),
        "raw": raw,
        "raw_base64": _base64(mail.content) if raw is None else None,
        "parts": [_described(part) for part in mail.parts],
        "notices": mail.notices,
    }


def _described(part: Part) -> dict[str, Any]:
    return {
        "number": part.number,
        "type": part.type,
        "charset": part.charset,
        "encoding": part.encoding,
        "disposition": part.disposition,
        "content_id": part.content_id,
        "name": part.name,
        "position": part.position,
        "body_position": part.body_position,
        "end": part.end,
        "size": part.size,
    }


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


@public
def as_json(mail: DecodedMail) -> str:
    """Return a message as one line of JSON in ASCII."""
    return json_line(as_object(mail)) + "\n"


@public
class Pretty:
    """Print each message for a person to read.

    *stream* is a text stream, None the standard output. Only terminals get colours, unless
    ``NO_COLOR`` is set.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._lock = threading.Lock()

    def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Print the message and flush the stream; reply 451 if that fails.

        A plain function, which runs in a worker thread: the stream's reader may be slow.
        """
        text = self.shown(DecodedMail(session, envelope))
        try:
            with self._lock:
                write(text, self.stream)
        except OSError as error:
            log.error("Cannot print a message: %s", error)
            return "451 4.3.0 Message cannot be written"
        return "250 OK"

    def shown(self, mail: DecodedMail) -> str:
        """Return the text to print."""
        return pretty(mail, terminal_of(self.stream))


@public
class JSONLines(Pretty):
    """Print each message as one line of JSON; *stream* is as for :class:`Pretty`."""

    def shown(self, mail: DecodedMail) -> str:
        """Return the text to print."""
        return as_json(mail)


def write(text: str, stream: TextIO) -> None:
    """Write *text* and flush; characters that the stream's encoding lacks are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
