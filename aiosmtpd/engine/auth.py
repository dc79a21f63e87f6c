"""AUTH (RFC 4954): the mechanisms, one exchange, and its verdict."""

from __future__ import annotations

import asyncio
import binascii
import inspect
import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from public import public

from aiosmtpd.engine import hooks
from aiosmtpd.engine.wakeup import Disconnected
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.receiver import AUTH_LINE, LineTooLong
from aiosmtpd.protocol.replies import Refused
from aiosmtpd.protocol.session import MISSING, AuthResult, _Missing
from aiosmtpd.sasl.exchange import Claim, Exchange, Malformed

if TYPE_CHECKING:
    from aiosmtpd.engine.roles import ServerSide

F = TypeVar("F", bound=Callable[..., Any])

LINES_AFTER = 2
"""Lines to keep out of the log after a refused AUTH: the client may still send its credentials."""

VALID_AUTHMECH = re.compile(r"[A-Z0-9_-]+\Z")

MOST_OFFERS = 8
"""Offers that are remembered, at most: few servers have more than one."""

_PREFIX = "auth_"


@public
def auth_mechanism(actual_name: str) -> Callable[[F], F]:
    """Name the mechanism of an ``auth_*`` method, if the method's own name cannot spell it.

    Raises ValueError unless the name consists of letters, digits, ``-`` and ``_``.
    """
    name = actual_name.upper()
    if not VALID_AUTHMECH.match(name):
        raise ValueError(f"Invalid AUTH mechanism name: {name}")

    def decorate(method: F) -> F:
        method.__dict__["__auth_mechanism_name__"] = name
        return method

    return decorate


def asks_authenticator(method: F) -> F:
    """Mark a mechanism that needs something that checks passwords: see ``_can_verify``."""
    method.__dict__["__asks_authenticator__"] = True
    return method


def login_always_fail(mechanism: str, login: bytes, password: bytes) -> bool:
    """Reject every password: the default until an authenticator is configured."""
    return False


def mechanisms(server: Any) -> dict[str, Callable[..., Awaitable[Any]]]:
    """Return the mechanisms by name; a handler's own wins over the built-in one."""
    found: dict[str, Callable[..., Awaitable[Any]]] = {}
    for owner in (server, server.event_handler):
        for attribute in hooks.names(owner, _PREFIX):
            method = getattr(owner, attribute)
            name = getattr(method, "__auth_mechanism_name__", None)
            if not isinstance(name, str):
                name = attribute.removeprefix(_PREFIX).replace("__", "-")
            if callable(method) and name.upper() not in server.settings.auth_exclude_mechanism:
                found[name.upper()] = method
    return found


def offer(server: ServerSide, *, vain: bool) -> str | None:
    """Return the EHLO line of AUTH, or None if it is not offered now.

    If *vain* is false, PLAIN and LOGIN are offered only if something can check passwords.
    """
    if server.settings.auth_require_tls and not server._tls_protocol:
        return None
    found = mechanisms(server)
    if not (vain or _can_verify(server)):
        found = {
            name: method
            for name, method in found.items()
            if not getattr(method, "__asks_authenticator__", False)
        }
    names = sorted(found)
    return " ".join(["AUTH", *names]) if names else None


def mechanisms_of(server: type) -> tuple[Any, Any]:
    """Return the mechanisms that a class of servers defines itself: those of ``SMTP``."""
    own = server.__dict__
    return own.get("auth_LOGIN"), own.get("auth_PLAIN")


_NOTHING: dict[str, Any] = {}
_ASKED = {"__dir__", "__getattribute__"}
"""With one of these, an object may say something else the next time."""


def known_offer(server: ServerSide, of_smtp: tuple[Any, ...]) -> str | None:
    """Return what ``server.offer_of_auth()`` returns, remembered if it is what most servers offer.

    For classes that do not override that method; *of_smtp* are the :func:`mechanisms_of` ``SMTP``.
    To look for mechanisms takes 25 µs. They are looked for again when the classes of the server or
    the handler have other names, and each time if there are others than those of ``SMTP``.
    """
    settings, handler = server.settings, server.event_handler
    if settings.auth_require_tls and not server._tls_protocol:
        return None
    of_server, of_handler = type(server).__mro__, type(handler).__mro__
    below = -len(hooks.ENGINE)
    if (
        # It is another class if a mixin comes last.
        mechanisms_of(of_server[below - 1]) != of_smtp
        or ((own := server.__dict__) and _PREFIX in " ".join(own))
        or ((own := getattr(handler, "__dict__", _NOTHING)) and _PREFIX in " ".join(own))
    ):
        return server.offer_of_auth()
    # The names themselves: a cache of the classes would keep those of handlers for ever.
    every: list[str] = []
    for one in of_server[:below] + of_handler[:-1]:
        every += one.__dict__
    offers = settings.offers_of_auth
    for names, offer in offers:
        # Without a look at any name: they are the same objects.
        if names == every:
            return offer
    offer = server.offer_of_auth()
    if _are_usual(every):
        if len(offers) >= MOST_OFFERS:
            offers.clear()
        offers.append((every, offer))
    return offer


def _are_usual(names: list[str]) -> bool:
    found = sorted(name for name in names if name.startswith(_PREFIX))
    # Each once: no subclass has one of its own.
    return found == ["auth_LOGIN", "auth_PLAIN"] and _ASKED.isdisjoint(names)


def _can_verify(server: ServerSide) -> bool:
    settings = server.settings
    return (
        settings.authenticator is not None
        or settings.auth_callback not in (None, login_always_fail)
        or hooks.find(server.event_handler, "handle_AUTH") is not None
    )


class Authentication:
    """One AUTH command, from its words to the reply."""

    def __init__(self, server: ServerSide) -> None:
        self._server = server

    async def run(self, arg: str | None) -> None:
        """Run an AUTH command; raise Refused if it is not allowed."""
        server = self._server
        if server._auth_failures_left == 0:
            server.disconnect(replies.TOO_MANY_AUTH_FAILURES)
            return
        server._masked = LINES_AFTER
        words = self._words(arg)
        methods = mechanisms(server)
        words[0] = words[0].upper()
        if words[0] not in methods:
            raise Refused(replies.UNKNOWN_MECHANISM)
        if server._watch is not None:
            await server._before("auth", words[0])
        try:
            status = await server._call_handler_hook("AUTH", words)
            if status is MISSING:
                server._last_status = "334"
                outcome = await methods[words[0]](server, words)
        except Disconnected:
            raise
        except Exception:
            # An authenticator may raise for a wrong password, and so give any number of tries.
            self._fail(words[0])
            raise
        if status is MISSING:
            await self._answer(words[0], outcome)
            return
        if isinstance(status, str | bytes) and status[:3] in ("235", b"235"):
            if server._watch is not None:
                server._watch.auth(words[0], True)
        else:
            self._fail(words[0])
        await server._answer(status)

    def _words(self, arg: str | None) -> list[str]:
        """Return the words of an AUTH command; raise Refused if it is not allowed or malformed."""
        server = self._server
        if not server.session.host_name:
            raise Refused(replies.NEED_EHLO)
        if not server.session.extended_smtp:
            raise Refused(replies.NO_AUTH_AFTER_HELO)
        if server.settings.auth_require_tls and not server._tls_protocol:
            raise Refused(replies.AUTH_NEEDS_TLS)
        if server.session.authenticated:
            raise Refused(replies.ALREADY_AUTHENTICATED)
        extensions = server.settings.extensions
        if server.envelope.mail_from is not None and not extensions.auth_in_transaction:
            raise Refused(replies.NO_AUTH_IN_TRANSACTION)
        words = arg.split() if arg else []
        if not words:
            raise Refused(replies.NOT_ENOUGH_VALUE)
        if len(words) > 2:
            raise Refused(replies.TOO_MANY_VALUES)
        return words

    async def _answer(self, mechanism: str, outcome: Any) -> None:
        server, session = self._server, self._server.session
        answered = server._last_status[:3] not in ("334", b"334")
        if outcome is None or outcome is MISSING or outcome is False:
            outcome = AuthResult(success=False, handled=answered)
        elif not isinstance(outcome, AuthResult):
            # Mechanisms for 1.3 return the identity of the client itself.
            session.set_login_data(outcome)
            self._succeed(mechanism)
            await server.push(replies.AUTHENTICATED)
            return
        session.authenticated = outcome.success
        if outcome.success:
            session.auth_data = outcome.auth_data
            session.set_login_data(getattr(outcome.auth_data, "login", None))
            self._succeed(mechanism)
            await server._answer(outcome.message or replies.AUTHENTICATED)
            return
        self._fail(mechanism)
        if not (answered and outcome.handled):
            await server._answer(outcome.message or replies.CREDENTIALS_INVALID)

    def _fail(self, mechanism: str) -> None:
        """Count a failure, and tell the observers of it."""
        server = self._server
        if server._watch is not None:
            server._watch.auth(mechanism, False)
        if server._auth_failures_left is not None:
            server._auth_failures_left -= 1

    def _succeed(self, mechanism: str) -> None:
        self._server._masked = 0
        self._server.session.authenticated = True
        if self._server._watch is not None:
            self._server._watch.auth(mechanism, True)


async def challenge(
    server: ServerSide, challenge: str | bytes, encode_to_b64: bool, log_client_response: bool
) -> bytes | _Missing:
    """See ``SMTP.challenge_auth``."""
    octets = challenge.encode() if isinstance(challenge, str) else challenge
    prompt = b64encode(octets) if encode_to_b64 else octets
    await server.push("334 " + prompt.decode("utf-8", "backslashreplace"))
    try:
        while (line := server._receiver.line(AUTH_LINE)) is None:
            await server._more()
    except LineTooLong:
        await server.push(replies.COMMAND_TOO_LONG)
        return MISSING
    if server._watch is not None:
        server._watch.line("AUTH", line, True)
    if log_client_response:
        server._log(logging.DEBUG, "%r answered a challenge: %r", server._client, line)
    if line.strip() == b"*":
        await server.push(replies.AUTH_ABORTED)
        return MISSING
    return await _decoded(server, line)


async def _decoded(server: ServerSide, response: bytes) -> bytes | _Missing:
    """Decode base64; refuse a response that is something else."""
    try:
        return b64decode(response.strip(), validate=True)
    except binascii.Error:
        await server.push(replies.NOT_BASE64)
        return MISSING


async def run_exchange(server: Any, exchange: Exchange, args: list[str]) -> AuthResult:
    """Run an exchange of a built-in mechanism; *args* are the words after AUTH."""
    response: bytes | _Missing | None = None
    if len(args) > 1 and args[1] == "=":
        # How a client writes an empty initial response: RFC 4954 section 4.
        response = b""
    elif len(args) > 1:
        # Get back the bytes that the client sent: they may not be text.
        response = await _decoded(server, args[1].encode("utf-8", "surrogateescape"))
    while not isinstance(response, _Missing):
        try:
            step = exchange.step(response)
        except Malformed:
            await server.push(replies.CANNOT_SPLIT)
            break
        if isinstance(step, Claim):
            return await judge(server, exchange.mechanism, step.credentials)
        response = await server.challenge_auth(step)
    return AuthResult(success=False)


async def judge(server: ServerSide, mechanism: str, credentials: Any) -> AuthResult:
    """Ask the authenticator about a client's credentials, or ``auth_callback`` if there is none."""
    settings = server.settings
    if settings.authenticator is not None:
        verdict = settings.authenticator(
            server, server.session, server.envelope, mechanism, credentials
        )
    else:
        verdict = (settings.auth_callback or login_always_fail)(mechanism, *credentials)
    if inspect.isawaitable(verdict):
        try:
            verdict = await verdict
        except asyncio.CancelledError as error:
            hooks.raise_if_foreign(error, "the authenticator")
            raise
    if isinstance(verdict, AuthResult):
        return verdict
    if isinstance(verdict, bool):
        return AuthResult(
            success=verdict, handled=False, auth_data=credentials if verdict else None
        )
    message = "%r authenticator returned %s: no AuthResult or bool"
    server._log(logging.ERROR, message, server._client, type(verdict).__name__)
    return AuthResult(success=False, handled=False, message=replies.CANNOT_AUTHENTICATE)
