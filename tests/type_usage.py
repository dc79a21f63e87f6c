"""Programs as users write them, for the type checkers: ``mypy --strict`` and pyright are clean.

A comment that ignores an error is itself an error if there is nothing to ignore. So the type
checkers find each mistake in ``mistakes()``.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
import re
import ssl
from email.message import Message as EmailMessage
from typing import Any

from aiosmtpd import Controller, Handler, Mail, Server, Settings, SMTPKeywords
from aiosmtpd.controller import (
    UnixSocketController,
    UnixSocketUnthreadedController,
    UnthreadedController,
)
from aiosmtpd.handlers import AsyncMessage, Debugging, Mailbox, Message, Proxy, Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.proxy_protocol import ProxyData
from aiosmtpd.smtp import (
    MISSING,
    SMTP,
    AuthResult,
    Envelope,
    LoginPassword,
    Observer,
    Refused,
    Reply,
    Session,
    TakenMessage,
    auth_mechanism,
    syntax,
)
from aiosmtpd.testing import Inbox, StartsInbox, smtp_options


class OneHook:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert envelope.mail_from is not None
        return f"250 OK {len(envelope.rcpt_tos)}"


class Counting:
    def __init__(self) -> None:
        self.accepted = 0

    def taken(self, server: SMTP, message: TakenMessage) -> None:
        self.accepted += message.reply.code == 250


class CheckedObserver(Observer):
    """Compared with the signature of every method of an observer."""

    def began(self, server: SMTP) -> None:
        print(server.session.peer)

    def refused(self, server: SMTP, reply: Reply) -> None:
        print(server.session.peer, reply.enhanced)

    def tls(self, server: SMTP, result: str, version: str | None) -> None:
        print(result, version)

    def auth(self, server: SMTP, mechanism: str, success: bool) -> None:
        print(mechanism, success)

    def line(self, server: SMTP, line: bytes, secret: bool) -> None:
        print("***" if secret else line.decode())

    def reply(self, server: SMTP, verb: str, reply: Reply) -> None:
        print(verb, reply.code)

    def sent(self, server: SMTP, data: bytes) -> None:
        print(len(data))

    async def before(self, server: SMTP, stage: str, argument: str | None) -> None:
        async def slowly(data: bytes) -> None:
            await server.pause(0.1)
            server.send(data)

        if stage == "rcpt" and argument is not None and argument.endswith(".invalid"):
            raise Refused("550 5.1.2 No such domain")
        server.wrap_next_reply(slowly)

    def data(self, server: SMTP, size: int) -> None:
        print(size)

    def taken(self, server: SMTP, message: TakenMessage) -> None:
        print(message.envelope.rcpt_tos, message.size, message.data_seconds)

    def ended(self, server: SMTP, reason: str) -> None:
        print(reason)


class MistakenObserver(Observer):
    def ended(self, server: SMTP) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Lack the reason: an error."""


class PlainHook:
    def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        envelope.rcpt_tos.append(address)
        return "250 OK"


class Checked(Handler):
    """Compared with every hook's signature."""

    async def handle_EHLO(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        session.host_name = hostname
        return responses

    def handle_MAIL(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        mail_options: list[str],
    ) -> str:
        envelope.mail_from = address
        return "250 OK"

    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> bool:
        return proxy_data.valid

    async def handle_AUTH(
        self, server: SMTP, session: Session, envelope: Envelope, args: list[str]
    ) -> Any:
        return MISSING

    async def handle_DISCONNECT(
        self, server: SMTP, session: Session, envelope: Envelope, reason: str
    ) -> None:
        print(session.client_address, reason)

    @auth_mechanism("X-TOKEN")
    async def auth_TOKEN(self, server: SMTP, args: list[str]) -> AuthResult:
        answer = await server.challenge_auth("token?")
        return AuthResult(success=answer == b"secret")


class Parsed(Message):
    def handle_message(self, message: EmailMessage) -> None:
        print(message["subject"])


class AsyncParsed(AsyncMessage):
    async def handle_message(self, message: EmailMessage) -> None:
        await asyncio.sleep(0)


class Pinging(SMTP):
    @syntax("PING [ignored]")
    async def smtp_PING(self, arg: str | None) -> None:
        await self.push("259 Pong")

    async def smtp_MAIL(self, arg: str | None) -> None:
        await super().smtp_MAIL(arg)


class PingController(Controller):
    def factory(self) -> SMTP:
        return Pinging(self.handler, **self.SMTP_kwargs)


def authenticate(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: Any
) -> AuthResult:
    assert isinstance(auth_data, LoginPassword)
    return AuthResult(success=auth_data.login == b"anna", auth_data=auth_data)


async def authenticate_later(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: Any
) -> AuthResult:
    return AuthResult(success=False, handled=False)


async def take(mail: Mail) -> str:
    return f"250 {mail.message['subject']}"


def controllers() -> list[Controller | UnixSocketController | UnthreadedController]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    return [
        Controller(OneHook(), port=0),
        Controller(handler=PlainHook(), hostname="", ssl_context=context, ready_timeout=1.0),
        Controller(take),
        Controller(Sink, authenticator=authenticate, auth_required=True, decode_data=True),
        Controller(Debugging(), authenticator=authenticate_later, tls_context=context),
        PingController(Mailbox("mail"), timeout=60),
        UnixSocketController(Proxy("127.0.0.1", 25), unix_socket="smtp.socket"),
        UnthreadedController(Checked(), loop=asyncio.new_event_loop()),
    ]


def caught(inbox: Inbox) -> str:
    inbox.fail("rcpt", "450 4.2.1 Mailbox busy", times=1)
    mail = inbox.wait(to=inbox.address, subject=re.compile("^Welcome"), timeout=1)
    names: list[str] = [attachment.name for attachment in mail.attachments]
    inbox.assert_none(to="x@*", within=0.1)
    return mail.link("/confirm") + mail.code() + mail.headers["From"] + "".join(names)


async def serve() -> None:
    observers = [Counting(), CheckedObserver()]
    places = ["127.0.0.1:0", "unix:smtp.socket"]
    async with Server(take, listen=places, observers=observers) as server:
        print(server.addresses)
        await server.serve_forever()
    await asyncio.get_running_loop().create_server(lambda: LMTP(Parsed()), "127.0.0.1", 0)
    AsyncParsed(loop=asyncio.get_running_loop())


STRICT: SMTPKeywords = {"extensions": "modern", "bare_newline": "reject", "timeout": 60}


class Relayed(Controller):
    """Takes keywords of its own, and passes the others on."""

    def __init__(self, handler: Any, relay: str, **keywords: Any) -> None:
        super().__init__(handler, **keywords)
        self.relay = relay


def keywords_at_each_door(smtp_server: StartsInbox) -> None:
    SMTP(Sink(), **STRICT)
    LMTP(Sink(), settings=Settings.of(STRICT))
    Controller(Sink(), "", 0, server_hostname="mx.test", shutdown_timeout=1.0, spill_size=10)
    Controller(Sink(), server_kwargs={"timeout": 60}, max_recipients=10)
    Relayed(Sink(), "127.0.0.1", port=0, timeout=60)
    Server(Sink(), listen="lmtp://:24", shutdown_timeout=1.0, **STRICT)
    Inbox(tls="starttls", size_limit=1000, **STRICT)
    smtp_server(users={"me": "secret"}, max_errors=None)


@smtp_options(tls="implicit", protocol="lmtp", extensions="all")
def marked(smtp_inbox: Inbox) -> None:
    """A test with options for its inbox."""


# fmt: off
def mistakes(smtp_server: StartsInbox) -> None:
    SMTP(Sink(), size_limit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    LMTP(Sink(), size_limit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Controller(Sink(), prot=0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UnthreadedController(Sink(), time_out=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UnixSocketController(Sink(), "s", time_out=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UnixSocketUnthreadedController(Sink(), "s", time_out=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Server(Sink(), listn=":25")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Inbox(sizelimit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    smtp_server(sizelimit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    smtp_options(sizelimit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    SMTP(Sink(), extensions="modrn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Controller(Sink(), bare_newline="strip")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Server(Sink(), unknown_params="accept")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Server(Sink(), max_connections="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Inbox(tls="ssl")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    smtp_options(protocol="pop3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
# fmt: on
