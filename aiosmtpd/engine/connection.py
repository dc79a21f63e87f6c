"""One connection: its driver task, its replies, its records of TLS.

A task for each connection takes the command lines that the :class:`Receiver` holds and runs the
method of each verb. A running command reads from the same receiver. Three things alone suspend
the task: nothing has arrived, the peer does not read, or a handler awaits something.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from operator import attrgetter, methodcaller
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiosmtpd.engine import upgrade
from aiosmtpd.engine.handshakes import handshakes_of
from aiosmtpd.engine.observer import Watch
from aiosmtpd.engine.on_demand import OnDemand as OnDemand
from aiosmtpd.engine.transport import Ciphertext, Finished, Transport
from aiosmtpd.engine.wakeup import Disconnected as Disconnected
from aiosmtpd.engine.wire import HIGH_WATER, Wire
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import Limits, Meter
from aiosmtpd.protocol.receiver import LINE_FLOOD, TLS_HANDSHAKE, LineFlood, LineTooLong, Receiver
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import Envelope, Session

if TYPE_CHECKING:
    from aiosmtpd.engine.registry import Registry
    from aiosmtpd.engine.tls import TLS
    from aiosmtpd.protocol.settings import Settings

log = logging.getLogger("mail.log")

VANISHED_GRACE = 2.0
"""Seconds that a running hook gets when its client has gone."""

CLOSE_NOTIFY = 2.0
"""Seconds that a TLS client has to answer the close of the server."""

SLOW_HOOK = 0.1
"""Seconds for which one command may block the event loop before the log says so."""

CLOSED_BY_CLIENT = "closed by the client"

TURN_SECONDS = 0.005
TURN_COMMANDS = 64
"""How long, and how many commands, a connection may run before the others have their turn."""


class Connection(Wire):
    """Bytes in, commands run, replies out. Subclasses say what the commands are."""

    # fmt: off
    __slots__ = (
        "__dict__", "__weakref__", "_arrived_as", "_at_rest", "_closing", "_commits", "_end",
        "_end_due", "_eof", "_interrupted", "_is_greeted", "_last_status", "_meter",
        "_original_transport", "_reading_paused", "_reason", "_receiver", "_session_id",
        "_session_timer", "_stopping", "_taken", "_tls_failure", "_tls_handshake_okay",
        "_tls_protocol", "_with_codes", "registry", "session", "session_transport",
        "tls_from_start",
    )
    # fmt: on

    line_length_limit = 1001

    limits: Limits = property(attrgetter("settings.limits"))  # type: ignore[assignment]
    # 400 bytes that no idle connection has.
    envelope: Envelope = OnDemand(methodcaller("_create_envelope"))  # type: ignore[assignment]

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, registry: Registry | None
    ) -> None:
        super().__init__(loop, settings)
        self.registry = registry
        self._meter = Meter(settings.limits)
        self.session_transport: asyncio.BaseTransport | None = None
        # None until connection_made(): before that, none of our methods runs.
        self.session: Session = None  # type: ignore[assignment]
        self._receiver = Receiver()
        self._last_status: str | bytes = ""
        # A command that was parsed already: the driver runs it next.
        self._taken: tuple[Callable[..., Awaitable[None]], Any] | None = None
        self._arrived_as = 0
        self._closing = self._at_rest = self._is_greeted = False
        self._reading_paused = self._eof = self._interrupted = self._with_codes = False
        self._stopping: Reply | None = None
        self._commits, self._end_due = 0, False
        self._session_timer: asyncio.TimerHandle | None = None
        self._tls_protocol: Any = None
        self._tls_failure: Exception | None = None
        # The context of a port that speaks TLS from the start; the listener sets it.
        self.tls_from_start: ssl.SSLContext | None = None
        self._tls_handshake_okay = True
        self._original_transport: asyncio.BaseTransport | None = None
        self._end: asyncio.Future[None] | None = None
        self._reason = ""
        self._session_id = ""

    # Subclasses say what these do.

    def _create_session(self) -> Session:
        return Session(self.loop)

    def _create_envelope(self) -> Envelope:
        return Envelope()

    def _renew_envelope(self) -> None:
        """Begin a new transaction."""
        if type(self)._create_envelope is not Connection._create_envelope:
            # A program's own method may rely on when it is called, so call it now.
            self.envelope = self._create_envelope()
            return
        # An exception, if none has been asked for, would take 3 µs.
        vars(self).pop("envelope", None)

    async def _greet(self) -> None:
        """Send the greeting, after the parts of a session that come before it."""
        raise NotImplementedError

    def _greet_at_once(self) -> bool:
        """Send the greeting now, or a refusal; return False if the driver must."""
        raise NotImplementedError

    def _execute(self, line: bytes) -> Coroutine[Any, Any, None]:
        """Run one command."""
        raise NotImplementedError

    def _take_at_once(self, data: bytes) -> bytes | None:
        """Run the commands that need no task, of those that *data* begins with; return the rest.

        Called while the driver is at rest. Returns None if the driver has nothing to do now, and
        leaves its next command in ``_taken`` if that is parsed already.
        """
        raise NotImplementedError

    def _is_probe(self) -> bool:
        """Return True if a connection that has ended is not worth a line at INFO."""
        raise NotImplementedError

    def _is_in_transaction(self) -> bool:
        """Return True if the client should be let finish before the server stops."""
        raise NotImplementedError

    async def handle_exception(self, error: Exception) -> str:
        """Return the reply to a command that raised *error*."""
        raise NotImplementedError

    def _tls_established(self) -> Coroutine[Any, Any, None] | None:
        """Return a coroutine to run after a STARTTLS handshake; session and envelope are new."""
        raise NotImplementedError

    def _blocked(self, seconds: float) -> None:
        """Called after a run that blocked the event loop for *seconds*."""

    def _farewell(self) -> Coroutine[Any, Any, None] | None:
        """Return a coroutine to run after connection and driver have ended; None in the end."""
        raise NotImplementedError

    # The life of a connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a session: once when a client connects, and again (our own call) after STARTTLS."""
        self._begin_session(transport)
        if self._handler_coroutine is not None:
            return
        if self.registry is not None:
            self._arrived_as = self.registry.add(self)
        seconds = self.settings.limits.session_timeout
        if seconds is not None:
            self._session_timer = self.loop.call_later(seconds, self.shut_down, replies.TIMED_OUT)
        self._reset_timeout()
        if self.settings.observers:
            self._watch = Watch(self, self.settings.observers)
            self._watch.tell(self._watch.methods.began)
            if self._tls_protocol is not None:
                self._watch.tls("ok")
        self._is_greeted = self._greet_at_once()
        # A fixed name: asyncio would generate one for each task, 60 bytes.
        self._handler_coroutine = self.loop.create_task(self._handle_client(), name="SMTP client")

    def _begin_session(self, transport: Any) -> None:
        before = self.session
        if not isinstance(transport, Transport):
            self._raw = transport
            is_of_uvloop = type(transport).__module__.startswith("uvloop")
            transport = self._shown(transport) if is_of_uvloop else Transport(self, transport)
        self.transport = self.session_transport = transport
        self._with_codes = False
        if before is not None or type(self)._create_envelope is not Connection._create_envelope:
            self._renew_envelope()
        session = self.session = self._create_session()
        if before is None:
            session.peer = transport.get_extra_info("peername")
        else:
            session.peer = before.peer
            session.proxy_data = before.proxy_data
            session.xclient = getattr(before, "xclient", None)
        if self._tls is not None or transport.get_extra_info("sslcontext") is not None:
            self._note_tls(transport)

    def _shown(self, raw: Any) -> asyncio.Transport:
        """Return the transport that programs see above one of uvloop."""
        raise NotImplementedError

    def _note_tls(self, transport: asyncio.Transport) -> None:
        """Tell the session of TLS, with the five keys that 1.4 has."""
        self._tls_protocol = transport
        if (tls := self._tls) is not None:
            session = self.session
            if type(session) is Session:
                session._begin_tls(tls)
            else:
                # The program's own may have any attributes and methods.
                session.ssl = tls.facts()
            return
        # The event loop's own TLS.
        self.session.ssl = {
            key: transport.get_extra_info(key)
            for key in ("peercert", "cipher", "compression", "ssl_object", "sslcontext")
        }

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone; a running hook gets two seconds to end."""
        if self._tls is not None and not (self._tls.established or self._reason):
            self._reason = f"TLS handshake failed: {error or 'the client has gone'}"
        self._lost = self._closing = True
        self.transport = self._raw = None
        self._cancel_timers()
        if self._session_timer is not None:
            self._session_timer.cancel()
        if not self._reason:
            self._reason = f"connection lost: {error}" if error else CLOSED_BY_CLIENT
        if log.isEnabledFor(logging.INFO):
            level = logging.DEBUG if self._is_probe() else logging.INFO
            self._log(level, "%r disconnected: %s", self._client, self._reason)
        if self._watch is not None:
            self._watch.end_pause()
        if self._drained is not None:
            self.resume_writing()
        self._wakeup.wake()
        driver = self._handler_coroutine
        if driver is None or driver.done():
            self._leave()
        else:
            self._end_soon()
            driver.add_done_callback(self._leave)

    def eof_received(self) -> bool | None:
        """Serve what came before a half-close."""
        self._eof = True
        if not self._wakeup.waiting and not self._receiver.has_line():
            # A command runs, and no complete line is buffered. Few clients half-close and still
            # wait for a reply: treat this one as gone.
            self._end_soon()
        if self._watch is not None:
            self._watch.end_pause()
        self._wakeup.wake()
        if self._closing and self._raw is not None:
            # The client has taken its leave too.
            self._raw.close()
        # The event loop's own TLS cannot stay half-open.
        return self._tls_protocol is None or self._tls is not None

    def _end_soon(self) -> None:
        """Give a running hook a little time; then it is cancelled."""
        driver = self._handler_coroutine
        if driver is not None and not driver.done():
            self.loop.call_later(VANISHED_GRACE, self._end_hook, driver)

    def _end_hook(self, driver: asyncio.Task[None]) -> None:
        self._end_due = True
        if not self._commits:
            driver.cancel()

    def committed(self) -> AbstractAsyncContextManager[None]:
        """Protect the block from cancellation when the client disconnects.

        For a hook that has handed the message over, or is about to: if a client vanishes, a hook
        has two seconds and is then cancelled, but not in this block.
        """
        return _Commitment(self)

    def _leave(self, _: object = None) -> None:
        driver = self._handler_coroutine
        if not self._lost or (driver is not None and not driver.done()):
            return
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.tell(watch.methods.ended, self._reason)
        if (farewell := self._farewell()) is not None:
            self._handler_coroutine = self.loop.create_task(farewell)
            self._handler_coroutine.add_done_callback(self._leave)
            return
        if self.registry is not None:
            self._leave_registry(self.registry)
        self._let_go()
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def _let_go(self) -> None:
        """Drop the parts that point back to the connection: it is freed at once."""
        vars(self).pop("transaction", None)
        self._tls_failure = None
        # Of the event loop's own TLS, it is the transport of the session.
        for transport in self.session_transport, self._original_transport:
            if isinstance(transport, Transport):
                transport.let_go()

    def _leave_registry(self, registry: Registry) -> None:
        """Count this connection no longer."""
        registry.discard(self)

    def ended(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection and its task have ended."""
        if self._end is None:
            self._end = self.loop.create_future()
            self._leave()
        return self._end

    def shut_down(self, reply: Reply = replies.SHUTTING_DOWN) -> None:
        """End the connection: now if it rests between transactions, else when it does so next."""
        self._stopping = reply
        if self._wakeup.waiting and not self._is_in_transaction():
            self.disconnect(reply)
        elif self._watch is not None:
            self._watch.end_pause()

    def abort(self) -> None:
        """End the connection and its task now."""
        if self._stopping is not None and self._wakeup.waiting and not self._closing:
            self.disconnect(self._stopping)
        self._reason = self._reason or "aborted, the server stops"
        if self._raw is not None:
            self._raw.abort()
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    def disconnect(self, reply: str | None = None, *, reason: str = "") -> None:
        """Send *reply* and close; *reason* is for the log. The running command may still end.

        A connection that is already closed gets no reply. Raises ValueError if *reply* does not
        begin with a reply code.
        """
        if reply is not None:
            reply = replies.from_hook(reply)
            if self._closing:
                return
            if not self._is_before_tls:
                # An observer that gets this reply may call this method again.
                self._closing = True
                if self._watch is not None:
                    self._watch.reply(self._coded(reply))
                self.send(self._octets(reply))
            # The client may be in the middle of a sentence.
            self._flush()
            self._drop_unread()
        self._reason = self._reason or reason or reply or "closed by the server"
        self._close()
        self._wakeup.wake()

    def hang_up(self) -> None:
        """Close, as a program asks for by its transport; the replies that wait are sent first."""
        self._reason = self._reason or "closed by the server"
        self._close()
        self._wakeup.wake()

    def resume_writing(self) -> None:
        """Let the driver go on; after our close_notify, give the client a little time for its."""
        super().resume_writing()
        if self._closing:
            self._cut_off_later(CLOSE_NOTIFY)

    def _close(self) -> None:
        self._closing = True
        raw, tls = self._raw, self._tls
        # After a FIN without a close_notify there is no reply to ours but a reset (30 µs).
        if raw is None or tls is None or raw.is_closing() or (self._eof and not tls.ended):
            self._flush()
        else:
            # The last replies and our close_notify in one write.
            out, self._out = self._out, b""
            if last := (tls.write(out) if out else b"") + tls.close():
                raw.write(last)
        if raw is None or raw.is_closing():
            return
        if not self._eof and self._talks_on(raw) and raw.can_write_eof():
            self._linger(raw)
            return
        raw.close()
        # close() waits for ever for a peer that does not read (docs/reference/limits, "unread
        # replies"). The event loop's own TLS waits half a minute for the peer's close_notify.
        if raw.get_write_buffer_size():
            self._cut_off_later()
        elif self._tls_protocol and self._tls is None:
            self._cut_off_later(CLOSE_NOTIFY)

    def _close_without_tls(self, raw: asyncio.Transport) -> None:
        """Close after TLS has failed: at once, or when the peer has read what waits for it."""
        raw.close()
        if raw.get_write_buffer_size():
            self._cut_off_later()

    def _talks_on(self, raw: asyncio.Transport) -> bool:
        """Return True if the client is about to send more: in TLS its close_notify at least."""
        if self._tls is not None:
            return True
        has_sent_more = bool(self._receiver.waiting) or self._reading_paused
        if self._stopping is not None and self.registry is not None and self.registry.is_patient:
            # A command may be on its way while the 421 is.
            has_sent_more = True
        return has_sent_more and raw.get_extra_info("socket") is not None

    @property
    def has_more(self) -> bool:
        """True if the client has sent bytes that are not read yet, such as its next command."""
        return bool(self._receiver.waiting)

    @property
    def is_hung_up(self) -> bool:
        """True after the server has closed the connection, though the client may not have."""
        return self._closing

    def _linger(self, raw: asyncio.Transport) -> None:
        """Close when the client has: a close before that may send a reset after the last reply."""
        # Bytes before the client's end are dropped, but must be read.
        raw.set_protocol(Ciphertext(self))
        with suppress(OSError):
            raw.write_eof()
        self._raw = Finished(self, raw)
        if not raw.is_reading():
            raw.resume_reading()
        self._cut_off_later(CLOSE_NOTIFY)

    def end_output(self) -> None:
        """Send the replies that wait, then a FIN; drop later ones, and serve the client on.

        Raises NotImplementedError if the event loop's transport is in TLS.
        """
        self._flush()
        if (raw := self._raw) is None:
            return
        if raw.can_write_eof():
            self._raw = Finished(self, raw)
        raw.write_eof()

    # The driver.

    async def _handle_client(self) -> None:
        try:
            # It has begun: no more commands run without it until it rests.
            self._at_rest = self._wakeup.waiting = False
            if not self._is_greeted:
                await self._greet()
            is_new = True
            while not self._closing:
                if is_new and self._receiver.waiting:
                    is_new = False
                    # After an EHLO or a STARTTLS without the driver they are not the first bytes.
                    are_first = not (self.session.host_name or self._original_transport)
                    if are_first and self._receiver.starts_with(TLS_HANDSHAKE):
                        # A client that begins with a TLS handshake on a port without TLS.
                        self.disconnect(replies.TLS_ON_PLAIN_PORT)
                        break
                # Wait here: in _run_commands() a suspended coroutine more would cost 270 bytes
                # per idle connection.
                if await self._run_commands():
                    self._at_rest = not self._receiver.waiting
                    if self._watch is not None:
                        self._watch.verb = ""
                    await self._more()
                    self._at_rest = False
                    if self._tls is not None and self._tls_protocol is None:
                        await upgrade.end_at_rest(self)
                    elif self._eof and not (
                        self._receiver.waiting or self._taken or self._stopping
                    ):
                        # Without an exception, which takes 3 µs.
                        break
        except Disconnected:
            if self._stopping is not None and not self._closing:
                # A pause has ended.
                self.disconnect(self._stopping)
        except Refused as refused:
            # From handle_PROXY.
            self.disconnect(refused.reply)
        except Exception as error:
            # Nothing can be answered here: the greeting failed, or the handling of an error.
            await self.handle_exception(error)
        except GeneratorExit:
            # The program has abandoned the event loop, and nothing can be sent in it.
            self._raw = None
            raise
        finally:
            # Without waking the driver, which runs.
            self._close()

    async def _run_commands(self) -> bool:
        """Run what the client has sent; return False if a command failed, or interrupts."""
        commands, turn_ends = 0, monotonic() + TURN_SECONDS
        try:
            while not (self._closing or self._interrupted):
                if self._taken is not None:
                    (run, argument), self._taken = self._taken, None
                    self._client_is_active = True
                    await run(argument)
                elif not self._receiver.waiting:
                    return True
                else:
                    line = self._receiver.line(self.line_length_limit or LINE_FLOOD)
                    if line is None:
                        return True
                    await self._execute(line)
                commands += 1
                if not self._receiver.waiting:
                    # To wait for the client gives way too. Most messages end here.
                    continue
                if commands >= TURN_COMMANDS or monotonic() >= turn_ends:
                    await self._give_way()
                    commands, turn_ends = 0, monotonic() + TURN_SECONDS
        except Refused as refused:
            await self._answer(refused.reply)
        except LineTooLong:
            if self._watch is not None:
                self._watch.verb = ""
            await self.push(replies.COMMAND_TOO_LONG)
        except LineFlood:
            self.disconnect(replies.LINE_FLOOD)
        except Disconnected:
            raise
        except upgrade.TLSSetupException as error:
            # Report it to handle_exception(); its reply is discarded, the connection is gone.
            self._closing = True
            await self.handle_exception(error)
        except Exception as error:
            await self._answer(await self.handle_exception(error))
        return False

    async def _give_way(self) -> None:
        """Let other connections have their turn, however much this one has sent."""
        if self._stopping is not None and not self._is_in_transaction():
            self.disconnect(self._stopping)
        await asyncio.sleep(0)

    def _more(self) -> Awaitable[None]:
        """Wait until there may be more from the client, all replies sent. Raises Disconnected.

        Not a coroutine: that would cost 200 bytes per idle connection.
        """
        self._flush()
        if self._client_is_active:
            self._client_is_active = False
            self._reset_timeout()
        if self._drained is not None:
            # Data may arrive while writing is paused, without a wake-up: return so that the caller
            # checks the receiver again.
            return self._drained
        if self._stopping is not None and not (self._closing or self._is_in_transaction()):
            self.disconnect(self._stopping)
        if self._closing or self._eof:
            raise Disconnected
        if self._reading_paused and self._raw is not None:
            self._reading_paused = False
            self._raw.resume_reading()
        return self._wakeup

    def data_received(self, data: bytes) -> None:
        """Take plain bytes, and let the driver run if it waits for them."""
        if self._at_rest and self._wakeup.waiting and self._drained is None:
            if (rest := self._take_at_once(data)) is None:
                return
            data = rest
        if data:
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
        if self._closing or self._raw is None:
            # The rest is read and dropped: see _linger().
            return
        self._reading_paused = True
        self._raw.pause_reading()

    def ciphertext_received(self, data: bytes | memoryview) -> None:
        """Take what the socket gave, once TLS has begun."""
        if (tls := self._tls) is None or self._closing:
            return
        if not tls.established:
            tls.feed(data)
            # Now, or after the handshakes of other connections that came before.
            handshakes_of(self.loop).run(self.loop, upgrade.take_step, self)
            return
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            self._break_off(tls, error)
            return
        if plain:
            self.data_received(plain)
        if tls.has_answer and (out := tls.output()) and self._raw is not None:
            # An answer to a renegotiation or to new keys. It waits for no reply.
            if self._drained is None:
                self._raw.write(out)
            else:
                # The client asks for more of them than it reads.
                self._raw.abort()
        if tls.ended and not self._eof:
            # A close_notify is a FIN: the complete commands before it are served.
            self.eof_received()

    def _break_off(self, tls: TLS, error: ssl.SSLError) -> None:
        """End a connection whose TLS has failed, with the alert that says so."""
        self._tls_failure = error
        self._reason = self._reason or f"TLS failed: {error}"
        self._closing = True
        self._out = b""
        raw = self._raw
        assert raw is not None, "no ciphertext comes after connection_lost()"
        if alert := tls.output():
            raw.write(alert)
        self._close_without_tls(raw)
        self._wakeup.wake()

    # Replies.

    async def push(self, status: str | bytes) -> None:
        """Send a reply: *status* as it is and one CRLF.

        Waits only while the peer leaves too much unread. Raises ConnectionResetError if the
        connection is lost.
        """
        if self._lost:
            raise Disconnected
        self._last_status = status
        if isinstance(status, Reply):
            if status.code >= 500:
                self._meter.count_error()
            # Without one more call for the server's own replies, which most are.
            octets = self._octets(status) if self._with_codes else status.octets
        else:
            if status[:1] in ("5", b"5"):
                self._meter.count_error()
            octets = replies.octets(status)
        if self._watch is not None:
            self._watch.reply(self._coded(status))
            if self._closing:
                raise Disconnected
            if self._watch.deliver is not None:
                await self._watch.send_reply(octets, is_whole=isinstance(status, Reply))
                if self._closing:
                    raise Disconnected
                return
        self.send(octets)
        if self._drained is not None:
            await self._drained

    def _coded(self, status: str | bytes) -> str | bytes:
        if self._with_codes and isinstance(status, Reply):
            return replies.with_code(status)
        return status

    def _octets(self, status: str | bytes) -> bytes:
        status = self._coded(status)
        return status.octets if isinstance(status, Reply) else replies.octets(status)

    async def _answer(self, status: Any) -> None:
        """Send what a hook returned, as exactly one reply; a 421 ends the connection."""
        if type(status) is str and len(status) < replies.LINE_OCTETS:
            # Most answers come again and again: remembered, which takes no call.
            reply = replies.known(status)
        else:
            reply = replies.from_hook(status)
        if not self._closing:
            await self.push(reply)
        if reply.code == 421:
            self._end_with(reply)

    def _end_with(self, reply: Reply) -> None:
        """Close the connection after a reply that has been pushed."""
        self._reason = self._reason or reply
        self.disconnect()

    def _timeout_cb(self) -> None:
        """End a connection whose client was silent for too long: RFC 5321 section 4.5.3.2.7."""
        if self._is_before_tls:
            upgrade.give_up(self)
        else:
            self.disconnect(replies.TIMED_OUT)

    @property
    def _is_before_tls(self) -> bool:
        """True while no reply can be sent: TLS is to come, or its handshake goes on."""
        return self._tls_protocol is None and (
            self.tls_from_start is not None or self._tls is not None
        )

    @property
    def session_id(self) -> str:
        """Eight hexadecimal digits, in ``session_id`` of all this connection's log records."""
        if not self._session_id:
            self._session_id = os.urandom(4).hex()
        return self._session_id

    @property
    def _client(self) -> Any:
        """The client's address for log lines; behind a proxy, that of the real client."""
        session = self.session
        if session is None or (session.proxy_data is None and session.xclient is None):
            return None if session is None else session.peer
        return session.client_address

    def _log(self, level: int, message: str, *args: Any, error: Exception | None = None) -> None:
        if log.isEnabledFor(level):
            log.log(level, message, *args, exc_info=error, extra={"session_id": self.session_id})


class _Commitment:
    """The block of :meth:`Connection.committed`: without a generator, which takes ten calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        self._connection._commits += 1

    async def __aexit__(self, *error: object) -> None:
        connection = self._connection
        connection._commits -= 1
        if connection._end_due:
            # The grace period ended in the block: start another, so that the reply can be sent.
            connection._end_soon()
