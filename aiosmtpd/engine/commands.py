"""Commands: the checks before a verb's method is called, and the calls of the handler's hooks."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Coroutine, Iterable
from functools import partial, wraps
from inspect import CO_COROUTINE, isawaitable
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from weakref import proxy

from public import public

from aiosmtpd.engine import auth, diagnostics, fast_path, hooks, upgrade
from aiosmtpd.engine.connection import (
    CLOSED_BY_CLIENT,
    Connection,
    Disconnected,
    OnDemand,
    log,
)
from aiosmtpd.engine.transaction import Transaction
from aiosmtpd.engine.transport import Transport
from aiosmtpd.protocol import networks, paths, replies
from aiosmtpd.protocol.limits import JUNK
from aiosmtpd.protocol.receiver import AUTH_LINE
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import MISSING

if TYPE_CHECKING:
    from aiosmtpd.engine.body import ChunkSource
    from aiosmtpd.engine.observer import Deliver, Sleep, Stage, Watch
    from aiosmtpd.engine.registry import Registry
    from aiosmtpd.protocol.session import Envelope, _Missing
    from aiosmtpd.protocol.settings import CallLimits, Settings

F = TypeVar("F", bound=Callable[..., Any])

BOGUS_LIMIT = 5
ALLOWED_BEFORE_STARTTLS = {"NOOP", "EHLO", "STARTTLS", "QUIT"}

OTHER_PROTOCOLS = {"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS"}
"""HTTP methods. They close the connection: the request's body would be run as SMTP commands."""

NOT_BETWEEN_CHUNKS = {"MAIL", "RCPT", "DATA", "STARTTLS", "AUTH"}
"""Verbs refused between two chunks of BDAT (RFC 3030, section 2)."""

_SECRET = rb"(?i)[^A-Z]*AUTH\s*\S"
"""A line that may have a secret in it: AUTH with anything after it, however it is spelt."""

_full_names: dict[Callable[[], str], str] = {}


def _full_name() -> str:
    """Return the host's full name, looked up once: the resolver may block for long."""
    lookup = socket.getfqdn
    if lookup not in _full_names:
        _full_names[lookup] = lookup()
    return _full_names[lookup]


@public
def syntax(text: str, extended: str | None = None, when: str | None = None) -> Callable[[F], F]:
    """Declare a verb's syntax, for HELP; send the reply of a :exc:`Refused` that its method raises.

    *extended* is added to the syntax if the client has sent EHLO. *when* names an attribute of the
    server: while it is false, the verb is not in HELP.
    """

    def decorate(method: F) -> F:
        @wraps(method)
        async def answered(self: Any, *args: Any) -> None:
            # Catch it here, and not only in the driver: a subclass's code after super() goes on.
            try:
                await method(self, *args)
            except Refused as refused:
                await self._answer(refused.reply)

        answered.__dict__.update(
            __smtp_syntax__=text, __smtp_syntax_extended__=extended, __smtp_syntax_when__=when
        )
        return cast(F, answered)

    return decorate


class Commands(Connection):
    """A connection that calls a method for each verb, and the hooks of the handler."""

    # fmt: off
    __slots__ = (
        "_admitted_host", "_auth_failures_left", "_calls", "_chunks", "_hostname", "_last_hook",
        "_masked", "_told", "_unknown", "event_handler",
    )
    # fmt: on

    _before_tls: ClassVar[set[str]] = ALLOWED_BEFORE_STARTTLS
    command_size_limit = 512
    command_size_limits: ClassVar[dict[str, int]] = {}
    local_part_limit = 0
    expose_exceptions = False
    protocol_family = "SMTP"

    # Of SMTP.
    data_size_limit: int | None
    enable_SMTPUTF8: bool
    tls_context: Any

    AuthLoginUsernameChallenge = "User Name\x00"
    AuthLoginPasswordChallenge = "Password\x00"

    transaction: Transaction = OnDemand(Transaction)  # type: ignore[assignment]
    decode_data: bool = property(  # type: ignore[assignment]
        attrgetter("settings.decode_data"), doc="True if ``envelope.content`` is str."
    )

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        registry: Registry | None,
    ) -> None:
        super().__init__(loop, settings, registry)
        self.event_handler = handler
        self._hostname = settings.hostname
        if settings.line_length_limit is not None:
            self.line_length_limit = settings.line_length_limit
        if settings.command_size_limit is not None:
            self.command_size_limit = settings.command_size_limit
        self._chunks: ChunkSource | None = None
        self._auth_failures_left = settings.limits.max_auth_failures
        self._calls: dict[str, int] | None = None
        # None while it is not among the server's connections, "" if it is not counted by host.
        self._admitted_host: str | None = None
        self._unknown = self._masked = 0
        self._told = False
        self._last_hook = ""

    @property
    def hostname(self) -> str:
        """The name of this server: the keyword ``hostname``, else the host's full name."""
        if self._hostname is None:
            self._hostname = _full_name()
        return self._hostname

    @hostname.setter
    def hostname(self, value: str) -> None:
        self._hostname = value

    @property
    def max_command_size_limit(self) -> int:
        """The largest command size limit, in bytes without the line end."""
        return max(self.command_size_limits.values(), default=self.command_size_limit)

    # Before the first command, and after the last.

    def _shown(self, raw: Any) -> asyncio.Transport:  # pragma: no cover - in the tests on uvloop
        # A STARTTLS of the program's own gives its transport to loop.start_tls(), and uvloop's
        # takes transports of its own alone: docs/howto/migrate.
        method = getattr(type(self), "smtp_STARTTLS", None)
        if not getattr(method, "__module__", "").startswith("aiosmtpd."):
            # The program may write to it or close it: each reply leaves at once. By a proxy, or
            # the connection would hold itself.
            self.send = partial(Connection.send_now, proxy(self))  # type: ignore[method-assign]
            return cast(asyncio.Transport, raw)
        return Transport(self, raw)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone; forget the transaction of a command in ``_taken``."""
        if self._taken is not None:
            self._set_post_data_state()
        super().connection_lost(error)

    async def _greet(self) -> None:
        if not self._knows_its_name():
            try:
                self._hostname = await hooks.in_worker(_full_name)
            except (OSError, RuntimeError):
                # No descriptor or no thread is left for the resolver.
                self._hostname = socket.gethostname()
        if self.settings.proxy_protocol_timeout is not None:
            await self._receive_proxy_header(self.settings.proxy_protocol_timeout)
        if self.registry is not None and self._admitted_host is None:
            self._ask_for_admission(self.registry)
        if self.tls_from_start is not None:
            # handle_DISCONNECT is not called for a client that never came to a session.
            told, self._told = self._told, True
            await upgrade.begin_tls(self, self.tls_from_start)
            self._told = told
        if log.isEnabledFor(logging.DEBUG):
            self._log(logging.DEBUG, "%r connected", self._client)
        await self.welcome()

    def _knows_its_name(self) -> bool:
        """Return True if the server's name need not be looked up: that may take seconds."""
        if self._hostname is None:
            self._hostname = _full_names.get(socket.getfqdn)
        return self._hostname is not None

    def _ask_for_admission(self, registry: Registry) -> None:
        """Count this connection among the server's; raise Refused if there are too many."""
        host = ""
        limits = self.limits
        if limits.max_connections_per_host or limits.max_connection_rate:
            host = networks.host_key(self.session.client_address[0])
        refusal = registry.crowd.admit(host, self._arrived_as, limits, monotonic())
        if refusal is not None:
            # handle_CONNECT is not called, so handle_DISCONNECT is not called either.
            self._told = True
            self._reason = refusal
            registry.refuse(self)
            if self._watch is not None:
                self._watch.tell(self._watch.methods.refused, refusal)
            raise Refused(refusal)
        self._admitted_host = host

    def _leave_registry(self, registry: Registry) -> None:
        super()._leave_registry(registry)
        # Leave only once: ended(), which a stopping server calls, runs this again.
        host, self._admitted_host = self._admitted_host, None
        registry.crowd.leave(host)

    def begin_again(self) -> None:
        """Begin a new session, as if the client had just connected: for XCLIENT."""
        self._begin_session(self.transport)

    async def welcome(self) -> None:
        """Send the greeting, or the answer of ``handle_CONNECT`` in its place."""
        try:
            if self._watch is None and hooks.find(self.event_handler, "handle_CONNECT") is None:
                banner = replies.from_hook(f"220 {self.hostname} {self.settings.ident}")
            else:
                banner = await self._banner()
        except Disconnected:
            raise
        except Refused as refused:
            banner = refused.reply
        except Exception as error:
            banner = replies.from_hook(await self.handle_exception(error))
        # Hold the banner: the driver waits next, and then sends it. This saves a turn of the loop
        # (19 µs).
        self._corked = not self._receiver.waiting
        await self.push(banner)
        self._corked = False
        if banner.code != 220:
            self._end_with(banner)

    async def _banner(self) -> Reply:
        """Ask the observers and ``handle_CONNECT`` for the greeting; raise what they raise."""
        if self._watch is not None:
            await self._before("connect")
        status: Any = MISSING
        if hooks.find(self.event_handler, "handle_CONNECT") is not None:
            status = await self._call_new_hook("CONNECT", *self.session.client_address)
        if status is MISSING:
            status = f"220 {self.hostname} {self.settings.ident}"
        return replies.from_hook(status)

    async def _receive_proxy_header(self, timeout: float) -> None:
        """Read the PROXY header that must come first; a connection without one is closed."""
        trusted = self.settings.proxy_trusted
        self._reset_timeout(timeout)
        # A peer that has reset the connection by now has no address.
        is_unknown = trusted is not None and self.session.peer is None
        if not is_unknown and not networks.holds(trusted, self.session.peer):
            self._reason = "PROXY header from a host that is not trusted"
            raise Disconnected
        while not self._receiver.waiting:
            # A client that leaves now was a probe.
            await self._more()
        data = await self._read_proxy_header()
        self.session.proxy_data = data
        if is_unknown and data.command != 0:
            self._reason = "PROXY header from a host that is not known"
            raise Disconnected
        accepted = data.valid and await self._call_handler_hook("PROXY", data)
        if accepted is MISSING:
            # If there is no hook, accept a header only if the program named the trusted hosts.
            accepted = trusted is not None
        if not accepted:
            self._reason = f"refused: {data.error or 'handle_PROXY'}"
            raise Disconnected
        if is_unknown:
            # LOCAL, a balancer's check: the hook has got it, but its sender may send no mail.
            raise Disconnected
        self._reset_timeout()

    # SMTP overrides these: it may import modules that this module may not.

    async def _read_proxy_header(self) -> Any:
        """Read and return the PROXY header that must come first."""
        raise NotImplementedError

    async def _process_message(self) -> Any:
        """Hand the message to a handler of an old form; return MISSING for every other handler."""
        raise NotImplementedError

    def _tls_established(self) -> Coroutine[Any, Any, None] | None:
        hook = hooks.find(self.event_handler, "handle_STARTTLS")
        return None if hook is None else self._ask_of_tls(hook)

    async def _ask_of_tls(self, hook: hooks.Hook) -> None:
        self._tls_handshake_okay = False
        try:
            okay = hook(self, self.session, self.envelope)
            self._tls_handshake_okay = bool(await okay if isawaitable(okay) else okay)
        except Exception as error:
            # No command waits for a reply now; those that come later are refused.
            await self.handle_exception(error)

    def _blocked(self, seconds: float) -> None:
        if self._last_hook:
            hook = f"handle_{self._last_hook}"
            diagnostics.warn_of_blocking(type(self.event_handler), hook, seconds)

    def _farewell(self) -> Coroutine[Any, Any, None] | None:
        told, self._told = self._told, True
        if told or hooks.find(self.event_handler, "handle_DISCONNECT") is None:
            return None
        return self._tell_of_end()

    async def _tell_of_end(self) -> None:
        try:
            await self._call_new_hook("DISCONNECT", self._reason)
        except Exception as error:
            message = "%r handle_DISCONNECT failed"
            self._log(logging.ERROR, message, self._client, error=error)

    def _timeout_cb(self) -> None:
        if self.settings.proxy_protocol_timeout is not None and self.session.proxy_data is None:
            # Not SMTP yet: a proxy gets no reply.
            self._reason = "the PROXY header is late"
            self.disconnect()
        else:
            super()._timeout_cb()

    def _is_probe(self) -> bool:
        # A balancer's check: it leaves before its header, or sends no MAIL after LOCAL.
        if self.settings.proxy_protocol_timeout is None or "transaction" in vars(self):
            return False
        proxied = self.session.proxy_data
        if proxied is None:
            return self._eof and self._reason == CLOSED_BY_CLIENT
        return bool(proxied.command == 0)

    def _is_in_transaction(self) -> bool:
        # The session's end is the last that a timer may ask for: it waits for nothing.
        return (
            self.session is not None
            and self._stopping is not replies.TIMED_OUT
            and self.envelope.mail_from is not None
        )

    # A command.

    async def _execute(self, line: bytes) -> None:
        if self._watch is not None:
            self._tell_line(self._watch, line)
        try:
            verb, arg = self._split(line)
            if log.isEnabledFor(logging.DEBUG):
                self._log_command(line, verb, arg)
            self._last_hook = ""
            if self._masked:
                self._masked -= 1
            if not self._tls_handshake_okay and verb != "QUIT":
                raise self._unread(verb, replies.LACK_OF_SECURITY)
            if self.settings.require_starttls and not (
                self.mail_is_allowed or verb in self._before_tls
            ):
                raise self._unread(verb, replies.NEED_STARTTLS)
            if verb in JUNK:
                self._meter.count_junk()
            if (farewell := self._meter.farewell) is not None and verb != "QUIT":
                self.disconnect(farewell)
                return
            call_limits = self.settings.command_call_limit
            if call_limits is not None and self._used_up(verb, call_limits):
                self._reason = "421 4.7.0 command_call_limit"
                self.disconnect(replies.sent_too_many_times(verb))
                return
            if self._chunks is not None and verb in NOT_BETWEEN_CHUNKS:
                raise Refused(replies.BETWEEN_CHUNKS)
            method = self._find_verb(verb)
            if method is None:
                self._refuse_unknown(verb)
                return
            try:
                await method(arg)
            finally:
                self._client_is_active = True
        except Refused:
            if re.match(_SECRET, line):
                self._masked = auth.LINES_AFTER
            raise

    @property
    def mail_is_allowed(self) -> bool:
        """True unless the client has to send STARTTLS first."""
        return not self.settings.require_starttls or bool(self._tls_protocol)

    def _tell_line(self, watch: Watch, line: bytes) -> None:
        """Tell the observers of a line, even if it is not a command."""
        verb = line.replace(b"\t", b" ").partition(b" ")[0].decode("ascii", "replace").upper()
        secret = bool(self._masked) or re.match(_SECRET, line) is not None
        # Name only verbs that exist: another word may be a secret, and clients can send any number.
        watch.line(verb if self._find_verb(verb) is not None else "", line, secret)

    def _log_command(self, line: bytes, verb: str, arg: str | None) -> None:
        name, shown = replies.escape(verb), arg
        if self._masked or re.match(_SECRET, line):
            # A verb that is not AUTH may be the secret, or have it in it.
            name = name if verb == "AUTH" and not self._masked else "********"
            shown = "********"
        self._log(logging.DEBUG, "%r sent %s %r", self._client, name, shown)

    def _split(self, line: bytes) -> tuple[str, str | None]:
        """Return verb and argument of a command line; raise Refused if there is no verb.

        A blank or a tab ends the verb, and those around the argument are dropped: RFC 5321 section
        4.1.1 wants those at the end of the line tolerated.
        """
        if not line:
            raise Refused(replies.BAD_SYNTAX)
        text = line.decode("utf-8", "surrogateescape")
        word, _, arg = text.partition(" ")
        if "\t" in word:
            word, _, arg = text.partition("\t")
        verb = word.upper()
        if not text.isascii():
            if not word.isascii():
                raise Refused(replies.BAD_SYNTAX)
            if not self.settings.enable_SMTPUTF8:
                raise self._unread(verb, replies.NOT_ASCII)
        if (len(line) > self.command_size_limit or self.command_size_limits) and len(
            line
        ) > self._size_limit_of(verb):
            raise self._unread(verb, replies.COMMAND_TOO_LONG)
        return verb, arg.strip() or None

    def _unread(self, verb: str, reply: Reply) -> Exception:
        """Return the exception that refuses a command before parsing it.

        If the command is BDAT, close the connection: its chunk would be read as commands.
        """
        if verb == "BDAT" and verb in self.settings.extensions.verbs:
            self.disconnect(reply)
            return Disconnected()
        return Refused(reply)

    def _size_limit_of(self, verb: str) -> int:
        if not self.session.extended_smtp:
            return self.command_size_limit
        usual = AUTH_LINE if verb == "AUTH" else self.command_size_limit
        limit = self.command_size_limits.get(verb, usual)
        return limit + self.settings.extensions.growth(verb, self)

    def _used_up(self, verb: str, limits: CallLimits) -> bool:
        """Count a verb; return True if it came more often than ``command_call_limit`` allows."""
        if self._calls is None:
            self._calls = {}
        self._calls[verb] = self._calls.get(verb, 0) + 1
        return self._calls[verb] > limits["by_verb"].get(verb, limits["others"])

    def _find_verb(self, verb: str) -> Callable[[str | None], Any] | None:
        """Return the method of a verb, found late: it may be replaced at any time."""
        method: Callable[[str | None], Any] | None = getattr(self, "smtp_" + verb, None)
        if method is None and (extension := self.settings.extensions.verbs.get(verb)) is not None:
            return lambda arg: extension(self, arg)
        return method

    def _refuse_unknown(self, verb: str) -> None:
        if verb in OTHER_PROTOCOLS:
            self.disconnect(replies.NOT_SMTP)
            return
        self._unknown += 1
        if self._unknown >= BOGUS_LIMIT:
            self.disconnect(replies.TOO_MANY_UNKNOWN)
            return
        raise Refused(replies.not_recognized(verb))

    _greet_at_once = fast_path.greet
    _take_at_once = fast_path.take

    def _switch_to_tls(self) -> bool:
        return upgrade.begin_in_fast_path(self, self.tls_context)

    def _syntaxes(self) -> dict[str, str]:
        """Return the syntax of each verb, by name, for HELP."""
        found: dict[str, str] = {}
        for name in hooks.names(self, "smtp_"):
            verb, method = name.removeprefix("smtp_"), getattr(self, name)
            text = getattr(method, "__smtp_syntax__", None)
            when = getattr(method, "__smtp_syntax_when__", None)
            if text is not None:
                if not when or getattr(self, when):
                    extended = (
                        getattr(method, "__smtp_syntax_extended__", None)
                        if self.session.extended_smtp
                        else ""
                    )
                    found[verb] = text + (extended or "")
            elif not getattr(method, "__module__", "").startswith("aiosmtpd."):
                # A subclass's own verb: its docstring's first line, else its name.
                found[verb] = next(iter((method.__doc__ or verb).strip().splitlines()), verb)
        return found

    async def check_helo_needed(self, helo: str = "HELO") -> bool:
        """If the client has not greeted yet, refuse the command and return True."""
        if not self.session.host_name:
            await self.push(replies.NEED_HELO if helo == "HELO" else replies.NEED_EHLO)
            return True
        return False

    async def check_auth_needed(self, caller: str) -> bool:
        """If AUTH must come first, refuse the command and return True; *caller* is not used."""
        if self.settings.auth_required and not self.session.authenticated:
            await self.push(replies.NEED_AUTH)
            return True
        return False

    # Parsing of arguments: programs override and call these methods.

    def _strip_command_keyword(self, keyword: str, arg: str) -> str | None:
        """Return the text after *keyword* (``FROM:``, in any case), or None."""
        length = len(keyword)
        return arg[length:].strip() if arg[:length].upper() == keyword else None

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Return the address that *arg* begins with and the text after it, or None and None."""
        try:
            return paths.parse(arg, self.local_part_limit)
        except paths.MalformedPath:
            return None, None

    def _getparams(self, params: Iterable[str]) -> dict[str, str | bool] | None:
        """Return parameters by upper-case keyword; None if they are malformed.

        The value of a parameter without ``=`` is True.
        """
        given = paths.parameters(params)
        if given is None:
            return None
        return {key: True if value is None else value for key, value in given.items()}

    # Parts of AUTH: programs override and call these methods.

    async def challenge_auth(
        self,
        challenge: str | bytes,
        encode_to_b64: bool = True,
        log_client_response: bool = False,
    ) -> bytes | _Missing:
        """Send a challenge and return the client's answer, decoded from base64.

        Returns MISSING if there is no usable answer. The client has then got a reply: ``501 5.7.0``
        if it cancelled, ``501 5.5.2`` if the answer was not base64, 500 if it had more than 12,288
        bytes. *log_client_response* logs the answer at DEBUG, and warns: do not use it if that is a
        secret.
        """
        if log_client_response:
            warnings.warn("AUTH interaction logging is enabled!", stacklevel=2)
            warnings.warn("Sensitive information might be leaked!", stacklevel=2)
        return await auth.challenge(self, challenge, encode_to_b64, log_client_response)

    @property
    def starttls_offered(self) -> bool:
        """True if there is a TLS context and no TLS yet."""
        return bool(self.settings.tls_context) and not self._tls_protocol

    def offer_of_auth(self, *, vain: bool = True) -> str | None:
        """Return the EHLO line of AUTH, or None if it is not offered now.

        If *vain* is false, PLAIN and LOGIN are offered only if something can check passwords: an
        authenticator, a callback or ``handle_AUTH``.
        """
        return auth.offer(self, vain=vain)

    # Parts of a transaction that LMTP and subclasses override.

    async def _answer_data(self, status: Any, envelope: Envelope) -> None:
        """Send the reply to a message; LMTP overrides this."""
        await self._answer(status)

    async def _replies_for(self, status: Any, recipients: int) -> list[Reply]:
        """Return the replies to a message: one, but in LMTP one for each of the *recipients*."""
        try:
            return [replies.from_hook(status)]
        except ValueError as error:
            return [replies.from_hook(await self.handle_exception(error))]

    async def _before_message(self, envelope: Envelope) -> None:
        """Ask the observers before a message is handed over; raise Refused as they do."""
        await self._before("end-of-data")

    def _set_post_data_state(self) -> None:
        """Forget the transaction that has ended."""
        self._renew_envelope()

    def _set_rset_state(self) -> None:
        """Forget the transaction that the client gave up."""
        self._renew_envelope()
        if self._chunks is not None:
            self._chunks.give_up()
            self._interrupted = True

    # Hooks and observers.

    async def _before(self, stage: Stage, argument: Any = None) -> None:
        """Ask the observers before a stage; raise Refused or Disconnected if one asks for it."""
        if self._watch is not None and self._watch.methods.before:
            await self._watch.before(stage, argument)
            if self._closing:
                raise Disconnected

    def wrap_next_reply(self, deliver: Deliver) -> None:
        """Let *deliver* send the next reply: for the ``before`` of an observer.

        It is a coroutine function that gets the bytes of the whole reply. It sends all of them or
        some, by :meth:`send` or :meth:`send_now`, and may pause and disconnect. It does not get the
        challenges of AUTH. If this method is called again, the last call counts.
        """
        if self._watch is not None:
            self._watch.deliver = deliver

    async def pause(self, seconds: float, *, sleep: Sleep = asyncio.sleep) -> None:
        """Wait on purpose: for an observer that makes a client slow.

        If the client goes, or the server stops, the pause ends with a ConnectionResetError, which
        ends the connection. *sleep*, a coroutine function of seconds, is for tests.
        """
        if self._lost or self._stopping is not None:
            raise Disconnected
        if self._watch is None:
            await sleep(seconds)
        else:
            await self._watch.pause(seconds, sleep)

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        """Call the handler's hook of a command; return MISSING if it has none."""
        handler = self.event_handler
        if hasattr(handler, "__getattr__"):
            hook = hooks.find(handler, "handle_" + command)
        else:
            # Most handlers have no __getattr__: this saves a call.
            hook = getattr(handler, "handle_" + command, None)
        if hook is None:
            return MISSING
        self._last_hook = command
        arguments = (self, self.session, self.envelope, *args)
        if getattr(hook, "__code__", hooks.PLAIN).co_flags & CO_COROUTINE:
            # Most hooks are coroutine functions: this saves a call and a coroutine.
            called = hook(*arguments)
        else:
            called = hooks.call(handler, hook, *arguments)
        try:
            seconds = self.settings.limits.handler_timeout
            if seconds is None or command == "BODY":
                return await called
            return await self._in_time(called, command, seconds)
        except asyncio.CancelledError as error:
            hooks.raise_if_foreign(error, f"handle_{command}")
            raise

    async def _call_new_hook(self, command: str, *args: Any) -> Any:
        """Call a hook that is newer than 1.4.

        Programs for 1.4 override ``_call_handler_hook`` to record the commands. Their override does
        not get this hook.
        """
        return await Commands._call_handler_hook(self, command, *args)

    async def _in_time(self, called: Coroutine[Any, Any, Any], command: str, seconds: float) -> Any:
        """Return the answer of a hook; raise Refused if it takes longer."""
        try:
            async with asyncio.timeout(seconds) as limit:
                return await called
        except TimeoutError:
            if not limit.expired():
                raise
        message = "%r handle_%s took longer than %g s and was cancelled"
        self._log(logging.ERROR, message, self._client, command, seconds)
        raise Refused(replies.HANDLER_TOO_SLOW)

    async def handle_exception(self, error: Exception) -> str:
        """Return the reply to a command that raised *error*: the hook's, or that of the server.

        The usual reply of the server, 451, has a reference. The log has the traceback with the same
        reference.
        """
        hook = hooks.find(self.event_handler, "handle_exception")
        try:
            if hook is not None:
                return replies.from_hook(await hooks.call(self.event_handler, hook, error))
        except Exception as another:
            error = another
        if isinstance(error, upgrade.TLSSetupException):
            return replies.TLS_NOT_AVAILABLE
        reference = os.urandom(4).hex()
        message = "%r internal error (ref %s)"
        self._log(logging.ERROR, message, self._client, reference, error=error)
        if self.expose_exceptions:
            return replies.from_hook(f"500 Error: ({type(error).__name__}) {error}")
        return replies.internal_error(reference)


hooks.ENGINE = Commands.__mro__
