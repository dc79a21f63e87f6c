"""One connection to a next hop: the commands of smtplib, a time limit for each reply, TLS, AUTH."""

from __future__ import annotations

import base64
import contextlib
import hmac
import smtplib
import socket
import ssl
import time

from aiosmtpd.delivery.item import Later
from aiosmtpd.delivery.outlets.place import Place

# Bytes of one reply: a hop that never ends it must not fill the memory.
_LONGEST_REPLY = 65536

# Seconds to wait for the reply to QUIT.
_GOODBYE = 2.0


class Replies:
    """The lines that a hop sends; each reply has a deadline and a longest length."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.rest = b""
        self._deadline = 0.0
        self._budget = 0

    def begin(self, seconds: float) -> None:
        """Begin a reply that must end in so many seconds."""
        self._deadline = time.monotonic() + seconds
        self._budget = _LONGEST_REPLY

    def readline(self, limit: int) -> bytes:
        """Return the next line, at most *limit* bytes of it; raises OSError if it does not come."""
        while (end := self.rest.find(b"\n") + 1) == 0 and len(self.rest) < limit:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no reply in time")
            self._sock.settimeout(left)
            piece = self._sock.recv(4096)
            if not piece:
                break
            self.rest += piece
        end = min(end or len(self.rest), limit)
        self._budget -= end
        if self._budget < 0:
            raise OSError("a reply without an end")
        line, self.rest = self.rest[:end], self.rest[end:]
        return line

    def close(self) -> None:
        """Do nothing: the socket is closed by itself."""


class Client(smtplib.SMTP):
    """A connection to *place*, over SMTP or LMTP, from a host that calls itself *name*.

    *timeout* is in seconds, for each step.
    """

    def __init__(self, place: Place, timeout: float, name: str) -> None:
        super().__init__(local_hostname=name, timeout=timeout)
        self.place = place
        self.seconds = timeout
        self.in_mail_data = False
        self._aborted = False
        self.ehlo_msg = "LHLO" if place.scheme == "lmtp" else "EHLO"

    def begin(self, context: ssl.SSLContext | None) -> None:
        """Connect, begin TLS if the place wants it, and say EHLO.

        Raises Later or OSError if a step fails.
        """
        self._use(self._connected())
        if context is not None and self.place.scheme == "smtps":
            self._begin_tls(context)
        self._expect(2, *self.getreply(), "the greeting")
        self._greet()
        if context is not None and self.place.scheme == "smtp+starttls":
            if not self.has_extn("starttls"):
                raise Later(f"{self.place}: offers no STARTTLS")
            self._expect(2, *self.docmd("STARTTLS"), "STARTTLS")
            if isinstance(self.file, Replies) and self.file.rest:
                # They came over plain text, maybe from another host: CVE-2011-0411.
                raise Later(f"{self.place}: bytes after the reply to STARTTLS")
            self._begin_tls(context)
            self._greet()

    def log_in(self, user: str, password: str) -> None:
        """Authenticate; raises Later if that fails, because the operator can change it."""
        offered = self.esmtp_features.get("auth", "").upper().split()
        name, secret = user.encode(), password.encode()
        if "PLAIN" in offered:
            code, text = self._say("AUTH PLAIN", b"\0" + name + b"\0" + secret)
        elif "LOGIN" in offered:
            code, text = self._say("AUTH LOGIN", name)
            if code == 334:
                code, text = self._say("", secret)
        elif "CRAM-MD5" in offered:
            code, text = self.docmd("AUTH CRAM-MD5")
            if code == 334:
                digest = hmac.new(secret, base64.b64decode(text), "md5").hexdigest()
                code, text = self._say("", name + b" " + digest.encode())
        else:
            raise Later(f"{self.place}: offers none of AUTH PLAIN, LOGIN, CRAM-MD5")
        self._expect(2, code, text, "AUTH")

    def getreply(self) -> tuple[int, bytes]:
        """Return the code and the text of the next reply."""
        if self.file is None and self.sock is not None:
            self.file = Replies(self.sock)
        if self.file is not None:
            self.file.begin(self.seconds)
        reply = super().getreply()
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        return reply

    def send_piece(self, piece: bytes) -> None:
        """Send a piece of the message; the connection stays open after an error."""
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("Connection closed")
        self.sock.sendall(piece)

    def leave(self) -> None:
        """Say QUIT if the hop is listening, and close the connection."""
        if self.sock is not None and not self.in_mail_data:
            self.timeout = self.seconds = _GOODBYE
            with contextlib.suppress(OSError):
                self.sock.settimeout(_GOODBYE)
                self.docmd("QUIT")
        self.close()

    def abort(self) -> None:
        """End the connection at once, from another thread."""
        self._aborted = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def _connected(self) -> socket.socket:
        place = self.place
        if not place.path:
            sock = socket.create_connection((place.host, place.port), self.timeout)
            # A large message and its end are several writes: none waits for the ACK of another.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(self.timeout)
            sock.connect(place.path)
        except BaseException:
            sock.close()
            raise
        return sock

    def _use(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = None
        self.ehlo_resp = self.helo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False
        if self._aborted:
            raise OSError("the delivery was stopped")

    def _begin_tls(self, context: ssl.SSLContext) -> None:
        if self.sock is not None:
            self._use(context.wrap_socket(self.sock, server_hostname=self.place.host))

    def _greet(self) -> None:
        code, text = self.ehlo()
        if 500 <= code <= 599 and self.place.scheme != "lmtp":
            code, text = self.helo()
        self._expect(2, code, text, self.ehlo_msg)

    def _say(self, command: str, secret: bytes) -> tuple[int, bytes]:
        self.send(f"{command} {base64.b64encode(secret).decode()}".strip() + "\r\n")
        return self.getreply()

    def _expect(self, first_digit: int, code: int, text: bytes, step: str) -> None:
        # The first digit is enough to know what a reply means: RFC 5321 section 4.3.2.
        if code // 100 != first_digit:
            raise Later(f"{self.place}: {step}: {one_line(code, text)}")


def one_line(code: int, text: bytes) -> str:
    """Return a hop's reply on one line, safe to log."""
    line = " ".join(text.decode("utf-8", "replace").split())[:400]
    printable = "".join(c if c.isprintable() else "?" for c in line)
    return f"{code} {printable}".strip() if code > 0 else f"not a reply: {printable}"
