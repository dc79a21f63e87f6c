"""Ready handlers: print a message, forward it, drop it, parse it or keep it in a Maildir.

Each but ``Sink`` has the hook ``handle_DATA``; a subclass may add others.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from public import public

from aiosmtpd._handler import Handler as Handler
from aiosmtpd.delivery.headers import add_fields, replace_trace_fields
from aiosmtpd.engine import loops
from aiosmtpd.engine.hooks import in_worker

if TYPE_CHECKING:
    import asyncio
    import mailbox
    import os
    from argparse import ArgumentParser
    from email.message import Message as EmailMessage
    from typing import Self

    from aiosmtpd.delivery.handler import Delivery as Delivery
    from aiosmtpd.delivery.nexthop import Refusals
    from aiosmtpd.protocol.session import Envelope, Session
    from aiosmtpd.smtp import SMTP

T = TypeVar("T")

public(Handler=Handler)

log = logging.getLogger("mail.debug")

# Parsing a message of at most so many bytes takes the event loop less than a few milliseconds.
_PARSE_IN_LOOP = 65536

_ERRNO_NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EMFILE", "ENFILE")
_NO_ROOM = {getattr(errno, name) for name in _ERRNO_NAMES if hasattr(errno, name)}


def __getattr__(name: str) -> Any:
    # Programs patch aiosmtpd.handlers.smtplib.SMTP. Imported on access: most handlers need neither.
    if name in {"mailbox", "smtplib"}:
        return importlib.import_module(name)
    if name == "Delivery":
        # 30 ms, with SQLite: imported by those that use it.
        from aiosmtpd.delivery.handler import Delivery

        return Delivery
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@public
class Debugging:
    """Print each message to *stream*, a text stream; None means ``sys.stdout``."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Make the handler from the command line: ``stdout`` (the default) or ``stderr``."""
        if len(args) > 1 or (args and args[0] not in {"stdout", "stderr"}):
            parser.error("Debugging usage: [stdout|stderr]")
        return cls(sys.stderr if args == ("stderr",) else sys.stdout)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Print the message, with the peer's address after its headers, and flush the stream.

        Reply 451 if that fails; the client then keeps the message.
        """
        lines = ["---------- MESSAGE FOLLOWS ----------"]
        if envelope.mail_options:
            lines.append(f"mail options: {envelope.mail_options}")
        if envelope.rcpt_options:
            lines.append(f"rcpt options: {envelope.rcpt_options}")
        if len(lines) > 1:
            lines.append("")
        message = _lines(envelope.content)
        if "" in message:
            message.insert(message.index(""), f"X-Peer: {session.peer!r}")
        lines += message
        lines += ["------------ END MESSAGE ------------", ""]
        try:
            _print("\n".join(lines), self.stream)
        except OSError as error:
            log.error("Cannot print a message: %s", error)
            return "451 4.3.0 Message cannot be written"
        return "250 OK"


@public
class Proxy:
    """Forward each message to another SMTP server, the next hop, and reply as it does.

    A message is forwarded for all recipients or for none: after DATA, one reply stands for all of
    them (RFC 5321 section 4.1.1.4), and this handler makes no bounces for the refused ones. If the
    next hop refuses a recipient, nothing is sent, the reply is that refusal, and the client keeps
    the message for all. If the next hop is down or silent, the reply is 451. A bare CR or LF
    becomes CRLF, so that the message cannot end early on the way (RFC 5321 section 2.3.8); other
    bytes are not changed.

    *remote_hostname* is the name or address of the next hop, *remote_port* its TCP port.
    """

    #: Seconds, for each of: connection, reply, 64 KiB of the message.
    timeout: float = 30.0

    def __init__(self, remote_hostname: str, remote_port: int) -> None:
        self._hostname = remote_hostname
        self._port = remote_port

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Add ``X-Peer`` after the headers and forward the message, in a worker thread."""
        return await in_worker(_forward, self, session, envelope)

    def _deliver(
        self,
        mail_from: str,
        rcpt_tos: list[str],
        data: bytes,
        mail_options: Sequence[str] = (),
    ) -> Refusals:
        # Return the refused recipients with reply code and text, or an empty dict if all got it.
        from aiosmtpd.delivery.nexthop import NextHop

        hop = NextHop(self._hostname, self._port, self.timeout)
        return hop.deliver(mail_from, rcpt_tos, data, mail_options)


@public
class Sink:
    """Accept each message and drop it."""

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Make the handler from a command line without arguments."""
        if args:
            parser.error("Sink handler does not accept arguments")
        return cls()


class MessageBase(metaclass=ABCMeta):
    """Parse each message for a subclass to handle.

    *message_class* is the class of the parsed message; None means ``email.message.Message``.
    """

    #: If True, ``handle_message`` runs in the event loop, as in aiosmtpd 1.4.
    sync_in_loop: bool = False

    message_class: type[EmailMessage] | None = None

    def __init__(self, message_class: type[EmailMessage] | None = None) -> None:
        self.message_class = message_class

    def prepare_message(self, session: Session, envelope: Envelope) -> EmailMessage:
        """Return the parsed message with our headers ``X-Peer``, ``X-MailFrom`` and ``X-RcptTo``.

        The sender's headers with these names are removed. Raises TypeError if the content is
        neither bytes nor str.
        """
        import email
        import email.message

        content = envelope.content
        message_class = self.message_class or email.message.Message
        if isinstance(content, str):
            message = email.message_from_string(content, message_class)
        else:
            message = email.message_from_bytes(_as_bytes(content), message_class)
        for name, value in _trace_fields(session, envelope):
            del message[name]
            message[name] = value
        return message

    @abstractmethod
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Process the message and return the reply."""


@public
class Message(MessageBase, metaclass=ABCMeta):
    """Call :meth:`handle_message` with each message, in a worker thread."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Parse the message, call :meth:`handle_message` and reply 250."""
        message = await _prepared(self, session, envelope)
        handle: Callable[..., object] = self.handle_message
        result = await _in_thread(self, handle, message)
        # If the method is a coroutine by mistake, run it: otherwise the message would be lost.
        if inspect.isawaitable(result):
            await result
        return "250 OK"

    @abstractmethod
    def handle_message(self, message: EmailMessage) -> None:
        """Process the message. If it raises an exception, the message is refused."""


@public
class AsyncMessage(MessageBase, metaclass=ABCMeta):
    """Await :meth:`handle_message` with each message; *loop* is the value of :attr:`loop`."""

    _own_loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self,
        message_class: type[EmailMessage] | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(message_class)
        self._own_loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop given to the class, or the current one at the first access."""
        if self._own_loop is None:
            self._own_loop = loops.current_or_new_loop()
        return self._own_loop

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._own_loop = loop

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Parse the message, call :meth:`handle_message` and reply 250."""
        await self.handle_message(await _prepared(self, session, envelope))
        return "250 OK"

    @abstractmethod
    async def handle_message(self, message: EmailMessage) -> None:
        """Process the message. If it raises an exception, the message is refused."""


@public
class Mailbox(Message):
    """Keep each message in a Maildir; it is on the disk before the reply is sent.

    The message is stored with its own bytes, but with LF line ends and our three headers after its
    own. With a *message_class*, or if a subclass overrides :meth:`handle_message` or
    :meth:`~MessageBase.prepare_message`, the parsed message is serialised and stored instead.

    *mail_dir* is made if it does not exist, its parent is not. With *trace*, Return-Path and
    Received come first (RFC 5321 section 4.4). Raises OSError if the directory cannot be made.
    """

    def __init__(
        self,
        mail_dir: str | os.PathLike[str],
        message_class: type[EmailMessage] | None = None,
        *,
        trace: bool = False,
    ) -> None:
        from aiosmtpd.delivery.maildir import DurableMaildir

        self.mailbox: mailbox.Mailbox[Any] = DurableMaildir(mail_dir)
        self.mail_dir = mail_dir
        self.trace = trace
        super().__init__(message_class)

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Make the handler from the command line, which names the directory."""
        if not args:
            parser.error("The directory for the maildir is required")
        if len(args) > 1:
            parser.error("Too many arguments for Mailbox handler")
        return cls(args[0])

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store the message; reply 452 if the disk is full or too many files are open."""
        if self.trace:
            fields = server.trace_fields(session, envelope)
            envelope.content = fields + _as_bytes(envelope.content)
        try:
            if _wants_message(self):
                return await super().handle_DATA(server, session, envelope)
            await _in_thread(self, _store, self.mailbox, session, envelope)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            log.error("%s: message not stored: %s", self.mail_dir, error)
            return "452 4.3.1 Insufficient system storage"
        return "250 OK"

    def handle_message(self, message: EmailMessage) -> None:
        """Store a message; it is on the disk when this returns."""
        self.mailbox.add(message)

    def reset(self) -> None:
        """Remove all messages."""
        self.mailbox.clear()


def _print(text: str, stream: TextIO | None) -> None:
    # A single write: messages of several connections or processes must not mix.
    try:
        print(text, end="", file=stream)
    except UnicodeEncodeError as error:
        # The error names a code page of Windows "charmap", which is another encoding.
        encoding = getattr(stream, "encoding", None) or error.encoding
        escaped = text.encode(encoding, "backslashreplace")
        print(escaped.decode(encoding), end="", file=stream)
    flush: Callable[[], object] | None = getattr(stream, "flush", None)
    if flush:
        flush()


def _forward(proxy: Proxy, session: Session, envelope: Envelope) -> str:
    if not envelope.rcpt_tos:
        return "554 5.5.1 Error: no valid recipients"
    data = _with_crlf(_as_bytes(envelope.content))
    data = add_fields(data, f"X-Peer: {_address(session.peer)}\r\n".encode(), b"\r\n")
    # Programs override _deliver() with the three arguments that it had in 1.4.
    takes_options = "mail_options" in inspect.signature(proxy._deliver).parameters
    options = [tuple(envelope.mail_options)] if takes_options else []
    refused = proxy._deliver(envelope.mail_from or "", envelope.rcpt_tos, data, *options)
    refusals = list(refused.values()) if refused else []
    if not refusals:
        return "250 OK"
    log.info("Next hop refused: %r", refused)
    return _refusal(*refusals[0])


def _overrides(handler: MessageBase, method: Callable[..., object]) -> bool:
    return getattr(getattr(handler, method.__name__), "__func__", None) is not method


def _wants_message(handler: Mailbox) -> bool:
    own = (Mailbox.handle_message, MessageBase.prepare_message)
    return handler.message_class is not None or any(_overrides(handler, method) for method in own)


async def _prepared(handler: MessageBase, session: Session, envelope: Envelope) -> EmailMessage:
    small = len(envelope.content or b"") <= _PARSE_IN_LOOP
    if small or handler.sync_in_loop or _overrides(handler, MessageBase.prepare_message):
        return handler.prepare_message(session, envelope)
    return await in_worker(handler.prepare_message, session, envelope)


async def _in_thread(handler: MessageBase, function: Callable[..., T], *args: object) -> T:
    if handler.sync_in_loop:
        return function(*args)
    return await in_worker(function, *args)


def _store(folder: mailbox.Mailbox[Any], session: Session, envelope: Envelope) -> None:
    from email.message import Message as PlainMessage

    from aiosmtpd.delivery.maildir import serialised

    ours = PlainMessage()
    for name, value in _trace_fields(session, envelope):
        ours[name] = value
    fields = serialised(ours).removesuffix(b"\n")
    content = _as_bytes(envelope.content).replace(b"\r\n", b"\n")
    folder.add(replace_trace_fields(content, fields, b"\n"))


def _as_bytes(content: object) -> bytes:
    if isinstance(content, str):
        return content.encode("utf-8", "surrogateescape")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise TypeError(f"Expected str or bytes, got {type(content)}")


def _lines(content: object) -> list[str]:
    if isinstance(content, str):
        return content.splitlines()
    # Split before decoding: bytes have fewer kinds of line ends than text.
    return [line.decode("utf-8", "replace") for line in _as_bytes(content).splitlines()]


def _with_crlf(content: bytes) -> bytes:
    pairs = content.count(b"\r\n")
    if pairs == content.count(b"\r") == content.count(b"\n"):
        return content
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _trace_fields(session: Session, envelope: Envelope) -> list[tuple[str, str]]:
    return [
        ("X-Peer", _one_line(str(session.peer))),
        ("X-MailFrom", _one_line(envelope.mail_from or "")),
        ("X-RcptTo", _one_line(", ".join(envelope.rcpt_tos))),
    ]


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _address(peer: object) -> str:
    host = peer[0] if isinstance(peer, tuple) and peer else peer
    return _one_line(str(host)).encode("ascii", "backslashreplace").decode()


def _refusal(code: int, text: bytes | str) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    line = " ".join(text.split())
    printable = "".join(character if character.isprintable() else "?" for character in line)
    # The next hop's 421 ends its connection to us, not the sender's.
    if not 400 <= code <= 599 or code == 421:
        code = 451
    return f"{code} {printable or 'Refused by the next hop'}"
