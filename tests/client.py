"""The raw client of all tests over sockets: it sends bytes and reads replies."""

import socket
import ssl
import struct
from typing import Any, Self

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""

Place = int | str | tuple[Any, ...]
"""A port of 127.0.0.1, the path of a Unix socket, or a host and its port."""


def connected(place: Place, patience: float, receive_buffer: int, source: str) -> socket.socket:
    """Return a new socket that is connected to *place*."""
    if isinstance(place, str):
        sock = socket.socket(socket.AF_UNIX)
        address: Any = place
    else:
        address = ("127.0.0.1", place) if isinstance(place, int) else (*place[:2],)
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        sock.settimeout(patience)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        sock.connect(address)
        if not isinstance(place, str):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class Client:
    """A connection to a server, with TLS from the start if *tls* is given.

    The greeting is read and must be a 220, unless *greet* is false.
    """

    resets_are_ends = False
    """True if a connection that is reset, or cut within TLS, counts as closed."""

    def __init__(
        self,
        place: Place,
        *,
        greet: bool = True,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int = 0,
        source: str = "",
        patience: float = PATIENCE,
    ) -> None:
        self.left = bytearray()
        """The bytes that were received and not yet read."""
        self.greeting = b""
        self.socket = connected(place, patience, receive_buffer, source)
        try:
            if tls is not None:
                self.start_tls(tls)
            if greet:
                self.greeting = self.expect(b"220 ")
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a RST."""
        self.reset_at_close()
        self.socket.close()

    def reset_at_close(self) -> None:
        """Let close() send a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def start_tls(self, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
        """Make the TLS handshake; *host* is the name that the server's certificate must have."""
        assert not self.left, f"said before the handshake: {bytes(self.left)!r}"
        self.socket = context.wrap_socket(self.socket, server_hostname=host)

    # Sending.

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, command: bytes, code: bytes = b"") -> bytes:
        """Send a command and return the reply, which must begin with *code*."""
        self.send(command + b"\r\n")
        return self.expect(code)

    def hello(self) -> bytes:
        return self.ask(b"EHLO client.test", b"250")

    def begin(self, sender: bytes = b"a@b.test", recipient: bytes = b"c@d.test") -> None:
        """Go up to the recipient."""
        self.ask(b"MAIL FROM:<" + sender + b">", b"250")
        self.ask(b"RCPT TO:<" + recipient + b">", b"250")

    def transaction(self) -> None:
        """Go from EHLO up to the 354."""
        self.hello()
        self.begin()
        self.ask(b"DATA", b"354")

    # Receiving.

    def fill(self) -> bool:
        """Receive once; return False if the server has closed."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionError, ssl.SSLError):
            if not self.resets_are_ends:
                raise
            data = b""
        self.left += data
        return bool(data)

    def line(self) -> bytes:
        """Read one line, or a part of it if the server closes."""
        while (end := self.left.find(b"\n") + 1) == 0:
            if not self.fill():
                end = len(self.left)
                break
        line = bytes(self.left[:end])
        del self.left[:end]
        return line

    def reply(self) -> bytes:
        """Read one reply, all its lines, or a part of it if the server closes."""
        lines = b""
        while line := self.line():
            lines += line
            if line[3:4] != b"-":
                break
        return lines

    def rest(self) -> bytes:
        """Read all that comes until the server closes."""
        while self.fill():
            pass
        rest = bytes(self.left)
        self.left.clear()
        return rest

    def expect(self, code: bytes) -> bytes:
        """Read one reply, which must begin with *code*."""
        reply = self.reply()
        assert reply.startswith(code), f"expected {code.decode()}, got {reply[:200]!r}"
        return reply
