"""An SMTP and LMTP client for one message, which reports all that goes over the wire."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Literal, NamedTuple, NoReturn, cast

from aiosmtpd.cli.envelope import header_of

MECHANISMS = ("CRAM-MD5", "PLAIN", "LOGIN")
"""AUTH mechanisms that the client knows, the best first."""

PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
MASK = "********"
HINTS = {
    "530": "give --auth USER:PASSWORD, or use TLS",
    "4": "temporary: try again later",
    "5": "permanent: trying again will not help",
}
SHORTEST_SECRET = 2
"""Texts of up to so many characters are not masked: that would hide whole replies."""

LONGEST_LINE = 65536
DOT = b".\r\n"

Tell = Callable[[str, str, float | None], None]
"""Called with the speaker (``C``, ``S`` or ``*``), a line, and the seconds it took or None."""


class Failed(Exception):
    """The message was not accepted; the text says in one line why and what may help."""


class Refused(Failed):
    """The server has replied with a refusal."""


class Place(NamedTuple):
    """The address of a server: a *path*, or without one *host* and *port*."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Order(NamedTuple):
    """A message, its envelope, and how to send it; *timeout* is in seconds."""

    place: Place
    sender: str
    recipients: Sequence[str]
    message: bytes
    name: str
    timeout: float
    tls: Literal["auto", "required", "never"]
    context: Callable[[], ssl.SSLContext]
    credentials: tuple[str, str] | None = None
    mechanism: str | None = None


class Conversation(smtplib.SMTP):
    """One connection, from connecting to QUIT; :meth:`run` does it all."""

    def __init__(self, order: Order, tell: Tell | None = None) -> None:
        self.order = order
        self._tell = tell or (lambda _speaker, _line, _seconds: None)
        self._command = ""
        self._asked = 0.0
        self._masking = False
        self._secrets: list[str] = []
        self._lmtp = order.place.scheme == "lmtp"
        self.ehlo_msg = "LHLO" if self._lmtp else "EHLO"
        # Without a host it does not connect yet; with our name it does not ask a resolver for it.
        super().__init__(local_hostname=order.name, timeout=order.timeout)

    def run(self) -> str:
        """Send the message and return the server's reply to it; raises Failed."""
        try:
            self._open()
            self._greet()
            self._secure()
            self._log_in()
            said = self._transact()
            self._leave()
        except Refused:
            self._leave()
            raise
        except smtplib.SMTPServerDisconnected as error:
            raise Failed(f"{error}: look into the server's log") from None
        except UnicodeError:
            raise Failed("the server's name is not valid: write HOST:PORT") from None
        finally:
            self.close()
        return said

    @property
    def _connected(self) -> socket.socket:
        return cast(socket.socket, self.sock)

    # Everything on the wire, reported.

    def send(self, s: Any) -> None:
        """Send a command (str) or mail data (bytes)."""
        data = s.encode("utf-8", "surrogateescape") if isinstance(s, str) else s
        if isinstance(s, str):
            self._say(s.rstrip("\r\n"))
        self._asked = perf_counter()
        try:
            self._connected.sendall(data)
        except OSError as error:
            # The server may have sent its reason before.
            if self.file is None or not self._last_words():
                self._end(error)

    def _say(self, line: str) -> None:
        if self._masking:
            words = line.split(" ")
            if words[0] == "AUTH":
                line, secret = " ".join([*words[:2], *[MASK] * len(words[2:])]), words[2:]
            else:
                line, secret = MASK, words
            # The server may repeat them in its replies.
            self._secrets += [one for one in secret if len(one) > SHORTEST_SECRET]
        self._command = line
        self._tell("C", line, None)

    def getreply(self) -> tuple[int, bytes]:
        """Return the code and the text of one reply, lines joined by LF; -1 if it is malformed."""
        if self.file is None:
            self.file = self._connected.makefile("rb")
        lines: list[bytes] = []
        while True:
            try:
                line = self.file.readline(LONGEST_LINE)
            except OSError as error:
                self._end(error)
            if not line:
                self._end(None)
            goes_on = line[3:4] == b"-" and line[:3].isdigit()
            seconds = None if goes_on else perf_counter() - self._asked
            self._tell("S", self._without_secrets(line), seconds)
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                self._end(None)
            if not re.match(rb"[1-5][0-9]{2}(?:[ -]|\r?\n)", line):
                return -1, line.strip()
            lines.append(line[4:].strip())
            if not goes_on:
                return int(line[:3]), b"\n".join(lines)

    def _last_words(self) -> bool:
        # Return True if there is something that getreply() can read.
        try:
            return bool(self.file.peek(1))  # type: ignore[union-attr]
        except OSError:
            return False

    def _without_secrets(self, line: bytes) -> str:
        text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
        for secret in self._secrets:
            text = re.sub(re.escape(secret), MASK, text, flags=re.IGNORECASE)
        return text

    def _end(self, error: OSError | None) -> NoReturn:
        """Raise the exception for a lost connection or for a server that does not answer."""
        self.close()
        where = f"after {self._command}" if self._command else "in place of a greeting"
        if isinstance(error, TimeoutError):
            text = f"no answer {where} within {self.order.timeout:g} seconds"
            if not self._command:
                place = self.order.place
                raise Failed(f"{text}: if {place} uses TLS from the start, write smtps://{place}")
            raise Failed(f"{text}: wait longer with --timeout SECONDS")
        how = f" ({error.strerror or error})" if error else ""
        raise smtplib.SMTPServerDisconnected(f"the server closed the connection {where}{how}")

    def _expect(self, code: int, text: bytes, *codes: int, hint: str = "") -> str:
        """Return a reply as text; raise Refused with a hint unless its code is one of *codes*."""
        said = self._without_secrets(text.replace(b"\n", b" / "))
        if code == -1:
            raise Failed(
                f"{said[:60]!r} is not an SMTP reply: is {self.order.place} a mail server?"
            )
        said = f"{code} {said}".strip()
        if code in codes:
            return said
        hint = (
            hint
            or HINTS.get(said[:3])
            or HINTS.get(said[0], "unexpected: look into the server's log")
        )
        raise Refused(f"{self._command or 'the connection'} was refused: {said} ({hint})")

    # The steps of the session.

    def _open(self) -> None:
        place = self.order.place
        self._tell("*", f"connecting to {place}", None)
        self._asked = perf_counter()
        try:
            if place.path:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(self.order.timeout)
                self.sock.connect(place.path)
            else:
                address = place.host, place.port
                self.sock = socket.create_connection(address, self.order.timeout)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                place = Place("", *self.sock.getpeername()[:2])
        except socket.gaierror as error:
            reason = error.strerror or error
            raise Failed(f"cannot find {place.host} ({reason}): check the name") from None
        except TimeoutError:
            seconds = f"{self.order.timeout:g}"
            raise Failed(
                f"cannot reach {place} within {seconds} seconds: check the address"
            ) from None
        except OSError as error:
            raise Failed(_unreachable(place, error)) from None
        self._tell("*", f"connected to {place}", perf_counter() - self._asked)
        if self.order.place.scheme == "smtps":
            self._wrap()
        self._asked = perf_counter()
        self._expect(*self.getreply(), 220)

    def _greet(self) -> None:
        code, text = self.ehlo()
        if 500 <= code < 600 and not self._lmtp:
            code, text = self.docmd("HELO", self.order.name)
        self._expect(code, text, 250)

    def _secure(self) -> None:
        order = self.order
        if order.tls == "never" or order.place.scheme == "smtps":
            return
        if not self.has_extn("starttls"):
            if order.tls == "required":
                raise Failed("STARTTLS is not offered: leave out --tls required, or try smtps://")
            return
        self._expect(*self.docmd("STARTTLS"), 220)
        self._wrap()
        self._greet()

    def _wrap(self) -> None:
        began = perf_counter()
        self.file = None
        # A certificate names an address without its zone.
        name = self.order.place.host.partition("%")[0] or "localhost"
        try:
            self.sock = sock = self.order.context().wrap_socket(
                self._connected, server_hostname=name
            )
        except ssl.SSLCertVerificationError as error:
            raise Failed(
                f"the certificate is not trusted ({error.verify_message.rstrip('.')}): name its "
                "authority with --cafile FILE, or trust any with --insecure"
            ) from None
        except OSError as error:
            raise Failed(_no_handshake(self.order.place, error)) from None
        cipher = sock.cipher() or ("no cipher", "", 0)
        seconds = perf_counter() - began
        self._tell("*", f"TLS: {sock.version()}, {cipher[0]}, {cipher[2]} bits", seconds)
        self._tell("*", f"certificate: {_describe(sock)}", None)

    def _log_in(self) -> None:
        if self.order.credentials is None:
            return
        offered = self.esmtp_features.get("auth", "").upper().split()
        shown = " ".join(offered)
        wanted = [self.order.mechanism] if self.order.mechanism else MECHANISMS
        mechanism = next((one for one in wanted if one in offered), None)
        if mechanism is None:
            self._refuse_mechanisms(shown)
        self._tell("*", f"mechanisms: {shown}; taking {mechanism}", None)
        if not isinstance(self.sock, ssl.SSLSocket) and mechanism != "CRAM-MD5":
            self._tell("*", "no TLS: the password is sent in the clear", None)
        self.user, self.password = self.order.credentials
        self._secrets = [self.password] if len(self.password) > SHORTEST_SECRET else []
        self._masking = True
        try:
            method = getattr(self, "auth_" + mechanism.lower().replace("-", "_"))
            self.auth(mechanism, method)
        except smtplib.SMTPResponseException as error:
            self._command = "AUTH"
            text = error.smtp_error
            reply = text if isinstance(text, bytes) else text.encode()
            hint = "" if 400 <= error.smtp_code < 500 else "check USER:PASSWORD"
            self._expect(error.smtp_code, reply, hint=hint)
        except (smtplib.SMTPException, ValueError) as error:
            if isinstance(error, smtplib.SMTPServerDisconnected):
                raise
            raise Failed(f"{mechanism} does not work here: try another --mechanism") from None
        finally:
            self._masking = False

    def _refuse_mechanisms(self, offered: str) -> NoReturn:
        if not offered:
            tls = isinstance(self.sock, ssl.SSLSocket)
            hint = "" if tls else ", or use TLS, which the server may require"
            raise Failed(f"AUTH is not offered: leave out --auth{hint}")
        if self.order.mechanism:
            wanted = self.order.mechanism
            raise Failed(f"{wanted} is not offered, only {offered}: choose another --mechanism")
        known = ", ".join(MECHANISMS)
        raise Failed(f"only {offered} is offered, and this program knows {known}: leave out --auth")

    def _transact(self) -> str:
        order, said = self.order, ""
        accepted, refusals = list[str](), list[Refused]()
        self._expect(*self.docmd("MAIL", f"FROM:<{order.sender}>{self._parameters()}"), 250)
        for recipient in order.recipients:
            try:
                self._expect(*self.docmd("RCPT", f"TO:<{recipient}>"), 250, 251, 252)
                accepted.append(recipient)
            except Refused as error:
                refusals.append(error)
        if not accepted:
            raise refusals[0]
        self._expect(*self.docmd("DATA"), 354)
        began, data = perf_counter(), _stuffed(order.message)
        self._tell("C", f"(the message, {len(data) - len(DOT):,} bytes)", None)
        self._tell("C", ".", None)
        self._command = "the message"
        self.send(data)
        # In LMTP each recipient has a reply: RFC 2033 section 4.2.
        done, of_one_reply = 0, 1 if self._lmtp else len(accepted)
        for recipient in accepted if self._lmtp else accepted[:1]:
            self._command = f"the message for {recipient}" if self._lmtp else "the message"
            try:
                said = self._expect(*self.getreply(), 250)
                done += of_one_reply
            except Refused as error:
                refusals.append(error)
        of = f"{done} of {len(order.recipients)}"
        self._tell("*", f"accepted for {of} recipients", perf_counter() - began)
        if refusals:
            raise refusals[0]
        return said

    def _parameters(self) -> str:
        order = self.order
        given = ""
        if self.has_extn("size"):
            given += f" SIZE={_size(order.message)}"
        if not order.message.isascii():
            if self.has_extn("8bitmime"):
                given += " BODY=8BITMIME"
            else:
                self._tell("*", "8BITMIME is not offered: the message is sent in 8bit anyway", None)
        if not all(address.isascii() for address in (order.sender, *order.recipients)):
            if not self.has_extn("smtputf8"):
                raise Failed("SMTPUTF8 is not offered: use addresses in ASCII")
            given += " SMTPUTF8"
        elif self.has_extn("smtputf8") and _has_utf8_header(order.message):
            given += " SMTPUTF8"
        return given

    def _leave(self) -> None:
        """Send QUIT; errors no longer matter, the outcome of the message is known."""
        try:
            self.docmd("QUIT")
        except (OSError, smtplib.SMTPException, Failed):
            pass


def _has_utf8_header(message: bytes) -> bool:
    """Return True for a header that needs SMTPUTF8: RFC 6531 section 3.4."""
    header = header_of(message)
    try:
        return not header.isascii() and bool(header.decode())
    except UnicodeDecodeError:
        return False


def _size(message: bytes) -> int:
    """Return how many bytes a message has once its lines end with CRLF: RFC 1870 section 3."""
    bare = message.count(b"\r") + message.count(b"\n") - 2 * message.count(b"\r\n")
    return len(message) + bare + (0 if message.endswith((b"\r", b"\n")) else 2)


def _stuffed(message: bytes) -> bytes:
    """Return a message with CRLF, stuffed dots and the final dot: RFC 5321 section 4.5.2."""
    # Regular expressions would take three times as long.
    lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n")
    data = b"\n%b\n" % lines
    return data.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")[2:] + DOT


def _unreachable(place: Place, error: OSError) -> str:
    reason = error.strerror or str(error)
    text = f"cannot reach {place}: {reason}"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        where = str(place) if place.scheme == "smtp" else f"{place.scheme}://{place}"
        if place.scheme == "smtps":
            where += " --tls self-signed"
        return f"{text}: start a server there ('aiosmtpd -l {where}'), or name another"
    return f"{text}: check the address"


def _no_handshake(place: Place, error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or "connection closed"
    text = f"no TLS with {place} ({str(reason).replace('_', ' ').lower()})"
    if place.scheme == "smtps":
        return f"{text}: if it does not use TLS from the start, write smtp://{place}"
    return f"{text}: look into the server's log, or try --tls never"


def _describe(sock: ssl.SSLSocket) -> str:
    certificate: Any = sock.getpeercert()
    if not certificate:
        return "not verified"
    names = [value for _kind, value in certificate.get("subjectAltName", ())]
    issuer = dict(pair for part in certificate.get("issuer", ()) for pair in part)
    by = issuer.get("commonName") or issuer.get("organizationName") or "an unnamed authority"
    return f"{', '.join(names)}; by {by}; until {certificate.get('notAfter')}; verified"
