"""From a command line to a call: the guards before a verb's method, and the replies behind it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from inspect import isawaitable
from time import monotonic
from typing import Any, ClassVar

from aiosmtpd.engine import diagnostics as advice, hooks
from aiosmtpd.engine.compat import Facades
from aiosmtpd.engine.connection import Disconnected, TLSSetupException, log
from aiosmtpd.engine.registry import Shared
from aiosmtpd.engine.worker import in_worker
from aiosmtpd.protocol import networks, replies
from aiosmtpd.protocol.extensions import ExtensionTable
from aiosmtpd.protocol.limits import JUNK, Limits
from aiosmtpd.protocol.networks import Networks
from aiosmtpd.protocol.receiver import AUTH_LINE
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import MISSING

BOGUS_LIMIT = 5

CALL_LIMIT_DEFAULT = 20
ALLOWED_BEFORE_STARTTLS = {"NOOP", "EHLO", "STARTTLS", "QUIT"}

OTHER_PROTOCOLS = {"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS"}
"""What a browser begins with: the rest of its request is not to be run (limits.md L19)."""

NOT_BETWEEN_CHUNKS = {"MAIL", "RCPT", "DATA", "STARTTLS", "AUTH"}
"""Verbs that would change what a message in chunks is about: RFC 3030 section 2, limits.md L32."""

_full_names: dict[Callable[[], str], str] = {}


def _full_name() -> str:
    """Return the host's full name, looked up once: the resolver may block for long."""
    lookup = socket.getfqdn
    if lookup not in _full_names:
        _full_names[lookup] = lookup()
    return _full_names[lookup]


class Commands(Facades):
    """A connection on which verbs are methods and a handler's hooks are called."""

    # fmt: off
    __slots__ = (
        "__ident__", "_admitted_host", "_call_limits",
        "_chunks", "_extensions", "_hostname", "_last_hook", "_masked", "_proxy_timeout",
        "_proxy_trusted", "_told", "_unknown", "enable_SMTPUTF8", "event_handler",
        "require_starttls",
    )
    # fmt: on

    _before_tls: ClassVar[set[str]] = ALLOWED_BEFORE_STARTTLS
    command_size_limit = 512
    command_size_limits: ClassVar[dict[str, int]] = {}
    expose_exceptions = False

    event_handler: Any
    enable_SMTPUTF8: bool
    require_starttls: bool
    __ident__: str
    _hostname: str | None
    _extensions: ExtensionTable
    _proxy_timeout: float | None
    _proxy_trusted: Networks | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        shared: Shared | None,
        limits: Limits,
        call_limit: int | dict[str, int] | None,
    ) -> None:
        super().__init__(loop, timeout, shared, limits)
        self._admitted_host = ""
        self._unknown = 0
        self._told = False
        self._chunks: Any = None
        self._last_hook = ""
        self._masked = 0
        self._limit_calls(call_limit)

    @property
    def hostname(self) -> str:
        """What the server calls itself: the ``hostname`` given, else the host's full name."""
        if self._hostname is None:
            self._hostname = _full_name()
        return self._hostname

    @hostname.setter
    def hostname(self, value: str) -> None:
        self._hostname = value

    @property
    def max_command_size_limit(self) -> int:
        """The largest command size limit, in octets without the line end."""
        return max(self.command_size_limits.values(), default=self.command_size_limit)

    async def _greet(self) -> None:
        if self._hostname is None:
            self._hostname = _full_names.get(socket.getfqdn)
        if self._hostname is None:
            try:
                self._hostname = await in_worker(_full_name)
            except (OSError, RuntimeError):
                # No descriptor or no thread is left for the resolver.
                self._hostname = socket.gethostname()
        if self._proxy_timeout is not None:
            await self._receive_proxy_header(self._proxy_timeout)
        if self.shared is not None:
            self._ask_for_admission(self.shared)
        self._log(logging.DEBUG, "%r connected", self.session.peer)
        await self.welcome()

    def _ask_for_admission(self, shared: Shared) -> None:
        """Count this connection among the server's; raises Refused where there are too many."""
        host = ""
        limits = self.limits
        if limits.max_connections_per_host or limits.max_connection_rate:
            host = networks.host_key(self.session.client_address[0])
        refusal = shared.crowd.admit(host, len(shared.connections), limits, monotonic())
        if refusal is not None:
            # handle_CONNECT is not called, so that handle_DISCONNECT is not either.
            self._told = True
            self._reason = refusal
            raise Refused(refusal)
        self._admitted_host = host

    def _leave_shared(self, shared: Shared) -> None:
        super()._leave_shared(shared)
        # Once: a server that stops asks too whether the connection has ended.
        host, self._admitted_host = self._admitted_host, ""
        shared.crowd.leave(host)

    def begin_again(self) -> None:
        """Forget all that the client said, as after connecting; for XCLIENT."""
        self._begin_session(self.transport)

    async def welcome(self) -> None:
        """Send the greeting, or what ``handle_CONNECT`` says in its place."""
        banner = await self._banner()
        # The driver waits next, which sends this: no turn of the loop is needed for it (19 µs).
        self._corked = not len(self._receiver)
        await self.push(banner)
        self._corked = False
        if banner.code != 220:
            self._end_with(banner)

    async def _banner(self) -> Reply:
        """Return the greeting, or what ``handle_CONNECT`` says in its place."""
        try:
            status = await self._call_handler_hook("CONNECT", *self.session.client_address)
            if status is MISSING:
                status = f"220 {self.hostname} {self.__ident__}"
            return replies.from_hook(status)
        except Disconnected:
            raise
        except Refused as refused:
            return refused.reply
        except Exception as error:
            return replies.from_hook(await self.handle_exception(error))

    async def _tls_established(self) -> None:
        hook = hooks.find(self.event_handler, "handle_STARTTLS")
        if hook is None:
            return
        self._tls_handshake_okay = False
        try:
            okay = hook(self, self.session, self.envelope)
            self._tls_handshake_okay = bool(await okay if isawaitable(okay) else okay)
        except Exception as error:
            # The client has not asked anything yet: its commands will be refused.
            await self.handle_exception(error)

    def _blocked(self, seconds: float) -> None:
        if self._last_hook:
            advice.warn_of_blocking(type(self.event_handler), f"handle_{self._last_hook}", seconds)

    def _farewell(self) -> Coroutine[Any, Any, None] | None:
        told, self._told = self._told, True
        if told or hooks.find(self.event_handler, "handle_DISCONNECT") is None:
            return None
        return self._tell_of_end()

    async def _tell_of_end(self) -> None:
        try:
            await self._call_handler_hook("DISCONNECT", self._reason)
        except Exception as error:
            message = "%r handle_DISCONNECT failed"
            self._log(logging.ERROR, message, self.session.peer, error=error)

    async def _execute(self, line: bytes) -> None:
        verb, arg = self._split(line)
        if log.isEnabledFor(logging.DEBUG):
            self._log_command(verb, arg)
        self._last_hook = ""
        if self._masked:
            self._masked -= 1
        if not self._tls_handshake_okay and verb != "QUIT":
            raise self._unread(verb, replies.LACK_OF_SECURITY)
        if self.require_starttls and not self._tls_protocol and verb not in self._before_tls:
            raise self._unread(verb, replies.NEED_STARTTLS)
        if verb in JUNK:
            self._meter.count_junk()
        if (farewell := self._meter.farewell) is not None and verb != "QUIT":
            self.disconnect(farewell)
            return
        if self._call_limits is not None and self._used_up(verb, *self._call_limits):
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

    def _log_command(self, verb: str, arg: str | None) -> None:
        name, shown = replies.escape(verb), "********" if verb == "AUTH" and arg else arg
        if self._masked:
            name = shown = "********"
        self._log(logging.DEBUG, "%r sent %s %r", self.session.peer, name, shown)

    def _split(self, line: bytes) -> tuple[str, str | None]:
        """Return verb and argument of a command line; raises Refused."""
        if not line:
            raise Refused(replies.BAD_SYNTAX)
        try:
            word, _, arg = line.decode("ascii").partition(" ")
        except UnicodeDecodeError:
            word, _, arg = line.decode("utf-8", "surrogateescape").partition(" ")
            if not word.isascii():
                raise Refused(replies.BAD_SYNTAX) from None
            if not self.enable_SMTPUTF8:
                raise self._unread(word.upper(), replies.NOT_ASCII) from None
        verb = word.upper()
        if (len(line) > self.command_size_limit or self.command_size_limits) and len(
            line
        ) > self._size_limit_of(verb):
            raise self._unread(verb, replies.COMMAND_TOO_LONG)
        return verb, arg.strip() or None

    def _unread(self, verb: str, reply: Reply) -> Exception:
        """Return what refuses a command unread: behind BDAT come octets that nobody has counted."""
        if verb == "BDAT" and verb in self._extensions.verbs:
            self.disconnect(reply)
            return Disconnected()
        return Refused(reply)

    def _size_limit_of(self, verb: str) -> int:
        if not self.session.extended_smtp:
            return self.command_size_limit
        usual = AUTH_LINE if verb == "AUTH" else self.command_size_limit
        limit = self.command_size_limits.get(verb, usual)
        return limit + self._extensions.growth(verb, self)

    def _used_up(
        self, verb: str, limits: dict[str, int], default: int, counts: dict[str, int]
    ) -> bool:
        counts[verb] = counts.get(verb, 0) + 1
        return counts[verb] > limits.get(verb, default)

    def _find_verb(self, verb: str) -> Callable[[str | None], Any] | None:
        """Return the method of a verb, found late: it may be replaced at any time."""
        method: Callable[[str | None], Any] | None = getattr(self, "smtp_" + verb, None)
        if method is None and (of_extension := self._extensions.verbs.get(verb)) is not None:
            return lambda arg: of_extension(self, arg)
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

    async def handle_exception(self, error: Exception) -> str:
        """Return the reply to a command that raised *error*, by the handler's hook or our own.

        The client learns a reference, the log the traceback under the same reference.
        """
        hook = hooks.find(self.event_handler, "handle_exception")
        try:
            if hook is not None:
                return replies.from_hook(await hooks.call(self.event_handler, hook, error))
        except Exception as another:
            error = another
        if isinstance(error, TLSSetupException):
            return replies.TLS_NOT_AVAILABLE
        reference = os.urandom(4).hex()
        message = "%r internal error (ref %s)"
        self._log(logging.ERROR, message, self.session.peer, reference, error=error)
        if self.expose_exceptions:
            return replies.from_hook(f"500 Error: ({type(error).__name__}) {error}")
        return replies.internal_error(reference)

    async def _receive_proxy_header(self, timeout: float) -> None:
        """Read the PROXY header that must come first; a connection without one is closed."""
        from aiosmtpd.proxy_protocol import get_proxy  # seldom needed

        self._reset_timeout(timeout)
        if not networks.holds(self._proxy_trusted, self.session.peer):
            self._reason = "PROXY header from a host that is not trusted"
            raise Disconnected
        data = await get_proxy(self._reader)
        self.session.proxy_data = data
        accepted = data.valid and await self._call_handler_hook("PROXY", data)
        if not accepted or accepted is MISSING:
            self._reason = f"refused: {data.error or 'handle_PROXY'}"
            raise Disconnected
        self._reset_timeout()

    def _syntaxes(self) -> dict[str, str]:
        """Return what HELP tells: the syntax of each verb, by name."""
        found: dict[str, str] = {}
        for verb, method in self._smtp_methods.items():
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

    def _timeout_cb(self) -> None:
        if self._proxy_timeout is not None and self.session.proxy_data is None:
            # Not SMTP yet: a proxy is told nothing.
            self._reason = "the PROXY header is late"
            self.disconnect()
        else:
            super()._timeout_cb()

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        """Call the handler's hook of a command; MISSING where it has none."""
        hook = hooks.find(self.event_handler, "handle_" + command)
        if hook is None:
            return MISSING
        self._last_hook = command
        handler, args = self.event_handler, (self, self.session, self.envelope, *args)
        # A coroutine less for hooks that are coroutines, which most are.
        called = hook(*args) if hooks.is_async(hook) else hooks.call(handler, hook, *args)
        if self.limits.handler_timeout is None or command == "BODY":
            return await called
        return await self._in_time(called, command, self.limits.handler_timeout)

    async def _in_time(self, called: Coroutine[Any, Any, Any], command: str, seconds: float) -> Any:
        """Return what a hook returns; raises Refused where it takes longer."""
        try:
            async with asyncio.timeout(seconds) as limit:
                return await called
        except TimeoutError:
            if not limit.expired():
                raise
        message = "%r handle_%s took longer than %g s and was cancelled"
        self._log(logging.ERROR, message, self.session.peer, command, seconds)
        raise Refused(replies.HANDLER_TOO_SLOW)

    def _limit_calls(self, limit: Any) -> None:
        """Note how often each verb may be used; raises TypeError for what is no limit."""
        # The limits by verb, that of other verbs, and the counts: for most connections none.
        self._call_limits: tuple[dict[str, int], int, dict[str, int]] | None = None
        if isinstance(limit, int):
            self._call_limits = {}, limit, {}
        elif isinstance(limit, dict):
            if not all(isinstance(value, int) for value in limit.values()):
                raise TypeError("All command_call_limit values must be int")
            self._call_limits = limit, limit.get("*", CALL_LIMIT_DEFAULT), {}
        elif limit is not None:
            raise TypeError("command_call_limit must be int or Dict[str, int]")
