"""TLS as a layer of bytes: ciphertext in and plain bytes out, and the other way.

Without a socket and without an event loop: the connection moves the bytes. The same layer serves
STARTTLS and TLS from the start.
"""

from __future__ import annotations

import ssl
from typing import Any

RECORD = 16_384
"""Bytes of plain text in one record, at most: RFC 8446 section 5.1."""

PIECE = 2 * RECORD
"""Bytes of ciphertext that OpenSSL gets at a time: a memory BIO never gives back its room."""


ANSWERS = 16_384
"""Bytes of answers to one read, at most: a key update takes 16 µs, and a read could hold thousands
of them."""


class TLS:
    """The server's side of one TLS connection.

    :attr:`established` is True after the handshake, :attr:`ended` after the peer's close_notify:
    no plain bytes come any more. :attr:`closed` is True after ours: no plain bytes leave any more.
    :attr:`has_answer` is True if the bytes of the last :meth:`receive` made some :meth:`output`.
    :attr:`held` is the number of bytes of the tickets that wait for the greeting.
    """

    # fmt: off
    __slots__ = (
        "_incoming", "_later", "_object", "_outgoing", "closed", "ended", "established",
        "has_answer", "held",
    )
    # fmt: on

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._later: memoryview | None = None
        self.established = self.ended = self.closed = self.has_answer = False
        self.held = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take ciphertext, for :meth:`shake_hands` and :meth:`receive`."""
        if len(data) <= PIECE and self._later is None:
            self._incoming.write(data)
            return
        # A copy: the caller's buffer is for the next read, and a handshake may wait for its turn.
        self._later = memoryview(b"".join((self._later or b"", data)))
        self._feed_more()

    def _feed_more(self) -> bool:
        """Give OpenSSL the next piece; return False if there is none."""
        if (later := self._later) is None:
            return False
        self._incoming.write(later[:PIECE])
        self._later = later[PIECE:] if len(later) > PIECE else None
        return True

    @property
    def has_more(self) -> bool:
        """True if ciphertext has come that is not decrypted yet."""
        return self._incoming.pending > 0 or self._later is not None

    def shake_hands(self) -> bool:
        """Go on with the handshake; return True when it is done. Raises ssl.SSLError."""
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                if self._later is None or not self._feed_more():
                    return False
        self.established = True
        return True

    def hold_tickets(self) -> None:
        """Let the tickets of TLS 1.3 (RFC 8446 section 4.6.1) wait for the next :meth:`write`.

        Call it when the handshake is done, if the server speaks first: they leave with the greeting
        then, which saves a packet.
        """
        if self._object.version() == "TLSv1.3":
            self.held = self._outgoing.pending

    def receive(self, data: bytes | memoryview = b"") -> bytes:
        """Take ciphertext; return the plain bytes of all complete records in one piece.

        For the time after the handshake. Raises ssl.SSLError.
        """
        incoming = self._incoming
        if len(data) <= PIECE and self._later is None:
            incoming.write(data)
        else:
            # No copy: nothing of the caller's buffer is used after this returns.
            self._later = memoryview(b"".join((self._later, data)) if self._later else data)
            self._feed_more()
        pieces: list[bytes] = []
        try:
            while True:
                try:
                    piece = self._object.read(RECORD)
                except ssl.SSLWantReadError:
                    if self._outgoing.pending > ANSWERS:
                        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "too many key updates") from None
                    if self._feed_more():
                        continue
                    break
                if not piece:
                    self.ended = True
                    break
                # Ask no more if nothing is left: an exception says so, which takes 1 µs.
                if not (incoming.pending or (self._later and self._feed_more())):
                    if not pieces:
                        # A single record, as most commands are.
                        self.has_answer = self._outgoing.pending != self.held
                        return piece
                    pieces.append(piece)
                    break
                pieces.append(piece)
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError:
            # The alert that tells the client why waits for nothing.
            self.held = 0
            raise
        finally:
            self._later = None
        self.has_answer = self._outgoing.pending != self.held
        return b"".join(pieces)

    def write(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return *data* as ciphertext. Raises ssl.SSLError.

        Before the handshake is done, and after :meth:`close`, bytes cannot be sent: they are
        dropped, as asyncio's transports do after their close().
        """
        if self.closed or not self.established:
            return b""
        # One call writes all of it: a memory BIO is never full.
        self._object.write(data)
        self.held = 0
        return self._outgoing.read()

    def output(self) -> bytes:
        """Return the ciphertext that is to be sent now: of the handshake, an alert, new keys.

        After :meth:`hold_tickets`, the tickets alone are nothing to send.
        """
        if self._outgoing.pending == self.held:
            return b""
        # The tickets come first, if they wait.
        self.held = 0
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return the ciphertext of our close_notify; nothing if the handshake is not done."""
        self.closed = True
        if self.established:
            # It asks for the peer's close_notify too, which nothing waits for.
            # Without suppress(), which takes four calls.
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass
        return self._outgoing.read()

    def facts(self) -> dict[str, Any]:
        """Return all that :meth:`info` knows after the handshake."""
        tls = self._object
        return {
            "peercert": tls.getpeercert(),
            "cipher": tls.cipher(),
            "compression": tls.compression(),
            "ssl_object": tls,
            "sslcontext": tls.context,
        }

    def info(self, name: str) -> Any:
        """Return what :meth:`asyncio.BaseTransport.get_extra_info` knows of TLS, or None."""
        if self.established:
            return self.facts().get(name)
        if name == "ssl_object":
            return self._object
        if name == "sslcontext":
            return self._object.context
        return None
