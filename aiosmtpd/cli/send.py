"""``aiosmtpd send``: send a test message to a server and show the whole dialogue."""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from aiosmtpd.cli import values
from aiosmtpd.cli.client import MECHANISMS, PORTS, Conversation, Failed, Order, Place
from aiosmtpd.cli.envelope import NoEnvelope, recipients_of, sender_of
from aiosmtpd.cli.options import DEFAULT_PORT
from aiosmtpd.cli.output import complain, escape_unencodable
from aiosmtpd.cli.parser import INTERRUPTED, Parser
from aiosmtpd.mail.terminal import Terminal, safe_line, terminal_of

SENDER = "sender@example.com"
RECIPIENT = "recipient@example.com"
BODY = "This is a test message, sent by aiosmtpd send."

ABOUT = """\
Sends a test message and shows
what client and server say."""

EXAMPLES = """\
examples:
  {prog}
      a test message to localhost:8025
  {prog} mx.example.com
      to port 25, STARTTLS if offered
  {prog} smtps://[::1]:465
      with TLS from the start
  {prog} lmtp://unix:socket
      by LMTP, over a Unix socket
  {prog} --eml mail.eml
      a message in a file, unchanged
  {prog} --repeat 1000
      many messages, with statistics

exit code: 0 if all was accepted, 1 if
something was not, 2 for a wrong option
"""


def _place(text: str) -> Place:
    """Parse ``[SCHEME://]HOST[:PORT]``, ``PORT`` or ``unix:PATH``; the port's default is 25."""
    scheme, mark, rest = text.strip().partition("://")
    if not mark or scheme == "unix":
        scheme, rest = "smtp", text.strip()
    scheme = scheme.lower()
    if scheme not in PORTS:
        raise ArgumentTypeError(f"unknown scheme {scheme!r} (write {', '.join(PORTS)})")
    if rest.startswith("unix:") and (path := rest.removeprefix("unix:").removeprefix("//")):
        return Place(scheme, path=path)
    host, port = _host_and_port(rest.removesuffix("/"))
    if not (host or port):
        raise ArgumentTypeError(f"invalid server: {text!r} (write HOST:PORT or unix:PATH)")
    if int(port or 1) > 65535 or port == "0":
        raise ArgumentTypeError(f"invalid port: {port} (write 1 to 65535)")
    return Place(scheme, host or "localhost", int(port or PORTS[scheme]))


def _host_and_port(text: str) -> tuple[str, str]:
    """Split ``HOST:PORT``; return two empty strings if it is wrong.

    Without brackets, the last group of an IPv6 address is the port if the rest is an address too,
    as in the places where a server listens.
    """
    host, _, port = text.rpartition(":")
    if _is_ipv6(host) and re.fullmatch("[0-9]{1,5}", port):
        return host, port
    if _is_ipv6(text):
        return text, ""
    found = re.fullmatch(r"(?:\[(.+)\]|([^\s:/\[\]]*))(?::([0-9]{1,5}))?", text)
    if found is None or (found[1] and not _is_ipv6(found[1])):
        return "", ""
    host, port = found[1] or found[2], found[3] or ""
    if not port and host.isascii() and host.isdigit():
        return "", host
    return host, port


def _is_ipv6(text: str) -> bool:
    address, _, _zone = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return True


def _address(text: str) -> str:
    address = text.removeprefix("<").removesuffix(">")
    if not address.isprintable() or not re.fullmatch(r'(?:"(?:[^"\\]|\\.)*+"|[^ <>])*+', address):
        raise ArgumentTypeError(f"invalid address: {text!r} (write user@example.com)")
    return address


def _mailbox(text: str) -> str:
    if not (address := _address(text)):
        raise ArgumentTypeError("invalid address: '' (write user@example.com)")
    return address


def _credentials(text: str) -> tuple[str, str]:
    """Parse ``USER:PASSWORD``, or ``USER`` with an empty password: the program asks for it."""
    return (text, "") if text and ":" not in text else values.user_and_password(text)


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(program, "[OPTIONS] [SERVER]", ABOUT, EXAMPLES)
    parser.add_argument(
        "server",
        metavar="SERVER",
        nargs="?",
        type=_place,
        default=Place("smtp", "localhost", DEFAULT_PORT),
        help="HOST, HOST:PORT, [IPV6]:PORT, PORT or unix:PATH; smtp://, smtps:// or lmtp:// may "
        f"stand in front. Default: localhost:{DEFAULT_PORT}; the port of another host is 25, 465 "
        "or 24.",
    )
    _add_message_options(parser)
    _add_session_options(parser)
    _add_load_options(parser)
    return parser


def _add_message_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("message")
    group.add_argument(
        "--from",
        dest="sender",
        type=_address,
        metavar="ADDRESS",
        help=f"The sender; '' is the empty sender. Default: {SENDER}, or the one in --eml.",
    )
    group.add_argument(
        "--to",
        action="append",
        type=_mailbox,
        metavar="ADDRESS",
        help=f"A recipient; may be given several times. Default: {RECIPIENT}, or those in --eml.",
    )
    group.add_argument("--subject", metavar="TEXT", help="Default: Test.")
    group.add_argument("--body", metavar="TEXT", help="The text. Default: one line.")
    group.add_argument(
        "--attach",
        action="append",
        type=Path,
        metavar="FILE",
        help="Attach a file; may be given several times.",
    )
    group.add_argument(
        "--eml", metavar="FILE", help="Send this file as the message; - is the standard input."
    )


def _add_session_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("session")
    group.add_argument(
        "--tls",
        choices=("auto", "required", "never"),
        default="auto",
        help="Use STARTTLS if it is offered (auto, the default), fail without it (required), or do "
        "not use it (never).",
    )
    group.add_argument(
        "--cafile", metavar="FILE", help="Trust the certificates of this authority (PEM)."
    )
    group.add_argument(
        "--insecure", action="store_true", help="Trust any certificate for any name."
    )
    group.add_argument(
        "--auth",
        type=_credentials,
        metavar="USER[:PASSWORD]",
        help="Authenticate. Other users of this machine may see the command line: leave the "
        "password out and the program asks for it.",
    )
    group.add_argument(
        "--mechanism",
        type=str.upper,
        choices=MECHANISMS,
        help="The AUTH mechanism. Default: the first of these that is offered.",
    )
    group.add_argument(
        "--ehlo", metavar="NAME", help="The name of the client. Default: the name of this machine."
    )
    group.add_argument(
        "--timeout",
        type=values.seconds,
        metavar="SECONDS",
        default=30.0,
        help="Wait this long for each reply. Default: 30.",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="Print only errors.")


def _add_load_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    group.add_argument(
        "--repeat",
        type=values.count,
        metavar="N",
        default=1,
        help="Send N messages, each over its own connection, and show how long they took instead "
        "of the dialogue.",
    )
    group.add_argument(
        "--concurrency",
        type=values.count,
        metavar="K",
        default=1,
        help="Send K of them at the same time. Default: 1.",
    )


# Checking the options together.


def _order(parser: ArgumentParser, settings: Namespace) -> Order:
    """Make the message and collect what sending needs; exit with a usage error if wrong."""
    place: Place = settings.server
    if place.scheme == "smtps" and settings.tls == "never":
        parser.error("smtps:// always uses TLS: write smtp://, or leave out --tls never")
    if settings.mechanism and not settings.auth:
        parser.error("--mechanism needs --auth USER:PASSWORD")
    if settings.auth and not settings.auth[1]:
        settings.auth = settings.auth[0], _ask_for_password(parser)
    if settings.auth and not all(part.isascii() for part in settings.auth):
        parser.error("--auth must be ASCII")
    if settings.cafile and settings.insecure:
        parser.error("--cafile has no meaning with --insecure: leave one or the other out")
    if place.path and sys.platform == "win32":
        parser.error("this system has no Unix sockets: write HOST:PORT")
    name = settings.ehlo or _own_name()
    if not re.fullmatch(r"[!-~]{1,255}", name):
        parser.error(f"invalid name {name!r}: write --ehlo client.example.com")
    message = _read(parser, settings) if settings.eml else b""
    sender, recipients = _envelope(parser, settings, message)
    return Order(
        place=place,
        sender=sender,
        recipients=recipients,
        message=message or _compose(parser, settings, sender, recipients, name),
        name=name,
        timeout=settings.timeout,
        tls=settings.tls,
        context=_contexts(parser, settings),
        credentials=settings.auth,
        mechanism=settings.mechanism,
    )


def _ask_for_password(parser: ArgumentParser) -> str:
    from getpass import getpass

    if sys.stdin is None or not sys.stdin.isatty():
        parser.error("--auth needs USER:PASSWORD: there is no terminal to ask for the password")
    try:
        return getpass() or parser.error("--auth needs a password")
    except EOFError:
        parser.error("--auth needs a password")
    except KeyboardInterrupt:
        # The prompt does not end its line.
        complain("")
        raise


def _own_name() -> str:
    # getfqdn() would ask a resolver, which may be slow.
    name = socket.gethostname()
    return name if re.fullmatch(r"[!-~]{1,255}", name) else "localhost"


def _context(cafile: str | None, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=cafile)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _contexts(parser: ArgumentParser, settings: Namespace) -> Callable[[], ssl.SSLContext]:
    """Return a function that makes the TLS context on its first call, since that is slow."""
    make = cache(partial(_context, settings.cafile, settings.insecure))
    if settings.cafile:
        try:
            make()
        except ssl.SSLError:
            parser.error(f"cannot use --cafile {settings.cafile}: it holds no certificate in PEM")
        except OSError as error:
            parser.error(f"cannot read --cafile {settings.cafile}: {error.strerror}")
    return make


def _read(parser: ArgumentParser, settings: Namespace) -> bytes:
    for name in "subject", "body", "attach":
        if getattr(settings, name) is not None:
            parser.error(f"--eml is a whole message: leave out --{name}")
    try:
        message = (
            sys.stdin.buffer.read() if settings.eml == "-" else Path(settings.eml).read_bytes()
        )
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "it is closed"
        parser.error(f"cannot read --eml {settings.eml}: {reason}")
    if not message:
        parser.error(f"--eml {settings.eml} is empty: name a file with a message")
    if message.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        parser.error(f"--eml {settings.eml}: the file is in UTF-16: save it in UTF-8")
    return message


def _envelope(
    parser: ArgumentParser, settings: Namespace, message: bytes
) -> tuple[str, Sequence[str]]:
    """Return the sender and the recipients: those of the options, of ``--eml``, or the default."""
    sender, recipients, option = settings.sender, settings.to, "--from"
    try:
        if sender is None:
            sender = sender_of(message)
        option = "--to"
        recipients = recipients or recipients_of(message)
    except NoEnvelope as error:
        parser.error(f"--eml {settings.eml}: {error} (write {option} ADDRESS)")
    return SENDER if sender is None else sender, recipients or [RECIPIENT]


def _compose(
    parser: ArgumentParser,
    settings: Namespace,
    sender: str,
    recipients: Sequence[str],
    name: str,
) -> bytes:
    from aiosmtpd.cli.compose import File, compose  # slow, and not needed for --eml

    files = [File(path.name, _content(parser, path)) for path in settings.attach or ()]
    subject = "Test" if settings.subject is None else settings.subject
    body = BODY if settings.body is None else settings.body
    try:
        return compose(sender, recipients, subject, body, files, name)
    except ValueError as error:
        parser.error(f"cannot make the message: {error}")


def _content(parser: ArgumentParser, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        parser.error(f"cannot read --attach {path}: {error.strerror or error}")


# Sending.


def main(args: Sequence[str], program: str) -> int:
    """Send a message as the arguments say; return the exit code.

    0: all was accepted; 1: something was refused or failed; 130: Ctrl-C. A wrong option raises
    SystemExit with code 2, and Ctrl-C before the client connects raises KeyboardInterrupt.
    """
    parser = make_parser(program)
    settings = parser.parse_args(args)
    order = _order(parser, settings)
    try:
        return _run(settings, order, program)
    except KeyboardInterrupt:
        complain(f"{program}: interrupted: the message may or may not have been accepted")
        return INTERRUPTED


def _run(settings: Namespace, order: Order, program: str) -> int:
    escape_unencodable()
    screen = Screen()
    if settings.repeat > 1 or settings.concurrency > 1:
        from aiosmtpd.cli.load import Load

        show = complain if settings.quiet else screen.show
        return Load(order, settings.repeat, settings.concurrency).run(show, settings.quiet)
    try:
        Conversation(order, None if settings.quiet else screen.tell).run()
    except Failed as error:
        complain(f"{program}: {error}")
        return 1
    return 0


class Screen:
    """Prints the dialogue to the standard output, until that is closed."""

    def __init__(self) -> None:
        self._terminal = terminal_of(sys.stdout) if sys.stdout is not None else Terminal()
        self._closed = sys.stdout is None

    def tell(self, speaker: str, line: str, seconds: float | None) -> None:
        """Print a line of the dialogue, with its seconds if they are known."""
        text = safe_line(line)
        if speaker == "S" and text[:1] in ("4", "5"):
            text = self._terminal.bold(text)
        if speaker == "*":
            text = self._terminal.dim(text)
        if seconds is not None:
            text += self._terminal.dim(f"  ({seconds * 1000:.1f} ms)")
        self.show(f"{speaker}{' ' if speaker == '*' else ':'} {text}")

    def show(self, line: str) -> None:
        """Print a line; go on without output if its reader has gone or the disk is full."""
        if self._closed:
            return
        try:
            print(line, flush=True)
        except OSError:
            self._closed = True
            # Python would report the error again at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
