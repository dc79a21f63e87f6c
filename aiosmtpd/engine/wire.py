"""The wire: octets in through one buffer, octets out in few writes, flow control, the timer."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic

from aiosmtpd.engine.wakeup import Wakeup

READ_OCTETS = 131_072
"""The most that is read at once: asyncio takes twice as much, which is no faster."""

HIGH_WATER = 65536
"""Octets of input that may wait for a busy command, and of replies that may wait for each other."""

SLOW_READER = 60.0
"""Seconds that a peer may leave our replies unread; less where ``timeout`` is."""

LONGEST_SLEEP = 150.0
"""Seconds until the timer looks at the deadline, at most: less than mail data is waited for, or
each message would arm it anew (8 µs)."""


class _Buffer(threading.local):
    """Each thread has its own: several event loops read at the same time."""

    def __init__(self) -> None:
        # A view, for TLS reads into slices of it.
        self.view = memoryview(bytearray(READ_OCTETS))


_buffer = _Buffer()


class Wire(asyncio.Protocol, asyncio.BufferedProtocol):
    """What a connection is below its commands.

    Octets are read through the thread's buffer. Where the event loop makes the bytes itself, it
    asks for 256 KiB and gives most of it back at each read: up to 12 page faults, 100 µs, for each
    short connection. The buffer is never in use from one call to the next: every loop calls
    :meth:`buffer_updated` as soon as it has read.
    """

    # Slots, for an idle connection is to be small: a dict of this many names takes 2 KB.
    # fmt: off
    __slots__ = (
        "_client_is_active", "_corked", "_deadline", "_drained", "_handler_coroutine", "_lost",
        "_out", "_slow_reader", "_timeout_duration", "_timer", "_timer_due", "_wakeup", "loop",
        "transport",
    )
    # fmt: on

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self._wakeup = Wakeup(loop)
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._lost = False
        self._out: bytes | bytearray = b""
        self._corked = False
        self._drained: asyncio.Future[None] | None = None
        self._slow_reader: asyncio.TimerHandle | None = None
        self._timeout_duration = timeout
        self._client_is_active = False
        self._deadline = self._timer_due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def _lose_soon(self) -> None:
        """See to it that ``connection_lost`` is called, once.

        Where a TLS handshake is broken off by time, by a reset or by ourselves, the event loop's
        TLS layer does not call it; in all other cases it has, a turn before this.
        """

        def lose() -> None:
            if not self._lost:
                self.connection_lost(None)

        self.loop.call_soon(lose)

    # In.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the loop what to read into."""
        return _buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.data_received(bytes(_buffer.view[:nbytes]))

    # Out.

    def send(self, data: bytes) -> None:
        """Send octets behind those that wait to be sent."""
        if not self._out and not self._corked and self._handler_coroutine is not None:
            # Whatever the running command awaits next, its replies are not held back.
            self.loop.call_soon(self._flush)
        self._hold(data)
        if len(self._out) > HIGH_WATER:
            self._flush()

    def _hold(self, data: bytes) -> None:
        """Put octets behind those that the next _flush() sends."""
        if not self._out:
            # Alone, as most replies are: no copy, and nothing to keep while the client is silent.
            self._out = data
            return
        if not isinstance(self._out, bytearray):
            self._out = bytearray(self._out)
        self._out += data

    def _send_now(self, data: bytes) -> None:
        """Send octets behind those that wait, and them too."""
        if self._out or self.transport is None:
            self._hold(data)
            self._flush()
        else:
            self.transport.write(data)

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, b""
            if self.transport is not None:
                self.transport.write(out)

    def pause_writing(self) -> None:
        """Hold the driver: the peer does not read. It is cut off if it goes on with that."""
        self._drained = self.loop.create_future()
        self._cut_off_later()

    def _cut_off_later(self, seconds: float = SLOW_READER) -> None:
        if self.transport is not None and self._slow_reader is None:
            self._slow_reader = self.loop.call_later(
                min(self._timeout_duration, seconds), self.transport.abort
            )

    def resume_writing(self) -> None:
        """Let the driver go on."""
        drained, self._drained = self._drained, None
        if self._slow_reader is not None:
            self._slow_reader.cancel()
            self._slow_reader = None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # The timer: one for a connection, re-armed lazily, for a new deadline is only a number.

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Give the client *duration* seconds from now, by default ``timeout``."""
        if self._lost:
            return
        self._deadline = monotonic() + (self._timeout_duration if duration is None else duration)
        if self._timer is None or self._timer_due > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        now = monotonic()
        self._timer_due = min(self._deadline, now + LONGEST_SLEEP)
        self._timer = self.loop.call_later(self._timer_due - now, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._deadline > monotonic():
            self._set_timer()
        elif self._wakeup.waiting:
            self._timeout_cb()
        else:
            # A hook is running: it is the server that is slow, not the client.
            self._reset_timeout()

    def _timeout_cb(self) -> None:
        """End a connection whose client was silent for too long."""
        raise NotImplementedError

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._slow_reader):
            if timer is not None:
                timer.cancel()
        self._timer = self._slow_reader = None
