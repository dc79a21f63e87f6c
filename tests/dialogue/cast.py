"""The cast of the transcripts: servers, handlers and values, by name."""

import ast
import asyncio
import collections
import functools
import inspect
import ssl
from collections.abc import Callable
from typing import Any

from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, LoginPassword, Session, syntax

from .notation import HOSTNAME, IDENT, Transcript, keyword_nodes

# Servers.


class Plain(SMTP):
    """As it is."""


def fresh(handler: object, **keywords: Any) -> SMTP:
    """Return a server of its own class: 1.4.6 adds up in the class what EHLO makes room for."""
    limits: dict[str, int] = collections.defaultdict(lambda: 512)
    fresh_class = type("Fresh", (SMTP,), {"command_size_limits": limits})
    server: SMTP = fresh_class(handler, **keywords)
    return server


class Ping(SMTP):
    """Has verbs of its own."""

    @syntax("PING [ignored]")
    async def smtp_PING(self, arg: str | None) -> None:
        """Answer a verb that no RFC has."""
        await self.push(f"259 Pong {arg!r}")

    @syntax("TOAST", extended=" [SP <colour>]", when="hostname")
    async def smtp_TOAST(self, arg: str | None) -> None:
        """Have a longer syntax after EHLO."""
        await self.push("259 Toast")

    @syntax("HIDDEN", when="tls_context")
    async def smtp_HIDDEN(self, arg: str | None) -> None:
        """Be in HELP with TLS only."""
        await self.push("259 Hidden")

    @syntax("BREAK")
    async def smtp_BREAK(self, arg: str | None) -> None:
        """Fail."""
        raise ValueError("broken")

    @syntax("SEVERAL")
    async def smtp_SEVERAL(self, arg: str | None) -> None:
        """Push several lines."""
        await self.push("259-one\r\n259 two")
        await self.push("259 three")


class Unlisted(SMTP):
    """Has a verb without a syntax text."""

    async def smtp_KNOCK(self, arg: str | None) -> None:
        """Who is there?"""
        await self.push("259 Who is there?")


class Hooks(SMTP):
    """Has the hooks of the time before handlers had them."""

    async def ehlo_hook(self) -> None:
        """Come first."""
        await self.push("250-X-OLD")

    async def rset_hook(self) -> None:
        """Come first."""
        await self.push("250-old")


class Rescued(Ping):
    """Answers exceptions itself."""

    async def handle_exception(self, error: Exception) -> str:
        """Name the error."""
        return f"554 {type(error).__name__}: {error}"


class Exposed(Ping):
    """Sends the text of exceptions to clients, as 1.4 did."""

    expose_exceptions = True


def limited(**attributes: Any) -> type[SMTP]:
    """Return a server class with these class attributes."""
    return type("Limited", (SMTP,), attributes)


# Handlers.


class Nothing:
    """Has no hooks: the server decides."""


class Echo:
    """Every hook repeats its arguments in its reply."""

    async def handle_HELO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str
    ) -> str:
        session.host_name = hostname
        return f"250 hello {hostname!r}"

    async def handle_NOOP(
        self, server: SMTP, session: Session, envelope: Envelope, arg: str | None
    ) -> str:
        return f"250 noop {arg!r}"

    async def handle_VRFY(
        self, server: SMTP, session: Session, envelope: Envelope, address: str
    ) -> str:
        return f"252 vrfy {address!r}"

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return f"250 reset {envelope.mail_from!r} {envelope.rcpt_tos!r}"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "221 so long"

    async def handle_MAIL(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        mail_options: list[str],
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return f"250 from {address!r} {mail_options!r} {envelope.smtp_utf8!r}"

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return f"250 to {address!r} {rcpt_options!r}"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return (
            f"250 {envelope.mail_from!r} {envelope.mail_options!r} {envelope.rcpt_tos!r} "
            f"{envelope.content!r} {envelope.original_content!r}"
        )


class Content:
    """Tells the mail data, for replies that fit a line."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        same = envelope.content == envelope.original_content
        return f"250 {envelope.content!r}{'' if same else f' {envelope.original_content!r}'}"


class Length:
    """Tells how much mail data came."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return f"250 {len(envelope.original_content or b'')} octets"


class Returns:
    """Has these hooks, which return these values and do nothing else."""

    def __init__(self, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, f"handle_{name}", _returning(answer))


class Raises:
    """Has these hooks, which raise ValueError with these texts."""

    def __init__(self, **texts: str) -> None:
        for name, text in texts.items():
            setattr(self, f"handle_{name}", _raising(text))


class Rescue(Raises):
    """Has hooks that raise, and answers the exceptions with this value."""

    def __init__(self, answer: Any, **texts: str) -> None:
        super().__init__(**texts)
        self.answer = answer

    async def handle_exception(self, error: Exception) -> Any:
        """Fill in the answer."""
        if isinstance(self.answer, str):
            return self.answer.format(type(error).__name__, error)
        return self.answer


class FailingRescue(Raises):
    """Fails to answer exceptions."""

    async def handle_exception(self, error: Exception) -> str:
        """Fail."""
        raise RuntimeError("again") from error


class Forgetful:
    """Accepts and does no bookkeeping."""

    async def handle_MAIL(self, *args: Any) -> str:
        return "250 noted"


class NullSender:
    """Sets the sender to the empty text."""

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = ""
        return "250 no sender"


class PlainHooks:
    """Has hooks that are not coroutines."""

    def handle_NOOP(
        self, server: SMTP, session: Session, envelope: Envelope, arg: str | None
    ) -> str:
        return f"250 plain {arg!r}"

    def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return f"250 plain {address!r}"


class EhloList:
    """Changes the lines of the answer to EHLO."""

    def __init__(self, drop: int = 0, add: tuple[str, ...] = (), greets: bool = True) -> None:
        self.drop, self.add, self.greets = drop, add, greets

    async def handle_EHLO(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        if self.greets:
            session.host_name = hostname
        return [*responses[: len(responses) - self.drop], *self.add]


class EhloAnswer:
    """Returns this to EHLO, greeted."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def handle_EHLO(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> Any:
        session.host_name = hostname
        return self.answer


class OldEhlo:
    """Has the four-argument hook."""

    def __init__(self, pushes: str = "", answer: str = "250 HELP") -> None:
        self.pushes, self.answer = pushes, answer

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str
    ) -> str:
        session.host_name = hostname
        if self.pushes:
            await server.push(self.pushes)
        return self.answer


class OldMessage:
    """Has the hook that smtpd.SMTPServer had."""

    def __init__(self, answer: str | None = None) -> None:
        self.answer = answer

    def process_message(self, peer: Any, mailfrom: str, rcpttos: list[str], data: Any) -> Any:
        """Push the arguments, unless there is an answer."""
        return None if self.answer is None else self.answer.format(mailfrom, rcpttos, data)


class OldAsyncMessage(OldMessage):
    """The same as a coroutine."""

    async def process_message(self, peer: Any, mailfrom: str, rcpttos: list[str], data: Any) -> Any:
        """Push the arguments, unless there is an answer."""
        return super().process_message(peer, mailfrom, rcpttos, data)


class Mechanism:
    """Has the mechanism X-TEST, which returns this after pushing that."""

    def __init__(self, returns: Any = None, pushes: str = "", asks: str | None = None) -> None:
        self.returns, self.pushes, self.asks = returns, pushes, asks

    async def auth_X__TEST(self, server: SMTP, args: list[str]) -> Any:
        """Push, ask and return as the transcript says."""
        if self.pushes:
            await server.push(self.pushes)
        if self.asks is not None:
            answer = await server.challenge_auth(self.asks)
            if answer is not MISSING:
                await server.push(f"235 {answer!r} {args!r}")
                return None
        return self.returns


class OwnPlain:
    """Has a PLAIN of its own."""

    async def auth_PLAIN(self, server: SMTP, args: list[str]) -> AuthResult:
        """Push the arguments."""
        return AuthResult(success=False, handled=False, message=f"535 mine {args!r}")


class RaisingMechanism:
    """Has the mechanism BROKEN."""

    async def auth_BROKEN(self, server: SMTP, args: list[str]) -> AuthResult:
        """Fail."""
        raise ValueError("broken")


def _returning(answer: Any) -> Callable[..., Any]:
    async def hook(server: SMTP, session: Session, envelope: Envelope, *more: Any) -> Any:
        return answer

    return hook


def _raising(text: str) -> Callable[..., Any]:
    async def hook(server: SMTP, session: Session, envelope: Envelope, *more: Any) -> Any:
        raise ValueError(text)

    return hook


# Values.


def check_password(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: LoginPassword
) -> AuthResult:
    """Know one user."""
    good = auth_data == (b"user", b"secret")
    return AuthResult(success=good, handled=False, auth_data=auth_data if good else None)


def check_silently(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: LoginPassword
) -> AuthResult:
    """Say no in the shortest way."""
    return AuthResult(success=False)


async def check_later(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: LoginPassword
) -> AuthResult:
    """Know one user, after a turn of the event loop."""
    await asyncio.sleep(0)
    return check_password(server, session, envelope, mechanism, auth_data)


def check_wrongly(*args: Any) -> Any:
    """Return a value that no authenticator may return."""
    return 5


def old_callback(mechanism: str, login: bytes, password: bytes) -> bool:
    """Know one user, in the old way."""
    return (login, password) == (b"user", b"secret")


def _lmtp() -> Any:
    # Looked up late: transcripts of SMTP need no LMTP.
    from aiosmtpd.lmtp import LMTP

    return LMTP


def _modern_names() -> dict[str, Any]:
    try:
        from . import cast_esmtp
    except ImportError:
        # 1.4.6, see against.py.
        return {}
    return vars(cast_esmtp)


@functools.cache
def _names() -> dict[str, Any]:
    found: dict[str, Any] = {
        name: value
        for name, value in globals().items()
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    return (
        found
        | _modern_names()
        | {
            "Fresh": fresh,
            "LONG_REPLY": f"250 {'word ' * 150}end",
            "MISSING": MISSING,
            "TLS": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            "SUCCESS": AuthResult(success=True),
            "SUCCESS_AS": AuthResult(success=True, auth_data=LoginPassword(b"user", b"secret")),
            "SUCCESS_TEXT": AuthResult(success=True, message="235 2.7.0 welcome"),
            "FAILURE": AuthResult(success=False),
            "FAILURE_TEXT": AuthResult(success=False, message="535 5.7.8 go away"),
            "FAILURE_UNHANDLED": AuthResult(success=False, handled=False),
            "FAILURE_UNHANDLED_TEXT": AuthResult(
                success=False, handled=False, message="554 5.7.0 no"
            ),
        }
    )


def value_of(node: ast.expr) -> Any:
    """Return the literal or the named value."""
    if isinstance(node, ast.Name):
        return _lmtp() if node.id == "LMTP" else _names()[node.id]
    if isinstance(node, ast.List):
        return [value_of(element) for element in node.elts]
    return ast.literal_eval(node)


@functools.cache
def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def named(text: str) -> Any:
    """Return the class called `text`, or the result of a call `Name(key=value)`."""
    node = _expression(text)
    if not isinstance(node, ast.Call):
        return value_of(node)
    arguments = {one.arg: value_of(one.value) for one in node.keywords if one.arg}
    return value_of(node.func)(*map(value_of, node.args), **arguments)


def server_factory(transcript: Transcript) -> Callable[[], SMTP]:
    """Return the factory of the server of `transcript`, with a handler of its own."""
    keywords = {name: value_of(node) for name, node in keyword_nodes(transcript.keywords).items()}
    keywords = {"hostname": HOSTNAME, "ident": IDENT} | keywords

    def factory() -> SMTP:
        handler = named(transcript.handler)
        if inspect.isclass(handler):
            handler = handler()
        server = named(transcript.server)
        result: SMTP = server(handler, **keywords)
        return result

    return factory
