"""A transport in memory, which behaves as a socket transport does, without a socket."""

import asyncio
from collections.abc import Iterable
from typing import Any

PEER = ("192.0.2.7", 50025)
LOCAL = ("192.0.2.1", 25)


class MemoryTransport(asyncio.Transport):
    """Connects a protocol to a test that feeds it bytes and reads what it wrote.

    It keeps the order of calls of the event loop's own transports: nothing comes while reading
    is paused or after close(), and connection_lost() comes in a later turn of the loop, once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": PEER, "sockname": LOCAL, "socket": None, "sslcontext": None})
        self._loop = loop
        self._protocol: asyncio.Protocol | asyncio.BufferedProtocol = protocol
        self._waiting: list[bytes] = []
        self._eof_waiting = False
        self._reading = True
        self._closing = False
        self._limits = (16384, 65536)
        self.sent = bytearray()
        self.written_after_close = bytearray()
        self.changed = asyncio.Event()
        self.lost = asyncio.Event()
        loop.call_soon(protocol.connection_made, self)

    # For the test.

    def feed(self, data: bytes) -> None:
        """Let `data` arrive from the peer."""
        if self._closing or not data:
            return
        is_first = not self._waiting
        self._waiting.append(data)
        if is_first:
            self._deliver()

    def _give(self, data: bytes) -> None:
        """Give data to the protocol: a buffer's worth at a time, if it has one."""
        if isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)
            return
        view = memoryview(self._protocol.get_buffer(len(data)))
        size = min(len(view), len(data))
        view[:size] = data[:size]
        if size < len(data):
            self._waiting.insert(0, data[size:])
        self._protocol.buffer_updated(size)

    def feed_eof(self) -> None:
        """Let the peer's FIN arrive."""
        if self._closing:
            return
        if not self._reading or self._waiting:
            self._eof_waiting = True
        elif not self._protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """Let the peer's RST arrive."""
        self._end(ConnectionResetError("Connection reset by peer"))

    # For the protocol.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take `data` as sent."""
        if self._closing:
            self.written_after_close += data
            return
        self.sent += data
        self.changed.set()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Take every piece as sent."""
        for data in list_of_data:
            self.write(data)

    def write_eof(self) -> None:
        """Say that nothing more will be sent; no test needs to see it."""

    def can_write_eof(self) -> bool:
        """Half-close is possible, as on TCP."""
        return True

    def close(self) -> None:
        """Close in order: everything written has been sent already."""
        self._end(None)

    def abort(self) -> None:
        """Close at once."""
        self._end(None)

    def is_closing(self) -> bool:
        """Return True if it is closed or closing."""
        return self._closing

    def is_reading(self) -> bool:
        """Return True if bytes are passed on."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Hold back data that arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Pass on again, beginning in the next turn of the loop."""
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Remember the limits; the buffer is always empty."""
        high = 65536 if high is None else high
        self._limits = (high // 4 if low is None else low, high)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return `(low, high)`."""
        return self._limits

    def get_write_buffer_size(self) -> int:
        """Nothing ever waits to be sent."""
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass data that arrives to another protocol from now on."""
        if not isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol):
            raise TypeError(type(protocol).__name__)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return extra information as a TCP transport does."""
        return super().get_extra_info(name, default)

    def _deliver(self) -> None:
        while self._waiting and self._reading and not self._closing:
            self._give(self._waiting.pop(0))
        if self._eof_waiting and self._reading and not self._waiting:
            self._eof_waiting = False
            self.feed_eof()

    def _end(self, reason: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._waiting.clear()
        self.changed.set()
        self._loop.call_soon(self._lose, reason)

    def _lose(self, reason: Exception | None) -> None:
        self._protocol.connection_lost(reason)
        self.lost.set()
