"""The SMTP server: one instance for each connection, one method for each verb.

Read from top to bottom: the constructor, then the commands in the order in which a client sends
them (RFC 5321).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Unpack

from public import public

from aiosmtpd._version import __version__ as __version__
from aiosmtpd.engine import arguments, auth, compat, diagnostics, fast_path, loops, transaction
from aiosmtpd.engine.arguments import MAIL_SYNTAX, RCPT_SYNTAX
from aiosmtpd.engine.auth import (
    VALID_AUTHMECH as VALID_AUTHMECH,
    auth_mechanism as auth_mechanism,
    login_always_fail as login_always_fail,
)
from aiosmtpd.engine.body import (
    BodyStream as BodyStream,
    IncompleteBody as IncompleteBody,
)
from aiosmtpd.engine.callables import handler_of
from aiosmtpd.engine.commands import (
    ALLOWED_BEFORE_STARTTLS as ALLOWED_BEFORE_STARTTLS,
    BOGUS_LIMIT as BOGUS_LIMIT,
    Commands,
    syntax as syntax,
)
from aiosmtpd.engine.connection import log as log
from aiosmtpd.engine.observer import Observer as Observer, TakenMessage as TakenMessage
from aiosmtpd.engine.registry import Registry as Registry
from aiosmtpd.engine.upgrade import TLSSetupException as TLSSetupException, start_tls
from aiosmtpd.legacy import forms
from aiosmtpd.legacy.forms import (
    CLIENT_AUTH_B as CLIENT_AUTH_B,
    sanitize as sanitize,
    sanitized_log as sanitized_log,
)
from aiosmtpd.protocol import paths, replies
from aiosmtpd.protocol.extensions import CLASSIC as CLASSIC, Extension as Extension
from aiosmtpd.protocol.limits import Limits as Limits
from aiosmtpd.protocol.replies import Refused as Refused, Reply as Reply
from aiosmtpd.protocol.session import (
    MISSING as MISSING,
    AuthResult as AuthResult,
    Envelope as Envelope,
    LoginPassword as LoginPassword,
    Recipient as Recipient,
    Session as Session,
    _Missing as _Missing,
)
from aiosmtpd.protocol.settings import (
    CALL_LIMIT_DEFAULT as CALL_LIMIT_DEFAULT,
    DATA_SIZE_DEFAULT as DATA_SIZE_DEFAULT,
    IDENT,
    Settings as Settings,
    SMTPKeywords as SMTPKeywords,
)
from aiosmtpd.sasl.exchange import Login, Plain

if TYPE_CHECKING:
    from aiosmtpd.protocol.modern import (
        ALL as ALL,
        MODERN as MODERN,
        DeliverBy as DeliverBy,
        OriginalRecipient as OriginalRecipient,
        ValidSince as ValidSince,
    )
    from aiosmtpd.protocol.xclient import xclient as xclient, xforward as xforward
    from aiosmtpd.proxy_protocol import ProxyData
else:

    def __getattr__(name: str) -> object:
        """Import the names of extensions that 1.4 did not have only when they are asked for."""
        from aiosmtpd.protocol import modern, xclient

        if name in {"ALL", "MODERN", "DeliverBy", "OriginalRecipient", "ValidSince"}:
            return getattr(modern, name)
        if name in {"xclient", "xforward"}:
            return getattr(xclient, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


AuthCallbackType = Callable[[str, bytes, bytes], bool]
AuthenticatorType = Callable[
    ["SMTP", Session, Envelope, str, Any], AuthResult | bool | Awaitable[AuthResult | bool]
]
AuthMechanismType = Callable[["SMTP", list[str]], Awaitable[Any]]

__ident__ = IDENT
public(
    __version__=__version__,
    AuthCallbackType=AuthCallbackType,
    AuthMechanismType=AuthMechanismType,
    MISSING=MISSING,
    Envelope=Envelope,
    Extension=Extension,
    LoginPassword=LoginPassword,
    Observer=Observer,
    Refused=Refused,
    Reply=Reply,
    Session=Session,
    TakenMessage=TakenMessage,
    TLSSetupException=TLSSetupException,
    auth_mechanism=auth_mechanism,
    sanitize=sanitize,
    sanitized_log=sanitized_log,
    syntax=syntax,
)


def make_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, or the one that was set for this thread if none runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return loops.current_or_new_loop()


@public
class SMTP(Commands):
    """The server's side of one SMTP connection; the handler's hooks decide about mail.

    The keywords are those of :class:`SMTPKeywords`. A factory that makes many connections may pass
    *settings* instead: keywords that are validated already. *registry* counts and ends the
    connections of one server. Raises TypeError for an unknown keyword, and ValueError or TypeError
    for a value that is not allowed.
    """

    __slots__ = ()

    def __init__(
        self,
        handler: Any,
        *,
        settings: Settings | None = None,
        registry: Registry | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        **keywords: Unpack[SMTPKeywords],
    ) -> None:
        if settings is None:
            settings = Settings.of(keywords)
            if settings.is_notable:
                diagnostics.look_at_settings(type(self), settings)
        elif keywords:
            raise TypeError("SMTP() takes settings or keywords, not both")
        if loop is None:
            loop = make_loop()
        if callable(handler):
            handler = handler_of(handler)
        super().__init__(handler, loop, settings, registry)
        if type(handler) is not diagnostics.latest():
            diagnostics.look_over(self)
        # A mock would have the hook from then on.
        if hasattr(handler, "__getattr__") or hasattr(handler, "handle_EHLO"):
            forms.look_over(self.event_handler)

    def mail_syntax(self) -> Reply:
        """Return the 501 reply that shows the syntax of MAIL."""
        return arguments.path_syntax(self, MAIL_SYNTAX)

    def trace_fields(self, session: Session, envelope: Envelope) -> bytes:
        """Return Return-Path and Received for a message, with CRLFs: RFC 5321 section 4.4."""
        return transaction.trace_fields(self, session, envelope)

    async def receive_chunk(self, arg: str | None) -> None:
        """Take a chunk of BDAT: RFC 3030 section 2."""
        await self.transaction.receive_chunk(arg)

    async def _read_proxy_header(self) -> ProxyData:
        from aiosmtpd.proxy_protocol import get_proxy  # seldom needed

        return await get_proxy(compat.Reader(self))

    async def _process_message(self) -> Any:
        return await forms.process_message(self)

    # Greeting.

    async def _before_greeting(self, hostname: str) -> None:
        try:
            await self._before("ehlo", hostname)
        except Refused:
            self.session.host_name = None
            raise

    @syntax("HELO hostname")
    async def smtp_HELO(self, hostname: str | None) -> None:
        """RFC 5321 section 4.1.1.1."""
        if not hostname:
            raise Refused(replies.syntax_of("HELO hostname", ""))
        self._set_rset_state()
        self.session.extended_smtp = self._with_codes = False
        await self._before_greeting(hostname)
        status = await self._call_handler_hook("HELO", hostname)
        if status is MISSING:
            self.session.host_name = hostname
            status = Reply(f"250 {self.hostname}")
        await self._answer(status)

    @syntax("EHLO hostname")
    async def smtp_EHLO(self, hostname: str | None) -> None:
        """RFC 5321 section 4.1.1.1: one line for each extension that is offered now."""
        if not hostname:
            raise Refused(replies.syntax_of("EHLO hostname", ""))
        self._set_rset_state()
        self.session.extended_smtp = True
        self._with_codes = False
        extensions = self.settings.extensions
        lines = [f"250-{self.hostname}"]
        lines += [f"250-{line}" for line in extensions.lines(self)]
        if hasattr(self, "ehlo_hook"):
            await forms.ehlo_hook(self)
        if self._watch is not None:
            await self._before_greeting(hostname)
        lines = await forms.ehlo_lines(self, hostname, [*lines, "250 HELP"])
        if getattr(self.push, "__func__", None) is SMTP.push:
            # One push for all lines saves 5 µs. If a subclass overrides push(), it gets each line.
            lines = ["\r\n".join(lines)]
        for line in lines:
            await self.push(line)
        self._with_codes = extensions.has_codes

    @syntax("STARTTLS", when="tls_context")
    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """RFC 3207."""
        if arg:
            raise Refused(replies.syntax_of("STARTTLS"))
        if self._tls_protocol:
            raise Refused(replies.ALREADY_TLS)
        if not self.tls_context:
            raise Refused(replies.TLS_NOT_AVAILABLE)
        if self._watch is not None:
            await self._before("starttls")
        await start_tls(self, self.tls_context, replies.READY_FOR_TLS)

    @syntax("AUTH <mechanism>")
    async def smtp_AUTH(self, arg: str | None) -> None:
        """RFC 4954 section 4."""
        await auth.Authentication(self).run(arg)

    @auth.asks_authenticator
    @auth_mechanism("PLAIN")
    async def auth_PLAIN(self, _: SMTP, args: list[str]) -> AuthResult:
        """RFC 4616."""
        return await auth.run_exchange(self, Plain(), args)

    @auth.asks_authenticator
    @auth_mechanism("LOGIN")
    async def auth_LOGIN(self, _: SMTP, args: list[str]) -> AuthResult:
        """LOGIN, without an RFC: two challenges, or one if the client sends its user name first."""
        of_class = self.AuthLoginUsernameChallenge, self.AuthLoginPasswordChallenge
        prompts = self.settings.login_prompts or of_class
        return await auth.run_exchange(self, Login(*(text.encode() for text in prompts)), args)

    # A mail transaction.

    @syntax(MAIL_SYNTAX, extended=" [SP <mail-parameters>]")
    async def smtp_MAIL(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.2."""
        if await self.check_helo_needed() or await self.check_auth_needed("MAIL"):
            return
        address, text = arguments.read_path(self, "FROM:", arg, MAIL_SYNTAX)
        if self.envelope.mail_from is not None:
            raise Refused(replies.NESTED_MAIL)
        options: list[str] = []
        meanings: dict[str, Any] = {}
        try:
            if text:
                extensions, unknown = self.settings.extensions, replies.UNKNOWN_MAIL_PARAMETER
                options, meanings = arguments.read_parameters(
                    self, text, extensions.mail, MAIL_SYNTAX, unknown
                )
                extensions.check_mail(meanings)
            arguments.check_charset(self, address)
            self.transaction.count_transaction()
            await self.transaction.begin(address, options, meanings)
        except Exception:
            if self.envelope.mail_from is None:
                # The SMTPUTF8 of a refused MAIL is not that of the next one.
                self.envelope.smtp_utf8 = False
            raise

    @syntax(RCPT_SYNTAX, extended=" [SP <mail-parameters>]")
    async def smtp_RCPT(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.3."""
        if await self.check_helo_needed() or await self.check_auth_needed("RCPT"):
            return
        if self.envelope.mail_from is None:
            raise Refused(replies.NEED_MAIL)
        address, text = arguments.read_path(self, "TO:", arg, RCPT_SYNTAX)
        if address == paths.NULL_PATH:
            raise Refused(replies.MALFORMED_ADDRESS)
        options: list[str] = []
        meanings: dict[str, Any] = {}
        if text:
            extensions, unknown = self.settings.extensions, replies.UNKNOWN_RCPT_PARAMETER
            options, meanings = arguments.read_parameters(
                self, text, extensions.rcpt, RCPT_SYNTAX, unknown
            )
        arguments.check_charset(self, address)
        self.transaction.count_recipient(address)
        await self.transaction.add_recipient(address, options, meanings)

    @syntax("DATA")
    async def smtp_DATA(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.4."""
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        envelope = self.envelope
        if not envelope.rcpt_tos:
            raise Refused(replies.NEED_RCPT)
        if arg:
            raise Refused(replies.syntax_of("DATA"))
        if envelope.mail_params.get("BODY") == "BINARYMIME":
            raise Refused(replies.BINARY_NEEDS_BDAT)
        if self._watch is not None:
            await self._before("data")
        await self.push(replies.START_MAIL_INPUT)
        await self.transaction.receive_data()

    @syntax("RSET")
    async def smtp_RSET(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.5."""
        if arg:
            raise Refused(replies.syntax_of("RSET"))
        self._set_rset_state()
        await forms.rset_hook(self)
        status = await self._call_handler_hook("RSET")
        await self._answer(replies.OK if status is MISSING else status)

    # The rest.

    @syntax("NOOP [ignored]")
    async def smtp_NOOP(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.9."""
        status = await self._call_handler_hook("NOOP", arg)
        await self._answer(replies.OK if status is MISSING else status)

    @syntax("QUIT")
    async def smtp_QUIT(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.10."""
        if arg:
            raise Refused(replies.syntax_of("QUIT"))
        if self._watch is not None:
            await self._before("quit")
        status = await self._call_handler_hook("QUIT")
        self._reason = "QUIT"
        await self._answer(replies.BYE if status is MISSING else status)
        self.disconnect()

    @syntax("VRFY <address>")
    async def smtp_VRFY(self, arg: str | None) -> None:
        """RFC 5321 section 3.5.3: neither confirm nor deny that the address exists."""
        if await self.check_auth_needed("VRFY"):
            return
        if not arg:
            raise Refused(replies.syntax_of("VRFY <address>"))
        address, _ = self._getaddr(arg)
        if address is None:
            raise Refused(f"502 Could not VRFY {replies.escape(arg[: replies.ECHO])}")
        status = await self._call_handler_hook("VRFY", address)
        await self._answer(replies.CANNOT_VERIFY if status is MISSING else status)

    async def smtp_EXPN(self, arg: str | None) -> None:
        """RFC 5321 section 3.5.2: not implemented, unless the handler has ``handle_EXPN``."""
        status = await self._call_new_hook("EXPN", arg)
        await self._answer(replies.NO_EXPN if status is MISSING else status)

    @syntax("HELP [command]")
    async def smtp_HELP(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.8."""
        if await self.check_auth_needed("HELP"):
            return
        syntaxes = self._syntaxes()
        known = syntaxes.get(arg.upper()) if arg else None
        if known is not None:
            await self.push(replies.from_hook(f"250 Syntax: {known}"))
            return
        code, verbs = 501 if arg else 250, " ".join(sorted(syntaxes))
        await self.push(replies.from_hook(f"{code} Supported commands: {verbs}"))

    # Public and private attributes of 1.4: engine/compat says how they work.

    data_size_limit: int | None = compat.setting("data_size_limit")
    enable_SMTPUTF8: bool = compat.setting("enable_SMTPUTF8")
    tls_context: Any = compat.setting("tls_context")
    require_starttls: bool = compat.setting("require_starttls")
    __ident__: str = compat.setting("ident")
    _reader = property(compat.Reader)
    _writer = property(compat.Writer)
    _handle_hooks = compat.methods_by_verb("handle_", lambda server: server.event_handler)
    _smtp_methods = compat.methods_by_verb("smtp_", lambda server: server)
    _auth_methods = property(auth.mechanisms)
    _auth_callback = compat.auth_callback()
    _auth_required = compat.setting("auth_required")
    _auth_require_tls = compat.setting("auth_require_tls")
    _authenticator = compat.setting("authenticator")
    _decode_data = compat.setting("decode_data")
    _timeout_duration = compat.setting("timeout")


fast_path.unchanged = fast_path.Unchanged.of(SMTP)
SMTP.__init__.__signature__ = diagnostics.signature_of(SMTP.__init__)  # type: ignore[attr-defined]
