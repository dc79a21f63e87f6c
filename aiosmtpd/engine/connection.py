"""One connection: its driver task, its replies, its TLS switch.

A task per connection takes the command lines that the :class:`Receiver` holds and runs the
method of each verb; a running command reads from the same receiver. Only "nothing has arrived",
"the peer does not read" and what handlers await suspend the task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from aiosmtpd.engine.registry import Shared
from aiosmtpd.engine.wire import HIGH_WATER, Wire
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import Limits, Meter
from aiosmtpd.protocol.receiver import LINE_FLOOD, TLS_HANDSHAKE, LineFlood, LineTooLong, Receiver
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import Envelope, Session

log = logging.getLogger("mail.log")

VANISHED_GRACE = 2.0
"""Seconds that a running hook gets when its client has gone."""

CLOSE_NOTIFY = 2.0
"""Seconds that a client in TLS has to take leave of a server that closes."""

SLOW_HOOK = 0.1
"""Seconds of the event loop that one command may take before the log says so."""

TURN_SECONDS = 0.005
TURN_COMMANDS = 64
"""What a connection may run of what it has sent before the others have their turn."""


class Disconnected(ConnectionResetError):
    """The client has gone, or the connection is being closed: the running command ends here."""


class TLSSetupException(Exception):
    """A TLS handshake failed; the reason is its cause."""


def handshake_timeout(timeout: float, limits: Limits) -> float:
    """Return the seconds that a TLS handshake may take."""
    return min(timeout, limits.handshake_timeout or timeout)


class Connection(Wire):
    """Bytes in, commands run, replies out. What the commands are is for subclasses to say."""

    # fmt: off
    __slots__ = (
        "_between_commands", "_closing", "_commits", "_data_begun", "_end", "_end_due",
        "_envelope", "_eof", "_interrupted", "_last_status", "_meter", "_original_transport",
        "_reading_paused", "_reason", "_receiver", "_session_id", "_session_timer", "_stopping",
        "_tls_handshake_okay", "_tls_protocol", "_with_codes", "limits", "session",
        "session_transport", "shared",
    )
    # fmt: on

    line_length_limit = 1001

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, shared: Shared | None, limits: Limits
    ) -> None:
        super().__init__(loop, timeout)
        self.shared = shared
        self.limits = limits
        self._meter = Meter(limits)
        self.session_transport: asyncio.BaseTransport | None = None
        # None until connection_made(), before which no method of ours runs; the envelope too.
        self.session: Session = None  # type: ignore[assignment]
        self._envelope: Envelope | None = None
        self._receiver = Receiver()
        self._last_status: str | bytes = ""
        self._closing = self._between_commands = self._data_begun = False
        self._reading_paused = self._eof = self._interrupted = self._with_codes = False
        self._stopping: Reply | None = None
        self._commits, self._end_due = 0, False
        self._session_timer: asyncio.TimerHandle | None = None
        self._tls_protocol: Any = None
        self._tls_handshake_okay = True
        self._original_transport: asyncio.BaseTransport | None = None
        self._end: asyncio.Future[None] | None = None
        self._reason = ""
        self._session_id = ""

    # What subclasses say.

    def _create_session(self) -> Session:
        return Session(self.loop)

    def _create_envelope(self) -> Envelope:
        return Envelope()

    @property
    def envelope(self) -> Envelope:
        """The transaction; made when it is asked for, 400 octets that no idle connection has."""
        if self._envelope is None and self.session is not None:
            self._envelope = self._create_envelope()
        return self._envelope

    @envelope.setter
    def envelope(self, value: Envelope) -> None:
        self._envelope = value

    def _renew_envelope(self) -> None:
        # At once where a program makes its own: it may count on when it does.
        own = type(self)._create_envelope is not Connection._create_envelope
        self._envelope = self._create_envelope() if own else None

    async def _greet(self) -> None:
        raise NotImplementedError

    async def _execute(self, line: bytes) -> None:
        raise NotImplementedError

    async def handle_exception(self, error: Exception) -> str:
        """Return the reply to a command that raised *error*."""
        raise NotImplementedError

    async def _tls_established(self) -> None:
        """Take note of a finished STARTTLS handshake; session and envelope are new."""

    def _blocked(self, seconds: float) -> None:
        """Take note that nobody else was served for so long."""

    def _farewell(self) -> Coroutine[Any, Any, None] | None:
        """Return what is left to do when connection and driver have ended; None in the end."""
        raise NotImplementedError

    # The life of a connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a session: once at connecting and, by our own call, once more behind STARTTLS."""
        self._begin_session(transport)
        if self._handler_coroutine is not None:
            return
        if self.shared is not None:
            self.shared.connections.add(self)
        if self.limits.session_timeout is not None:
            self._session_timer = self.loop.call_later(
                self.limits.session_timeout, self.shut_down, replies.TIMED_OUT
            )
        self._reset_timeout()
        # With a name, for each would be given one of its own, of 60 octets.
        self._handler_coroutine = self.loop.create_task(self._handle_client(), name="SMTP client")

    def _begin_session(self, transport: Any) -> None:
        before = self.session
        self.transport = self.session_transport = transport
        self._with_codes = False
        self._renew_envelope()
        self.session = self._create_session()
        self.session.peer = transport.get_extra_info("peername")
        if before is not None:
            self.session.peer = before.peer
            self.session.proxy_data = before.proxy_data
            self.session.xclient = getattr(before, "xclient", None)
        if transport.get_extra_info("sslcontext") is not None:
            self._tls_protocol = transport
            self.session.ssl = {
                key: transport.get_extra_info(key)
                for key in ("peercert", "cipher", "compression", "ssl_object", "sslcontext")
            }

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that the connection is gone; a running hook gets two seconds to end."""
        self._lost = self._closing = True
        self.transport = None
        self._cancel_timers()
        if self._session_timer is not None:
            self._session_timer.cancel()
        if not self._reason:
            self._reason = f"connection lost: {error}" if error else "closed by the client"
        self._log(logging.INFO, "%r disconnected: %s", self.session.peer, self._reason)
        self.resume_writing()
        self._wakeup.wake()
        driver = self._handler_coroutine
        if driver is None or driver.done():
            self._leave()
        else:
            self._end_soon()
            driver.add_done_callback(self._leave)

    def eof_received(self) -> bool | None:
        """Serve what has arrived before a half-close; over TLS the loop closes the connection."""
        self._eof = True
        if not self._wakeup.waiting and not self._receiver.has_line():
            # Nobody asks for more, and a client that waits for a reply so is rare: it has gone.
            self._end_soon()
        self._wakeup.wake()
        return self._tls_protocol is None

    def _end_soon(self) -> None:
        """Give a running hook a little time; it is cancelled then."""
        driver = self._handler_coroutine
        if driver is not None and not driver.done():
            self.loop.call_later(VANISHED_GRACE, self._end_hook, driver)

    def _end_hook(self, driver: asyncio.Task[None]) -> None:
        self._end_due = True
        if not self._commits:
            driver.cancel()

    @asynccontextmanager
    async def committed(self) -> AsyncIterator[None]:
        """Let what is inside end, though the client has gone: limits.md L33.

        For a hook that has handed the message over, or is about to: a client that vanishes gives
        a hook two seconds, then it is cancelled, but not here.
        """
        self._commits += 1
        try:
            yield
        finally:
            self._commits -= 1
            if self._end_due:
                # The time is over, but its reply may still be sent.
                self._end_soon()

    def _leave(self, _: object = None) -> None:
        driver = self._handler_coroutine
        if not self._lost or (driver is not None and not driver.done()):
            return
        if (farewell := self._farewell()) is not None:
            self._handler_coroutine = self.loop.create_task(farewell)
            self._handler_coroutine.add_done_callback(self._leave)
            return
        if self.shared is not None:
            self._leave_shared(self.shared)
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def _leave_shared(self, shared: Shared) -> None:
        """Take note that the server has a connection less."""
        shared.connections.discard(self)

    def ended(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection and its task have ended."""
        if self._end is None:
            self._end = self.loop.create_future()
            self._leave()
        return self._end

    def shut_down(self, reply: Reply = replies.SHUTTING_DOWN) -> None:
        """End the connection: now if the client is waited for, else after the running command."""
        self._stopping = reply
        if self._wakeup.waiting:
            self.disconnect(reply)

    def abort(self) -> None:
        """End the connection and its task now."""
        if self.transport is not None:
            self.transport.abort()
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    def disconnect(self, reply: str | None = None) -> None:
        """Send *reply* and close; the command may still end. Raises ValueError for no reply."""
        if reply is not None:
            reply = replies.from_hook(reply)
            self.send(self._octets(reply))
        self._reason = self._reason or reply or "closed by the server"
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._flush()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
            # close() waits for ever for a peer that does not read: limits.md L3. In TLS it waits
            # half a minute for the peer's close_notify.
            if self.transport.get_write_buffer_size():
                self._cut_off_later()
            elif self._tls_protocol:
                self._cut_off_later(CLOSE_NOTIFY)
        self._wakeup.wake()

    # The driver.

    async def _handle_client(self) -> None:
        try:
            await self._greet()
            await self._refuse_tls()
            while not self._closing:
                # It rests here: running commands has a coroutine of its own, 270 octets.
                if await self._run_commands():
                    await self._rest()
        except Disconnected:
            pass
        except Refused as refused:
            # handle_PROXY's.
            self.disconnect(refused.reply)
        except Exception as error:
            # Nothing can be answered here: the greeting has failed, or the error's own handling.
            await self.handle_exception(error)
        finally:
            self._close()

    async def _refuse_tls(self) -> None:
        """Tell a client that begins with a TLS handshake that it will not have one."""
        while not len(self._receiver) and not self._closing:
            await self._more()
        if self._receiver.starts_with(TLS_HANDSHAKE):
            self.disconnect(replies.TLS_ON_PLAIN_PORT)

    async def _run_commands(self) -> bool:
        """Run what the client has sent; False where a command failed, or interrupts."""
        commands, turn_ends = 0, monotonic() + TURN_SECONDS
        try:
            while not (self._closing or self._interrupted):
                if (step := self._next()) is None:
                    return True
                await step
                commands += 1
                if commands >= TURN_COMMANDS or monotonic() >= turn_ends:
                    await self._give_way()
                    commands, turn_ends = 0, monotonic() + TURN_SECONDS
        except Refused as refused:
            await self._answer(refused.reply)
        except LineTooLong:
            await self.push(replies.COMMAND_TOO_LONG)
        except LineFlood:
            self.disconnect(replies.LINE_FLOOD)
        except Disconnected:
            raise
        except TLSSetupException as error:
            # The handler is told; there is nobody to send its answer to.
            self._closing = True
            await self.handle_exception(error)
        except Exception as error:
            await self._answer(await self.handle_exception(error))
        return False

    def _next(self) -> Awaitable[None] | None:
        """Return what is to run next; None where it has not come."""
        line = self._receiver.line(self.line_length_limit or LINE_FLOOD)
        return None if line is None else self._execute(line)

    async def _give_way(self) -> None:
        """Let other connections have their turn, whatever this one has sent: limits.md L17."""
        if self._stopping is not None:
            self.disconnect(self._stopping)
        await asyncio.sleep(0)

    def _rest(self) -> Awaitable[None]:
        """Wait for the next command."""
        return self._more()

    def _more(self) -> Awaitable[None]:
        """Wait until there may be more from the client, all replies out. Raises Disconnected.

        No coroutine: that would be 200 octets of each idle connection.
        """
        self._flush()
        if self._client_is_active:
            self._client_is_active = False
            self._reset_timeout()
        if self._drained is not None:
            # Meanwhile more may come, of which nobody would tell.
            return self._drained
        if self._stopping is not None and not self._closing:
            self.disconnect(self._stopping)
        if self._closing or self._eof:
            raise Disconnected
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()
        return self._wakeup

    def data_received(self, data: bytes) -> None:
        """Take what the socket gave, and let the driver run if it waits for it."""
        self._receiver.feed(data)
        if self._wakeup.waiting:
            began = monotonic()
            # Replies of this run leave in one write, when it comes to rest.
            self._corked = True
            self._wakeup.wake()
            self._corked = False
            if self._out:
                self._flush()
            if (blocked := monotonic() - began) > SLOW_HOOK:
                self._blocked(blocked)
        if self._wakeup.waiting or self._reading_paused or len(self._receiver) <= HIGH_WATER:
            return
        self._reading_paused = True
        if self.transport is not None:
            self.transport.pause_reading()

    # Replies.

    async def push(self, status: str | bytes) -> None:
        """Send a reply: *status* as it is and one CRLF.

        Waits only while the peer leaves too much unread. Raises ConnectionResetError where the
        connection is lost.
        """
        if self._lost:
            raise Disconnected
        self._last_status = status
        if isinstance(status, Reply):
            if status.code >= 500:
                self._meter.count_error()
            # Without a call more for the server's own replies, which most are.
            self.send(self._octets(status) if self._with_codes else status.octets)
        else:
            if status[:1] in ("5", b"5"):
                self._meter.count_error()
            self.send(replies.octets(status))
        if self._drained is not None:
            await self._drained

    def _octets(self, status: str | bytes) -> bytes:
        if isinstance(status, Reply):
            return (replies.with_code(status) if self._with_codes else status).octets
        return replies.octets(status)

    async def _answer(self, status: Any) -> None:
        """Send what a hook returned, as exactly one reply; a 421 ends the connection."""
        reply = replies.from_hook(status)
        if not self._closing:
            await self.push(reply)
        if reply.code == 421:
            self._end_with(reply)

    def _end_with(self, reply: Reply) -> None:
        """Close the connection behind a reply that has been pushed."""
        self._reason = self._reason or reply
        self.disconnect()

    def _timeout_cb(self) -> None:
        """End a connection whose client was silent for too long: RFC 5321 section 4.5.3.2.7."""
        self.disconnect(replies.TIMED_OUT)

    # TLS.

    async def _start_tls(
        self, context: ssl.SSLContext | Callable[[], ssl.SSLContext], go_ahead: Awaitable[None]
    ) -> None:
        """Switch to TLS: RFC 3207. Raises TLSSetupException where the handshake fails."""
        if not isinstance(context, ssl.SSLContext) and callable(context):
            context = context()
        await go_ahead
        self._flush()
        if self.transport is None or self._closing:
            raise Disconnected
        # No await from here to start_tls: what came in the clear is never run (RFC 3207 section 6).
        self._receiver.clear()
        self._reading_paused = False
        self._original_transport = self.transport
        try:
            transport = await self.loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=handshake_timeout(self._timeout_duration, self.limits),
            )
            if transport is None:
                raise ConnectionResetError("connection lost in the TLS handshake")
        except BaseException as error:
            self._reason = f"TLS handshake failed: {error}"
            self._lose_soon()
            if isinstance(error, TimeoutError | OSError):
                raise TLSSetupException from error
            raise
        self.connection_made(transport)
        await self._tls_established()

    @property
    def session_id(self) -> str:
        """Eight hexadecimal digits, in ``session_id`` of all this connection's log records."""
        if not self._session_id:
            self._session_id = os.urandom(4).hex()
        return self._session_id

    def _log(self, level: int, message: str, *args: Any, error: Exception | None = None) -> None:
        if log.isEnabledFor(level):
            log.log(level, message, *args, exc_info=error, extra={"session_id": self.session_id})
