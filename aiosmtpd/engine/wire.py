"""The wire: bytes in through one buffer, bytes out in few writes, flow control, the timer."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from aiosmtpd.engine.rounds import round_of
from aiosmtpd.engine.wakeup import Wakeup

if TYPE_CHECKING:
    from aiosmtpd.engine.observer import Watch
    from aiosmtpd.engine.rounds import Round
    from aiosmtpd.engine.tls import TLS
    from aiosmtpd.protocol.settings import Settings

Data = bytes | bytearray | memoryview

READ_SIZE = 131_072
"""The most bytes that one read takes: asyncio takes twice as many, which is no faster."""

CIPHERTEXT_SIZE = 98_304
"""The most bytes of ciphertext that one read takes: a turn of the event loop takes 20 µs."""

HIGH_WATER = 65536
"""Bytes of input that may wait for a busy command, and of replies that may wait for each other."""

DROPS = 16
"""Reads of unread bytes before a close, at most: 2 MiB."""

QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""The option of Linux to acknowledge at once."""

SLOW_READER = 60.0
"""Seconds that a peer may leave our replies unread; less if ``timeout`` is less."""


def acknowledge(raw: asyncio.Transport | None) -> None:
    """Acknowledge bytes that get no answer yet.

    Else the system waits 40 ms for one to go with it, and a client with Nagle's algorithm sends its
    next small packet only then.
    """
    if raw is None or QUICK_ACK is None:
        return
    # A Unix socket has no such option, uvloop no socket after a close, and a program's transport
    # may have anything. No message may fail for that.
    with suppress(Exception):
        if (sock := raw.get_extra_info("socket")) is not None:
            # 2: this once.
            sock.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 2)


class _Buffer(threading.local):
    """One buffer for each thread: several event loops read at the same time."""

    def __init__(self) -> None:
        # A view: the event loop's TLS layer reads into slices of it.
        self.view = memoryview(bytearray(READ_SIZE))
        # Less at a time: malloc() maps no pages for plain bytes of this size.
        self.ciphertext = self.view[:CIPHERTEXT_SIZE]


read_buffer = _Buffer()


class Wire(asyncio.Protocol, asyncio.BufferedProtocol):
    """The lowest part of a connection: it knows bytes, time and the transport.

    Bytes are read through the thread's buffer. If the event loop makes the bytes itself, it asks
    for 256 KiB and gives most of it back at each read: up to 12 page faults, 100 µs, for each
    short connection. No call leaves the buffer in use: every loop calls :meth:`buffer_updated` as
    soon as it has read.
    """

    # Slots keep an idle connection small: a dict of this many names takes 2 KB.
    # fmt: off
    __slots__ = (
        "_client_is_active", "_corked", "_deadline", "_drained", "_handler_coroutine", "_lost",
        "_out", "_raw", "_round", "_slow_reader", "_timer", "_timer_due", "_tls",
        "_wakeup", "_watch", "loop", "settings", "transport",
    )
    # fmt: on

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings) -> None:
        self.loop = loop
        self.settings = settings
        self.transport: asyncio.Transport | None = None
        # The event loop's own transport, below the one that programs see.
        self._raw: asyncio.Transport | None = None
        self._tls: TLS | None = None
        self._watch: Watch | None = None
        self._wakeup = Wakeup(loop)
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._lost = False
        self._out: Data = b""
        self._corked = False
        self._drained: asyncio.Future[None] | None = None
        self._slow_reader: asyncio.TimerHandle | None = None
        self._client_is_active = False
        self._deadline, self._timer_due = 0.0, inf
        self._timer: asyncio.TimerHandle | None = None
        self._round: Round | None = None

    # In.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the event loop the buffer to read into."""
        return read_buffer.view if self._tls is None else read_buffer.ciphertext

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that were read."""
        if self._tls is None:
            self.data_received(bytes(read_buffer.view[:nbytes]))
        else:
            self.ciphertext_received(read_buffer.ciphertext[:nbytes])

    def ciphertext_received(self, data: bytes | memoryview) -> None:
        """Take the bytes that were read in TLS."""
        raise NotImplementedError

    # Out.

    def send(self, data: bytes) -> None:
        """Send bytes, after those that wait to be sent."""
        if self._watch is not None:
            self._watch.sent(data)
        if self._out:
            self._hold(data)
            if len(self._out) > HIGH_WATER:
                self._flush()
            return
        if not self._corked and self._handler_coroutine is not None:
            # Whatever the running command awaits next, its replies are not held back.
            self.loop.call_soon(self._flush)
        # Most replies are alone: no copy, and nothing to keep while the client is silent.
        self._out = data

    def _hold(self, data: Data) -> None:
        """Put bytes after those that the next _flush() sends."""
        if not self._out:
            self._out = data
            return
        if not isinstance(self._out, bytearray):
            self._out = bytearray(self._out)
        self._out += data

    def send_now(self, data: bytes) -> None:
        """Send bytes at once, after those that wait."""
        if self._watch is not None:
            self._watch.sent(data)
        self._send_now(data)

    def _send_now(self, data: Data) -> None:
        """Send bytes at once, after the observers."""
        if self._out or self._raw is None:
            self._hold(data)
            self._flush()
        elif self._tls is None:
            self._raw.write(data)
        elif ciphertext := self._tls.write(data):
            # Bytes after the end give none; asyncio refuses any write after its write_eof().
            self._raw.write(ciphertext)

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, b""
            if self._raw is None:
                return
            if self._tls is None:
                self._raw.write(out)
            elif ciphertext := self._tls.write(out):
                self._raw.write(ciphertext)

    def write_through(self, data: Data) -> None:
        """Send the bytes that a program writes to its transport, after those that wait."""
        self._flush()
        if data:
            self._send_now(data)

    def _drop_unread(self) -> None:
        """Read and drop the bytes that wait in the socket.

        To close with unread bytes sends a reset, which may overtake the last reply.
        """
        sock = None if self._raw is None else self._raw.get_extra_info("socket")
        if sock is None or os.name != "posix":
            return
        with suppress(OSError):
            for _ in range(DROPS):  # pragma: no branch - few sockets hold as much
                if not os.read(sock.fileno(), READ_SIZE):
                    break

    def pause_writing(self) -> None:
        """Hold the driver: the peer does not read. If that goes on, the peer is cut off."""
        self._drained = self.loop.create_future()
        self._cut_off_later()

    def _cut_off_later(self, seconds: float = SLOW_READER) -> None:
        if self._raw is not None and self._slow_reader is None:
            self._slow_reader = self.loop.call_later(
                min(self.settings.timeout, seconds), self._raw.abort
            )

    def resume_writing(self) -> None:
        """Let the driver go on."""
        drained, self._drained = self._drained, None
        if self._slow_reader is not None:
            self._slow_reader.cancel()
            self._slow_reader = None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # The deadline: a new one is only a number, if it is looked at in time anyway.

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Give the client *duration* seconds from now, by default ``timeout``."""
        self._deadline = monotonic() + (self.settings.timeout if duration is None else duration)
        if self._timer_due > self._deadline:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._round = round_of(self.loop)
        self._round.members.add(self)
        self._timer_due = self._round.due
        if self._timer_due > self._deadline:
            self._timer_due = self._deadline
            self._timer = self.loop.call_later(self._deadline - monotonic(), self._timer_fired)

    def _timer_fired(self) -> None:
        if self._lost:
            # A look at all deadlines has called this before, and it cannot be cancelled.
            return
        self._timer, self._timer_due = None, inf
        if self._deadline > monotonic():
            self._set_timer()
        elif self._wakeup.waiting:
            self._timeout_cb()
        else:
            # A hook is running: the server is slow, not the client.
            self._reset_timeout()

    def _timeout_cb(self) -> None:
        """End a connection whose client was silent for too long."""
        raise NotImplementedError

    def _cancel_timers(self) -> None:
        if self._round is not None:
            self._round.members.discard(self)
        for timer in (self._timer, self._slow_reader):
            if timer is not None:
                timer.cancel()
        self._timer = self._slow_reader = self._round = None
        # Before any deadline: no timer is set any more.
        self._timer_due = -inf
