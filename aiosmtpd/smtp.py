"""The SMTP server: one instance for each connection, one method for each verb.

Read from top to bottom: the constructor, how a command line becomes a call, then the commands
in the order in which a client sends them (RFC 5321).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Unpack

from public import public

from aiosmtpd._version import __version__ as __version__
from aiosmtpd.engine import diagnostics as advice, loops
from aiosmtpd.engine.arguments import MAIL_SYNTAX, RCPT_SYNTAX
from aiosmtpd.engine.auth import (
    VALID_AUTHMECH as VALID_AUTHMECH,
    AuthCallbackType as AuthCallbackType,
    AuthenticatorType as AuthenticatorType,
    AuthMechanismType as AuthMechanismType,
    auth_mechanism as auth_mechanism,
    login_always_fail as login_always_fail,
    syntax as syntax,
)
from aiosmtpd.engine.body import (
    BodyStream as BodyStream,
    IncompleteBody as IncompleteBody,
)
from aiosmtpd.engine.callables import handler_of
from aiosmtpd.engine.commands import (
    ALLOWED_BEFORE_STARTTLS as ALLOWED_BEFORE_STARTTLS,
    BOGUS_LIMIT as BOGUS_LIMIT,
    CALL_LIMIT_DEFAULT as CALL_LIMIT_DEFAULT,
)
from aiosmtpd.engine.connection import (
    TLSSetupException as TLSSetupException,
    log as log,
)
from aiosmtpd.engine.fast_path import UsualCommands, parts_of
from aiosmtpd.engine.registry import Shared as Shared
from aiosmtpd.legacy import forms as _legacy
from aiosmtpd.legacy.forms import (
    CLIENT_AUTH_B as CLIENT_AUTH_B,
    sanitize as sanitize,
    sanitized_log as sanitized_log,
)
from aiosmtpd.protocol import networks, paths, replies
from aiosmtpd.protocol.extensions import (
    CLASSIC as CLASSIC,
    Extension as Extension,
    ExtensionTable,
)
from aiosmtpd.protocol.limits import (
    LIMIT_NAMES,
    LimitKeywords,
    Limits as Limits,
    limits_of,
)
from aiosmtpd.protocol.modern import (
    ALL as ALL,
    MODERN as MODERN,
    DeliverBy as DeliverBy,
    OriginalRecipient as OriginalRecipient,
    ValidSince as ValidSince,
)
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
from aiosmtpd.protocol.xclient import xclient as xclient, xforward as xforward

__ident__ = f"Python SMTP {__version__}"
public(
    __version__=__version__,
    AuthCallbackType=AuthCallbackType,
    AuthMechanismType=AuthMechanismType,
    MISSING=MISSING,
    Envelope=Envelope,
    LoginPassword=LoginPassword,
    Refused=Refused,
    Reply=Reply,
    Session=Session,
    TLSSetupException=TLSSetupException,
    auth_mechanism=auth_mechanism,
    sanitize=sanitize,
    sanitized_log=sanitized_log,
    syntax=syntax,
    Extension=Extension,
)

DATA_SIZE_DEFAULT = 2**25


def make_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, or where none runs the one that was set for this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return loops.current_or_new_loop()


@public
class SMTP(UsualCommands):
    """An SMTP server's side of one connection; the handler's hooks say what becomes of mail."""

    # With a dict beside the slots: programs set attributes of their own.
    __slots__ = ("__dict__", "__weakref__", "tls_context")

    def __init__(
        self,
        handler: Any,
        *,
        data_size_limit: int | None = DATA_SIZE_DEFAULT,
        enable_SMTPUTF8: bool = False,
        decode_data: bool = False,
        hostname: str | None = None,
        ident: str | None = None,
        tls_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        require_starttls: bool = False,
        timeout: float = 300,
        auth_required: bool = False,
        auth_require_tls: bool = True,
        auth_exclude_mechanism: Iterable[str] | None = None,
        auth_callback: AuthCallbackType | None = None,
        command_call_limit: int | dict[str, int] | None = None,
        authenticator: AuthenticatorType | None = None,
        proxy_protocol_timeout: float | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        extensions: str | Iterable[Extension] = CLASSIC,
        unknown_params: str = "reject",
        bare_newline: str = "accept",
        line_length_limit: int | None = None,
        command_size_limit: int | None = None,
        spill_size: int | None = None,
        shared: Shared | None = None,
        proxy_trusted: str | Iterable[str] | None = None,
        **limits: Unpack[LimitKeywords],
    ) -> None:
        if unknown := limits.keys() - LIMIT_NAMES:
            raise advice.unexpected(SMTP.__init__, unknown, LIMIT_NAMES)
        super().__init__(
            make_loop() if loop is None else loop,
            timeout,
            shared,
            limits_of(limits),
            command_call_limit,
            required=auth_required,
            require_tls=auth_require_tls,
            exclude=auth_exclude_mechanism,
            callback=auth_callback,
            authenticator=authenticator,
        )
        self.__ident__ = ident or __ident__
        self.event_handler = handler_of(handler)
        advice.look_over(self)
        self.data_size_limit = data_size_limit
        self.enable_SMTPUTF8 = enable_SMTPUTF8
        self._decode_data = decode_data
        self._hostname = hostname
        self.tls_context = tls_context
        self.require_starttls = bool(tls_context) and require_starttls
        self._extensions = ExtensionTable.of(extensions)
        self._ignore_unknown_params = _one_of("unknown_params", unknown_params, "reject", "ignore")
        _one_of("bare_newline", bare_newline, "accept", "normalize", "reject")
        self._bare_newline = bare_newline
        if line_length_limit is not None:
            self.line_length_limit = line_length_limit
        if command_size_limit is not None:
            self.command_size_limit = command_size_limit
        if proxy_protocol_timeout is not None and proxy_protocol_timeout <= 0:
            raise ValueError("proxy_protocol_timeout must be > 0")
        self._proxy_timeout = proxy_protocol_timeout
        self._proxy_trusted = None if proxy_trusted is None else networks.parse(proxy_trusted)
        self.spill_size = spill_size
        self._transactions = 0
        self._domains = self._asked = None
        self._legacy = _legacy.legacy_of(self)
        if auth_required and not auth_require_tls:
            advice.warn_of_clear_auth()
        elif (authenticator or auth_callback) and not auth_required:
            advice.warn_of_optional_auth(type(self))

    @property
    def decode_data(self) -> bool:
        """True where ``envelope.content`` is str."""
        return self._decode_data

    @property
    def starttls_offered(self) -> bool:
        """True where there is a TLS context and no TLS yet."""
        return bool(self.tls_context) and not self._tls_protocol

    @property
    def mail_is_allowed(self) -> bool:
        """True unless the client has to send STARTTLS first."""
        return not self.require_starttls or bool(self._tls_protocol)

    # Greeting.

    @syntax("HELO hostname")
    async def smtp_HELO(self, hostname: str | None) -> None:
        """RFC 5321 section 4.1.1.1."""
        if not hostname:
            raise Refused(replies.syntax_of("HELO hostname", ""))
        self._set_rset_state()
        self.session.extended_smtp = self._with_codes = False
        status = await self._call_handler_hook("HELO", hostname)
        if status is MISSING:
            self.session.host_name = hostname
            status = Reply(f"250 {self.hostname}")
        await self._answer(status)

    @syntax("EHLO hostname")
    async def smtp_EHLO(self, hostname: str | None) -> None:
        """RFC 5321 section 4.1.1.1: every extension that is offered now has its line."""
        if not hostname:
            raise Refused(replies.syntax_of("EHLO hostname", ""))
        self._set_rset_state()
        self.session.extended_smtp = True
        self._with_codes = False
        lines = [f"250-{self.hostname}"]
        lines += [f"250-{line}" for line in self._extensions.lines(self)]
        await self._legacy.ehlo_hook(self)
        lines = await self._legacy.ehlo_lines(self, hostname, [*lines, "250 HELP"])
        if getattr(self.push, "__func__", None) is SMTP.push:
            # At once, where nobody has a push of their own that is to see them singly (5 µs).
            lines = ["\r\n".join(lines)]
        for line in lines:
            await self.push(line)
        self._with_codes = self._extensions.has_codes

    @syntax("STARTTLS", when="tls_context")
    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """RFC 3207."""
        if arg:
            raise Refused(replies.syntax_of("STARTTLS"))
        if self._tls_protocol:
            raise Refused(replies.ALREADY_TLS)
        if not self.tls_context:
            raise Refused(replies.TLS_NOT_AVAILABLE)
        await self._start_tls(self.tls_context, self.push(replies.READY_FOR_TLS))

    # A mail transaction.

    @syntax(MAIL_SYNTAX, extended=" [SP <mail-parameters>]")
    async def smtp_MAIL(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.2."""
        if await self.check_helo_needed() or await self.check_auth_needed("MAIL"):
            return
        address, text = self._path("FROM:", arg, MAIL_SYNTAX)
        if self.envelope.mail_from is not None:
            raise Refused(replies.NESTED_MAIL)
        options: list[str] = []
        meanings: dict[str, Any] = {}
        if text:
            options, meanings = self._parameters(
                text, self._extensions.mail, MAIL_SYNTAX, replies.UNKNOWN_MAIL_PARAMETER
            )
            self._extensions.check_mail(meanings)
        if not address.isascii() and not self.envelope.smtp_utf8:
            # RFC 6531 section 3.5.
            raise Refused(replies.ADDRESS_NEEDS_SMTPUTF8)
        if self.limits.max_transactions:
            self._limit_transactions(self.limits.max_transactions)
        await self._begin_transaction(address, options, meanings)

    @syntax(RCPT_SYNTAX, extended=" [SP <mail-parameters>]")
    async def smtp_RCPT(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.3."""
        if await self.check_helo_needed() or await self.check_auth_needed("RCPT"):
            return
        if self.envelope.mail_from is None:
            raise Refused(replies.NEED_MAIL)
        address, text = self._path("TO:", arg, RCPT_SYNTAX)
        if address == paths.NULL_PATH:
            raise Refused(replies.MALFORMED_ADDRESS)
        options: list[str] = []
        meanings: dict[str, Any] = {}
        if text:
            options, meanings = self._parameters(
                text, self._extensions.rcpt, RCPT_SYNTAX, replies.UNKNOWN_RCPT_PARAMETER
            )
        if not address.isascii() and not self.envelope.smtp_utf8:
            raise Refused(replies.ADDRESS_NEEDS_SMTPUTF8)
        limits = self.limits
        if limits.max_recipients and len(self.envelope.rcpt_tos) >= limits.max_recipients:
            raise Refused(replies.TOO_MANY_RECIPIENTS)
        if limits.max_recipient_domains:
            self._limit_domains(address, limits.max_recipient_domains)
        await self._add_recipient(address, options, meanings)

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
        await self.push(replies.START_MAIL_INPUT)
        await self._receive_data()

    @syntax("RSET")
    async def smtp_RSET(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.5."""
        if arg:
            raise Refused(replies.syntax_of("RSET"))
        self._set_rset_state()
        await self._legacy.rset_hook(self)
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
        status = await self._call_handler_hook("QUIT")
        self._reason = "QUIT"
        await self._answer(replies.BYE if status is MISSING else status)
        self.disconnect()

    @syntax("VRFY <address>")
    async def smtp_VRFY(self, arg: str | None) -> None:
        """RFC 5321 section 3.5.3: the address is not confirmed, nor denied."""
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
        """RFC 5321 section 3.5.2: not implemented, but for ``handle_EXPN``."""
        status = await self._call_handler_hook("EXPN", arg)
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


SMTP._usual_parts = parts_of(SMTP)


def _one_of(name: str, value: str, *allowed: str) -> bool:
    """Tell whether *value* is another than the first; raises ValueError for one that is none."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}")
    return value != allowed[0]
