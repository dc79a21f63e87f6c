"""The transport that programs see: a thin object over the event loop's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from aiosmtpd.engine.wire import Data, read_buffer

if TYPE_CHECKING:
    from aiosmtpd.engine.tls import TLS


class Line(Protocol):
    """The connection below a transport."""

    def write_through(self, data: Data) -> None:
        """Send bytes at once, after the replies that wait."""

    def hang_up(self) -> None:
        """Send the replies that wait, then close."""

    def end_output(self) -> None:
        """Send the replies that wait, then a FIN; drop later ones."""

    @property
    def is_hung_up(self) -> bool:
        """True after the server has closed the connection."""


class Encrypted(Line, Protocol):
    """A connection in TLS."""

    def ciphertext_received(self, data: bytes | memoryview) -> None:
        """Take what the socket gave."""

    def eof_received(self) -> bool | None:
        """Take the end of the client's bytes."""

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone."""

    def pause_writing(self) -> None:
        """Hold the driver."""

    def resume_writing(self) -> None:
        """Let the driver go on."""


class Ciphertext(asyncio.BufferedProtocol):
    """The event loop's protocol in TLS, below the connection: it hands on ciphertext.

    Not an asyncio.Protocol, which the connection is too: uvloop would make the bytes itself, of up
    to 256 KB, and megabytes would take page faults: up to 420 for each, a third of their time.
    asyncio reads into the connection's own buffer, so it needs this only after our FIN.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Encrypted) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the event loop what to read into."""
        return read_buffer.ciphertext

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self._connection.ciphertext_received(read_buffer.ciphertext[:nbytes])

    def eof_received(self) -> bool | None:
        """Hand on the end of the client's bytes."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on the end of the connection."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on that the peer does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that the peer reads again."""
        self._connection.resume_writing()


class Transport(asyncio.Transport):
    """``server.transport``: bytes written to it, and its end, come after the replies before them.

    In TLS it encrypts. Everything else the event loop's transport does.
    """

    __slots__ = ("_is_given_away", "_line", "_tls", "is_foreign", "raw")

    # loop.start_tls() asks for it: a subclass's own STARTTLS gives this transport to it.
    _start_tls_compatible = True

    def __init__(self, line: Line, raw: asyncio.Transport, tls: TLS | None = None) -> None:
        # Without super(): its dict would be in each idle connection.
        self.raw = raw
        self._line: Line | None = line
        self._tls = tls
        self._is_given_away = False
        self.is_foreign = False
        """True if a program has put the transport below in place of another."""

    def let_go(self) -> None:
        """Forget the connection, which has ended."""
        self._line = None
        self._is_given_away = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection: of TLS, of the socket, or *default*."""
        if self._tls is not None and (known := self._tls.info(name)) is not None:
            return known
        return self.raw.get_extra_info(name, default)

    def write(self, data: Data) -> None:
        """Send bytes, after the replies that wait."""
        if self._is_given_away or self._line is None:
            self.raw.write(data)
        else:
            self._line.write_through(data)

    def writelines(self, list_of_data: Iterable[Data]) -> None:
        """Send pieces of bytes, after the replies that wait."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Close, after the replies that wait."""
        if self._is_given_away or self._line is None:
            self.raw.close()
        else:
            self._line.hang_up()

    def abort(self) -> None:
        """Close at once; bytes that wait are lost."""
        self.raw.abort()

    def is_closing(self) -> bool:
        """Return True if the transport is closed or about to be."""
        return self.raw.is_closing() or (self._line is not None and self._line.is_hung_up)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the bytes that come to another protocol, as ``loop.start_tls()`` does.

        Raises RuntimeError in TLS: below the connection there are no plain bytes.
        """
        if self._tls is not None:
            raise RuntimeError("the protocol of a connection in TLS cannot be replaced")
        self._is_given_away = id(protocol) != id(self._line)
        self.raw.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that gets the bytes."""
        if self._tls is not None and isinstance(self._line, asyncio.BaseProtocol):
            return self._line
        return self.raw.get_protocol()

    def can_write_eof(self) -> bool:
        """Return True if the writing side can be closed alone."""
        return self._tls is None and self.raw.can_write_eof()

    def write_eof(self) -> None:
        """Close the writing side, after the replies that wait; later ones are dropped.

        Raises NotImplementedError in TLS.
        """
        if self._tls is not None:
            # A FIN without a close_notify is a truncated stream.
            raise NotImplementedError("TLS has no half-close")
        if self._line is None:
            self.raw.write_eof()
        else:
            self._line.end_output()

    def is_reading(self) -> bool:
        """Return True if bytes are read."""
        return self.raw.is_reading()

    def pause_reading(self) -> None:
        """Read no bytes until resume_reading()."""
        self.raw.pause_reading()

    def resume_reading(self) -> None:
        """Read bytes again."""
        self.raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits of flow control, in bytes."""
        self.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait in the event loop."""
        return self.raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits of flow control, in bytes."""
        return self.raw.get_write_buffer_limits()


class Finished(Transport):
    """The event loop's transport after our FIN: it drops bytes, which it would refuse to send.

    A hook may have closed the connection, and say more to the client all the same.
    """

    __slots__ = ()

    def __init__(self, line: Line, raw: asyncio.Transport) -> None:
        super().__init__(line, raw)
        self.let_go()

    def write(self, data: Data) -> None:
        """Drop bytes, as asyncio's transports do after their close()."""
