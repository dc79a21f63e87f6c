"""The server's replies, named by meaning, and the exception that refuses a command.

Replies that 1.4 sends have its texts. Some texts contain their enhanced status code (RFC 3463)
because 1.4's did; for the others it is in :attr:`Reply.enhanced`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from public import public

_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")
_ONE_REPLY = re.compile(r"[2-5][0-9]{2}(?: [ -~]{0,506})?")
# Seldom needed: re compiles these when they are, which makes the import faster.
_REPLY_LINE = r"(?s)([2-5][0-9]{2})(?:([ -])(.*))?"
_NEWLINE = r"\r\n|\r|\n"
_UNSAFE = "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
LINE_OCTETS = 512
"""Longest reply line, in octets including the CRLF: RFC 5321 section 4.5.3.1.5."""

ECHO = 512
"""Limit, in characters, of an argument that a refusal repeats."""


@public
class Reply(str):
    """A reply as text, with its parts as attributes: ``Reply("550 5.1.1 No user").code == 550``.

    Any text becomes exactly one reply. Several lines are kept if all have the same code, with
    ``-`` after it in all but the last (RFC 5321 section 4.2.1); otherwise the line ends are
    escaped, which makes it one line. Lines over 512 bytes are folded.

    :attr:`code` is the three-digit reply code (int), :attr:`enhanced` the enhanced status code
    (str, or None without one), :attr:`octets` the reply as it is sent (bytes, with the CRLF). RFC
    5321 section 4.2.
    """

    code: int
    enhanced: str | None
    octets: bytes
    _is_coded: bool

    def __new__(cls, text: str, enhanced: str | None = None) -> Reply:
        """Make a reply from *text*; raises ValueError unless it begins with a reply code."""
        if not _ONE_REPLY.fullmatch(text):
            text = _as_one_reply(text)
        self = super().__new__(cls, text)
        self.code = int(text[:3])
        found = _ENHANCED.match(text, 4)
        self.enhanced = found.group() if found else enhanced
        # Replies with a queue id are all different: no cache has them with their code.
        self._is_coded = found is not None and text[0] == text[4] and "\n" not in text
        self.octets = octets(text)
        return self


@public
class Refused(Exception):
    """Raise this in a hook, a parameter's parser or a helper to send *reply* and end the command.

    *reply* is a reply as text, such as ``"550 5.7.1 Not here"``. Other text raises ValueError.
    """

    def __init__(self, reply: str) -> None:
        self.reply = reply if isinstance(reply, Reply) else Reply(reply)
        super().__init__(self.reply)


def with_code(reply: Reply) -> Reply:
    """Return *reply* with an enhanced status code in each line: RFC 2034 section 4.

    Without a code of its own it gets ``2.0.0``, ``4.0.0`` or ``5.0.0``, by its reply code. If
    :attr:`~Reply.enhanced` is ``""``, as for the replies to HELO and EHLO, it gets none.
    """
    if reply._is_coded or reply.enhanced == "":
        return reply
    return _with_code(str(reply), reply.enhanced)


@lru_cache(maxsize=256)
def _with_code(text: str, enhanced: str | None) -> Reply:
    kind = text[0]
    if kind not in "245":
        return Reply(text)
    if enhanced is None or enhanced[0] != kind:
        enhanced = f"{kind}.0.0"
    lines = _folded(text.split("\r\n"), spare=len(enhanced) + 1)
    for number, line in enumerate(lines):
        # A code of another class than the reply does not count: RFC 2034 section 4.
        if not (line.startswith(kind, 4) and _ENHANCED.match(line, 4)):
            lines[number] = f"{line[:3]}{line[3:4] or ' '}{enhanced} {line[4:]}"
    return Reply("\r\n".join(lines))


def octets(status: str | bytes) -> bytes:
    """Return a status as it is sent, with its CRLF."""
    if not isinstance(status, bytes):
        status = status.encode("utf-8", "backslashreplace")
    return status + b"\r\n"


def escape(text: str) -> str:
    """Escape line ends and the control characters that act on a terminal."""
    return re.sub(_UNSAFE, lambda found: found.group().encode("unicode_escape").decode(), text)


def from_hook(status: Any) -> Reply:
    """Make a reply from a hook's return value; raises ValueError if it is not a reply."""
    if isinstance(status, Reply):
        return status
    if isinstance(status, bytes):
        status = status.decode("utf-8", "backslashreplace")
    elif not isinstance(status, str):
        raise ValueError(f"not an SMTP reply: {status!r}")
    return known(status) if len(status) < LINE_OCTETS else Reply(status)


def lines_from_hook(statuses: Iterable[Any]) -> list[str]:
    """Return the lines of one reply, made from a hook's list of lines; raises ValueError."""
    lines = [line for status in statuses for line in from_hook(status).split("\r\n")]
    continued = [f"{line[:3]}-{line[4:]}" for line in lines[:-1]]
    return Reply("\r\n".join([*continued, *lines[-1:]])).split("\r\n")


# Cached: handlers return the same few texts again and again.
known = lru_cache(maxsize=256)(Reply)


def _as_one_reply(text: str) -> str:
    text = text.rstrip("\r\n")
    lines = re.split(_NEWLINE, text)
    if not _are_one_reply(lines):
        if not (line := re.fullmatch(_REPLY_LINE, text)):
            raise ValueError(f"not an SMTP reply: {text!r}")
        lines = [f"{line[1]} {line[3]}"]
    return "\r\n".join(_folded([escape(line) for line in lines]))


def _are_one_reply(lines: list[str]) -> bool:
    code = lines[0][:3]
    return all(
        (found := re.fullmatch(_REPLY_LINE, line)) is not None
        and found.group(1) == code
        and (found.group(2) == "-") is (number < len(lines))
        for number, line in enumerate(lines, 1)
    )


def _folded(lines: list[str], spare: int = 0) -> list[str]:
    """Fold lines that are too long, each piece with the same code; leave *spare* bytes free."""
    folded: list[str] = []
    for line in lines:
        code, last, text = line[:3], line[3:4], line[4:]
        room = LINE_OCTETS - 2 - 4 - spare
        if len(text) <= room and text.isascii():
            folded.append(line)
            continue
        pieces = [""]
        size = 0
        for character in text:
            width = len(character.encode())
            if size + width > room:
                pieces.append("")
                size = 0
            pieces[-1] += character
            size += width
        folded += [f"{code}-{piece}" for piece in pieces[:-1]]
        folded.append(f"{code}{last}{pieces[-1]}" if last else code)
    return folded


OK = Reply("250 OK", "2.0.0")
SENDER_OK = Reply("250 OK", "2.1.0")
RECIPIENT_OK = Reply("250 OK", "2.1.5")
BYE = Reply("221 Bye", "2.0.0")
START_MAIL_INPUT = Reply("354 End data with <CR><LF>.<CR><LF>")
READY_FOR_TLS = Reply("220 Ready to start TLS", "2.0.0")
CANNOT_VERIFY = Reply("252 Cannot VRFY user, but will accept message and attempt delivery", "2.5.2")

BAD_SYNTAX = Reply("500 Error: bad syntax", "5.5.2")
COMMAND_TOO_LONG = Reply("500 Command line too long", "5.5.6")
LINE_TOO_LONG = Reply("500 Line too long (see RFC5321 4.5.3.1.6)", "5.6.0")
NOT_ASCII = Reply("500 Error: strict ASCII mode", "5.6.7")
TOO_MANY_UNKNOWN = Reply("502 5.5.1 Too many unrecognized commands, goodbye.")
NO_EXPN = Reply("502 EXPN not implemented", "5.5.1")

NEED_HELO = Reply("503 Error: send HELO first", "5.5.1")
NEED_EHLO = Reply("503 Error: send EHLO first", "5.5.1")
NESTED_MAIL = Reply("503 Error: nested MAIL command", "5.5.1")
TOO_MANY_RECIPIENTS = Reply("452 4.5.3 Error: too many recipients")
TOO_MANY_DOMAINS = Reply("452 4.5.3 Error: too many domains of recipients")
TOO_MANY_TRANSACTIONS = Reply("452 4.5.3 Error: too many transactions in this session")
NEED_MAIL = Reply("503 Error: need MAIL command", "5.5.1")
NEED_RCPT = Reply("503 Error: need RCPT command", "5.5.1")
BETWEEN_CHUNKS = Reply("503 5.5.1 Error: the message is not complete, send BDAT or RSET")
BINARY_NEEDS_BDAT = Reply("503 5.6.1 Error: a message with BODY=BINARYMIME needs BDAT")
ALREADY_TLS = Reply("503 5.5.1 Error: TLS already active")

MALFORMED_ADDRESS = Reply("553 5.1.3 Error: malformed address")
ADDRESS_NEEDS_SMTPUTF8 = Reply("553 5.6.7 Error: address is not ASCII, SMTPUTF8 is needed")
UNKNOWN_MAIL_PARAMETER = Reply(
    "555 MAIL FROM parameters not recognized or not implemented", "5.5.4"
)
UNKNOWN_RCPT_PARAMETER = Reply("555 RCPT TO parameters not recognized or not implemented", "5.5.4")
BAD_BODY = Reply("501 Error: BODY can only be one of 7BIT, 8BITMIME", "5.5.4")
SMTPUTF8_HAS_VALUE = Reply("501 Error: SMTPUTF8 takes no arguments", "5.5.4")
SMTPUTF8_DISABLED = Reply("501 Error: SMTPUTF8 disabled", "5.5.4")
BAD_AUTH_PARAMETER = Reply("501 5.5.4 Error: AUTH= takes xtext or <>")
MESSAGE_TOO_BIG = Reply("552 Error: message size exceeds fixed maximum message size", "5.3.4")
TOO_MUCH_MAIL_DATA = Reply("552 Error: Too much mail data", "5.3.4")
NO_STORAGE = Reply("452 4.3.1 Insufficient system storage")
HANDLER_TOO_SLOW = Reply("451 4.3.0 Error: the server took too long, try again later")
TOO_MANY_HOPS = Reply("554 5.4.6 Error: Too many Received fields, mail loop suspected")
BARE_NEWLINE = Reply("550 5.6.11 Error: bare CR or LF in the message")

TLS_NOT_AVAILABLE = Reply("454 TLS not available", "4.7.0")
NEED_STARTTLS = Reply("530 Must issue a STARTTLS command first", "5.7.0")
LACK_OF_SECURITY = Reply("554 Command refused due to lack of security", "5.7.0")
NEED_AUTH = Reply("530 5.7.0 Authentication required")

NO_AUTH_AFTER_HELO = Reply("500 Error: command 'AUTH' not recognized", "5.5.1")
AUTH_NEEDS_TLS = Reply("538 5.7.11 Encryption required for requested authentication mechanism")
ALREADY_AUTHENTICATED = Reply("503 Already authenticated", "5.5.1")
NO_AUTH_IN_TRANSACTION = Reply("503 5.5.1 Error: AUTH is not allowed in a mail transaction")
NOT_ENOUGH_VALUE = Reply("501 Not enough value", "5.5.4")
TOO_MANY_VALUES = Reply("501 Too many values", "5.5.4")
UNKNOWN_MECHANISM = Reply("504 5.5.4 Unrecognized authentication type")
AUTHENTICATED = Reply("235 2.7.0 Authentication successful")
CREDENTIALS_INVALID = Reply("535 5.7.8 Authentication credentials invalid")
CANNOT_AUTHENTICATE = Reply("454 4.7.0 Temporary authentication failure")
AUTH_ABORTED = Reply("501 5.7.0 Auth aborted")
NOT_BASE64 = Reply("501 5.5.2 Can't decode base64")
CANNOT_SPLIT = Reply("501 5.5.2 Can't split auth value")

TIMED_OUT = Reply("421 4.4.2 Timeout, closing connection")
SHUTTING_DOWN = Reply("421 4.3.2 Service shutting down, closing connection")
NOT_SMTP = Reply("421 4.7.0 This is an SMTP server, not an HTTP server")
TOO_MANY_AUTH_FAILURES = Reply("421 4.7.0 Too many failed authentications, closing connection")
TOO_MANY_ERRORS = Reply("421 4.7.0 Too many errors, closing connection")
TOO_MUCH_JUNK = Reply("421 4.7.0 Too many commands that send no mail, closing connection")
TOO_MANY_CONNECTIONS = Reply("421 4.7.0 Too many connections, try again later")
TOO_MANY_OF_HOST = Reply("421 4.7.0 Too many connections from your host, try again later")
TOO_MANY_ARRIVALS = Reply("421 4.7.0 Too many new connections from your host, try again later")
TLS_ON_PLAIN_PORT = Reply("421 4.7.0 This port does not begin with TLS")
TLS_ONLY = Reply("421 4.7.0 TLS is required from the start on this port")
LINE_FLOOD = Reply("421 4.7.0 Command line too long, closing connection")


@lru_cache(maxsize=64)
def bad_parameter(name: str) -> Reply:
    """Return the refusal of a parameter of MAIL or RCPT with a bad value."""
    return Reply(f"501 5.5.4 Error: bad value of {name}")


@lru_cache(maxsize=64)
def syntax_of(text: str, enhanced: str = "5.5.4") -> Reply:
    """Return the refusal that shows the right syntax."""
    return Reply(f"501 Syntax: {text}", enhanced)


def not_recognized(verb: str) -> Reply:
    """Return the refusal of an unknown verb; it repeats at most 32 characters of it."""
    return Reply(f'500 Error: command "{escape(verb)[:32]}" not recognized', "5.5.1")


def sent_too_many_times(verb: str) -> Reply:
    """Return the last reply to a client that reached the call limit of *verb*."""
    return Reply(f"421 4.7.0 {escape(verb)[:32]} sent too many times")


def internal_error(reference: str) -> Reply:
    """Return the reply to an error of the server; *reference* finds it in the log."""
    return Reply(f"451 4.3.0 Internal error (ref {reference})")
