"""Who the client is: AUTH (RFC 4954), its exchanges and its verdicts."""

from __future__ import annotations

import binascii
import inspect
import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from public import public

from aiosmtpd.engine import hooks
from aiosmtpd.engine.commands import Commands
from aiosmtpd.engine.registry import Shared
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import Limits
from aiosmtpd.protocol.receiver import AUTH_LINE, LineTooLong
from aiosmtpd.protocol.replies import Refused
from aiosmtpd.protocol.session import MISSING, AuthResult, LoginPassword, _Missing

if TYPE_CHECKING:
    import asyncio

    from aiosmtpd.protocol.session import Envelope, Session
    from aiosmtpd.smtp import SMTP

F = TypeVar("F", bound=Callable[..., Any])

AuthCallbackType = Callable[[str, bytes, bytes], bool]
AuthenticatorType = Callable[
    ["SMTP", "Session", "Envelope", str, Any], AuthResult | bool | Awaitable[AuthResult | bool]
]
AuthMechanismType = Callable[["SMTP", list[str]], Awaitable[Any]]
public(AuthCallbackType=AuthCallbackType, AuthMechanismType=AuthMechanismType)

VALID_AUTHMECH = re.compile(r"[A-Z0-9_-]+\Z")

_PREFIX = "auth_"


@public
def auth_mechanism(actual_name: str) -> Callable[[F], F]:
    """Name the mechanism of an ``auth_*`` method where the method's name cannot.

    Raises ValueError for a name that is not letters, digits, ``-`` and ``_``.
    """
    name = actual_name.upper()
    if not VALID_AUTHMECH.match(name):
        raise ValueError(f"Invalid AUTH mechanism name: {name}")

    def decorate(method: F) -> F:
        method.__dict__["__auth_mechanism_name__"] = name
        return method

    return decorate


@public
def syntax(text: str, extended: str | None = None, when: str | None = None) -> Callable[[F], F]:
    """Say a verb's syntax, for HELP, and let :exc:`Refused` be the reply of its method.

    *extended* is added after EHLO; *when* names an attribute of the server without whose truth
    the verb is not in HELP.
    """

    def decorate(method: F) -> F:
        @wraps(method)
        async def answered(self: Any, *args: Any) -> None:
            # Here and not in the driver alone: a subclass's code behind `super()` goes on.
            try:
                await method(self, *args)
            except Refused as refused:
                await self._answer(refused.reply)

        answered.__dict__.update(
            __smtp_syntax__=text, __smtp_syntax_extended__=extended, __smtp_syntax_when__=when
        )
        return cast(F, answered)

    return decorate


def login_always_fail(mechanism: str, login: bytes, password: bytes) -> bool:
    """Refuse every password: who asks for passwords must say how to check them."""
    return False


def _octets_of(word: str) -> bytes:
    """Return a word of a command as it was sent, which may have been no text at all."""
    return word.encode("utf-8", "surrogateescape")


class AuthCommands(Commands):
    """A connection that can tell who its client is."""

    __slots__ = (
        "_auth_callback",
        "_auth_excluded",
        "_auth_failures_left",
        "_auth_require_tls",
        "_auth_required",
        "_authenticator",
    )

    AuthLoginUsernameChallenge = "User Name\x00"
    AuthLoginPasswordChallenge = "Password\x00"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        shared: Shared | None,
        limits: Limits,
        call_limit: int | dict[str, int] | None,
        *,
        required: bool,
        require_tls: bool,
        exclude: Iterable[str] | None,
        callback: AuthCallbackType | None,
        authenticator: AuthenticatorType | None,
    ) -> None:
        super().__init__(loop, timeout, shared, limits, call_limit)
        self._auth_required = required
        self._auth_require_tls = require_tls
        # An empty set takes 216 octets of each connection.
        self._auth_excluded = tuple(name.upper() for name in exclude or ())
        self._auth_callback = callback or login_always_fail
        self._authenticator = authenticator
        self._auth_failures_left = limits.max_auth_failures

    @property
    def _auth_methods(self) -> dict[str, AuthMechanismType]:
        """The mechanisms by name; a handler's own wins over the built-in one."""
        found: dict[str, AuthMechanismType] = {}
        for owner in (self, self.event_handler):
            for attribute in hooks.names(owner, _PREFIX):
                method = getattr(owner, attribute)
                name = getattr(method, "__auth_mechanism_name__", None)
                if not isinstance(name, str):
                    name = attribute.removeprefix(_PREFIX).replace("__", "-")
                if callable(method) and name.upper() not in self._auth_excluded:
                    found[name.upper()] = method
        return found

    def offer_of_auth(self, *, vain: bool = True) -> str | None:
        """Return the EHLO line of AUTH, or None where it is not offered now.

        Without *vain*, no mechanism is offered of which nobody can verify what clients say.
        """
        if self._auth_require_tls and not self._tls_protocol:
            return None
        methods = self._auth_methods
        if not (vain or self._asks_somebody()):
            built_in = (AuthCommands.auth_PLAIN, AuthCommands.auth_LOGIN)
            methods = {
                name: method
                for name, method in methods.items()
                if getattr(method, "__func__", None) not in built_in
            }
        mechanisms = sorted(methods)
        return " ".join(["AUTH", *mechanisms]) if mechanisms else None

    def _asks_somebody(self) -> bool:
        """Tell whether there is anybody who knows passwords."""
        return (
            self._authenticator is not None
            or self._auth_callback is not login_always_fail
            or hooks.find(self.event_handler, "handle_AUTH") is not None
        )

    async def check_helo_needed(self, helo: str = "HELO") -> bool:
        """Refuse the command and return True where the client has not said who it is."""
        if not self.session.host_name:
            await self.push(replies.NEED_HELO if helo == "HELO" else replies.NEED_EHLO)
            return True
        return False

    async def check_auth_needed(self, caller: str) -> bool:
        """Refuse the command *caller* and return True where AUTH must come first."""
        if self._auth_required and not self.session.authenticated:
            await self.push(replies.NEED_AUTH)
            return True
        return False

    def _auth_words(self, arg: str | None) -> list[str]:
        """Return the words of an AUTH command that may go on; raises Refused."""
        if not self.session.host_name:
            raise Refused(replies.NEED_EHLO)
        if not self.session.extended_smtp:
            raise Refused(replies.NO_AUTH_AFTER_HELO)
        if self._auth_require_tls and not self._tls_protocol:
            raise Refused(replies.AUTH_NEEDS_TLS)
        if self.session.authenticated:
            raise Refused(replies.ALREADY_AUTHENTICATED)
        words = arg.split() if arg else []
        if not words:
            raise Refused(replies.NOT_ENOUGH_VALUE)
        if len(words) > 2:
            raise Refused(replies.TOO_MANY_VALUES)
        return words

    @syntax("AUTH <mechanism>")
    async def smtp_AUTH(self, arg: str | None) -> None:
        """RFC 4954 section 4."""
        if self._auth_failures_left == 0:
            self.disconnect(replies.TOO_MANY_AUTH_FAILURES)
            return
        # A client that is refused may go on with its secrets as if they were commands.
        self._masked = 2
        words = self._auth_words(arg)
        methods = self._auth_methods
        words[0] = words[0].upper()
        if words[0] not in methods:
            raise Refused(replies.UNKNOWN_MECHANISM)
        status = await self._call_handler_hook("AUTH", words)
        if status is not MISSING:
            await self._answer(status)
            return
        self._last_status = "334"
        outcome = await methods[words[0]](self, words)  # type: ignore[arg-type]
        await self._answer_auth(outcome)

    async def _answer_auth(self, outcome: Any) -> None:
        last = self._last_status
        answered = last[:3] not in ("334", b"334")
        session = self.session
        if outcome is None or outcome is MISSING or outcome is False:
            outcome = AuthResult(success=False, handled=answered)
        elif not isinstance(outcome, AuthResult):
            # An identity, as 1.3 had it.
            self._masked = 0
            session.authenticated = True
            session.set_login_data(outcome)
            await self.push(replies.AUTHENTICATED)
            return
        session.authenticated = outcome.success
        if outcome.success:
            self._masked = 0
            session.auth_data = outcome.auth_data
            session.set_login_data(getattr(outcome.auth_data, "login", None))
            await self._answer(outcome.message or replies.AUTHENTICATED)
            return
        if self._auth_failures_left is not None:
            self._auth_failures_left -= 1
        if not (answered and outcome.handled):
            await self._answer(outcome.message or replies.CREDENTIALS_INVALID)

    async def challenge_auth(
        self,
        challenge: str | bytes,
        encode_to_b64: bool = True,
        log_client_response: bool = False,
    ) -> bytes | _Missing:
        """Send a challenge and return the client's answer, decoded from base64.

        Returns MISSING where the client gave none (it has then been answered: ``501 5.7.0`` for
        an abort, ``501 5.5.2`` for what is no base64, 500 for more than 12,288 octets).
        *log_client_response* logs the answer at DEBUG: never so for secrets.
        """
        octets = challenge.encode() if isinstance(challenge, str) else challenge
        prompt = b64encode(octets) if encode_to_b64 else octets
        await self.push("334 " + prompt.decode("utf-8", "backslashreplace"))
        try:
            while (line := self._receiver.line(AUTH_LINE)) is None:
                await self._more()
        except LineTooLong:
            await self.push(replies.COMMAND_TOO_LONG)
            return MISSING
        if log_client_response:
            self._log(logging.DEBUG, "%r answered a challenge: %r", self.session.peer, line)
        if line.strip() == b"*":
            await self.push(replies.AUTH_ABORTED)
            return MISSING
        return await self._decode_response(line)

    async def _decode_response(self, response: bytes) -> bytes | _Missing:
        """Decode base64, or refuse what is none."""
        try:
            return b64decode(response.strip(), validate=True)
        except binascii.Error:
            await self.push(replies.NOT_BASE64)
            return MISSING

    async def _authenticate(self, mechanism: str, auth_data: Any) -> AuthResult:
        """Ask the authenticator, or the old callback, about a client's credentials."""
        if self._authenticator is not None:
            verdict: Any = self._authenticator(
                self,  # type: ignore[arg-type]
                self.session,
                self.envelope,
                mechanism,
                auth_data,
            )
        else:
            verdict = self._auth_callback(mechanism, *auth_data)
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if isinstance(verdict, AuthResult):
            return verdict
        if isinstance(verdict, bool):
            return AuthResult(
                success=verdict, handled=False, auth_data=auth_data if verdict else None
            )
        message = "%r authenticator returned %s: no AuthResult or bool"
        self._log(logging.ERROR, message, self.session.peer, type(verdict).__name__)
        return AuthResult(success=False, handled=False, message=replies.CANNOT_AUTHENTICATE)

    async def auth_PLAIN(self, _: SMTP, args: list[str]) -> AuthResult:
        """RFC 4616."""
        if len(args) == 1:
            message = await self.challenge_auth("")
        else:
            message = await self._decode_response(_octets_of(args[1]))
        if isinstance(message, _Missing):
            return AuthResult(success=False)
        try:
            _identity, login, password = message.split(b"\0")
        except ValueError:
            await self.push(replies.CANNOT_SPLIT)
            return AuthResult(success=False)
        return await self._authenticate("PLAIN", LoginPassword(login, password))

    async def auth_LOGIN(self, _: SMTP, args: list[str]) -> AuthResult:
        """The de facto mechanism of two challenges, with or without an initial user name."""
        if len(args) == 1:
            login = await self.challenge_auth(self.AuthLoginUsernameChallenge)
        else:
            login = await self._decode_response(_octets_of(args[1]))
        if isinstance(login, _Missing):
            return AuthResult(success=False)
        password = await self.challenge_auth(self.AuthLoginPasswordChallenge)
        if isinstance(password, _Missing):
            return AuthResult(success=False)
        return await self._authenticate("LOGIN", LoginPassword(login, password))
