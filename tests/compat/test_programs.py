"""Small versions of real programs, each with its own use of the API of 1.4."""

import asyncio
import base64
import collections
import hashlib
import hmac
import signal
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from email.errors import HeaderParseError
from typing import Any, ClassVar, NamedTuple
from unittest.mock import MagicMock, Mock

import pytest

from aiosmtpd.controller import Controller, UnthreadedController
from aiosmtpd.handlers import Message, Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import (
    MISSING,
    SMTP,
    AuthResult,
    Envelope,
    LoginPassword,
    Session,
    _Missing,
    auth_mechanism,
    syntax,
)
from aiosmtpd.testing.helpers import ReceivingHandler
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import Catcher

# A list server's LMTP runner.


class CountingLMTP(LMTP):
    connections = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).connections += 1
        super().connection_made(transport)

    @syntax("STAT")
    async def smtp_STAT(self, arg: str | None) -> None:
        await self.push(f"250 {self.connections}")


class Lists:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "\r\n".join(
            "250 Ok" if address.startswith("known") else f"550 No such list: {address}"
            for address in envelope.rcpt_tos
        )


class Runner(Controller):
    def factory(self) -> SMTP:
        server = CountingLMTP(self.handler, enable_SMTPUTF8=True)
        server.__ident__ = "List server LMTP"
        return server


def test_a_list_servers_lmtp_runner() -> None:
    runner = Runner(Lists(), hostname="127.0.0.1", port=0)
    runner.start()
    try:
        with Client(runner.port, greet=False) as client:
            assert client.reply().endswith(b" List server LMTP\r\n")
            assert client.ask(b"EHLO x") == b'500 Error: command "EHLO" not recognized\r\n'
            assert client.ask(b"LHLO x").endswith(b"250 HELP\r\n")
            client.ask(b"MAIL FROM:<a@b.test>")
            client.ask(b"RCPT TO:<known@b.test>")
            client.ask(b"RCPT TO:<none@b.test>")
            client.ask(b"DATA")
            assert client.ask(b"hi\r\n.") == b"250 Ok\r\n"
            assert client.reply() == b"550 No such list: none@b.test\r\n"
            assert client.ask(b"STAT") == b"250 1\r\n"
    finally:
        runner.stop()


# A library of fixtures: one controller, reset for each test.


class UserStore:
    def validate(self, login: str, password: str) -> bool:
        return (login, password) == ("user", "password")


class FixtureMessages(Message):
    def __init__(self, messages: list[Any]) -> None:
        super().__init__()
        self._messages = messages

    def handle_message(self, message: Any) -> None:
        self._messages.append(message)

    async def auth_CUSTOM(self, server: SMTP, args: list[str]) -> AuthResult:
        answer = await server.challenge_auth("Password:", log_client_response=True)
        store: Any = server._authenticator
        valid = isinstance(answer, bytes) and store.validate("user", answer.decode())
        return AuthResult(success=valid, handled=False)


class FixtureController(Controller):
    def __init__(
        self, certificates: Certificates, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.config = "mine"
        self._messages: list[Any] = []
        self._authenticator = UserStore()
        self._certificates = certificates
        self._ssl_context = certificates.server_context()
        super().__init__(
            FixtureMessages(self._messages),
            hostname="127.0.0.1",
            port=0,
            loop=loop,
            ready_timeout=PATIENCE,
            authenticator=self._authenticator,  # type: ignore[arg-type]
        )

    def factory(self) -> SMTP:
        return SMTP(
            handler=self.handler,
            data_size_limit=10_000,
            require_starttls=True,
            tls_context=self._ssl_context,
            auth_required=True,
            **self.SMTP_kwargs,
        )

    def reset(self) -> None:
        self.stop()
        self.__init__(self._certificates)  # type: ignore[misc]
        self.start()


@pytest.mark.filterwarnings("ignore:AUTH interaction logging is enabled!")
@pytest.mark.filterwarnings("ignore:Sensitive information might be leaked!")
def test_a_library_of_fixtures(certificates: Certificates) -> None:
    before = set(threading.enumerate())
    controller = FixtureController(certificates)
    with pytest.raises(AssertionError, match="SMTP daemon not running"):
        controller.stop()
    controller.start()
    for _ in range(24):
        with smtplib.SMTP("127.0.0.1", controller.port) as client:
            client.starttls(context=certificates.client_context())
            client.ehlo()
            client.user, client.password = "user", "password"
            assert client.docmd("AUTH", "CUSTOM")[0] == 334
            assert client.docmd(base64.b64encode(b"password").decode())[0] == 235
            client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")
        assert [message["subject"] for message in controller._messages] == ["hi"]
        controller.reset()
    controller.stop()
    for thread in set(threading.enumerate()) - before:
        # Idle worker threads end on their own: do not wait for them.
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_fixture_library_builds_servers_out_of_mocks() -> None:
    handler = Mock()
    server = SMTP(handler=handler, loop=Mock(), tls_context=Mock(spec=ssl.SSLContext))
    assert server.event_handler is handler
    assert server.session is None
    assert server.envelope is None
    # A MagicMock has any attribute, but its dir() lists no hooks.
    answering = MagicMock()
    SMTP(answering, loop=Mock())
    assert not answering.handle_EHLO.called


# A test server that finds a free port itself.


class LocalServer(Controller):
    def __init__(self) -> None:
        super().__init__(Catcher(), hostname="127.0.0.1", port=0)
        self.triggered = False

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = int(self.addresses[0][1])
        super()._trigger_server()
        with Client(self.port) as probe:
            self.triggered = bool(probe.greeting)

    def stop(  # type: ignore[override]
        self, no_assert: bool = False, timeout: float | None = None
    ) -> None:
        if self._thread is not None:
            self.loop.call_soon_threadsafe(self.cancel_tasks)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
            self._thread = self._thread_exception = self._factory_invoked = None


def test_a_server_that_finds_its_port_and_stops_itself() -> None:
    server = LocalServer()
    server.start()
    assert server.triggered
    with Client(server.port) as client:
        client.ask(b"NOOP")
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), PATIENCE)


# A controller with its own thread function.


class OwnRun(Controller):
    def _run(self, ready_event: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.server_coro = self.loop.create_server(
                self._factory_invoker, host=self.hostname, port=self.port, ssl=None
            )
            self.server = self.loop.run_until_complete(self.server_coro)
            self.port = int(self.addresses[0][1])
        except Exception as error:
            self._thread_exception = error
            return
        self.loop.call_soon(ready_event.set)
        self.loop.run_forever()
        self.server.close()
        self.loop.run_until_complete(self.server.wait_closed())
        self.loop.close()
        self.server = None


def test_a_controller_with_its_own_thread_function() -> None:
    controller = OwnRun(Catcher(), hostname="127.0.0.1", port=0)
    controller.start()
    assert isinstance(controller.smtpd, SMTP)
    with Client(controller.port) as client:
        client.ask(b"NOOP")
    controller.stop()


# A forwarder whose hook blocks while it sends.


class Forwarder:
    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        sender = "" if envelope.mail_from == "<>" else str(envelope.mail_from)
        content = envelope.original_content or b""
        with smtplib.SMTP(self.host, self.port, timeout=PATIENCE) as client:
            refused = client.sendmail(sender, envelope.rcpt_tos, b"X-Forwarded: yes\r\n" + content)
        return "550 refused" if refused else "250 OK"


@pytest.mark.parametrize("sender", ["", "a@b.test"])
def test_a_forwarder(sender: str) -> None:
    final = Catcher()
    with (
        Controller(final, hostname="127.0.0.1", port=0) as next_hop,
        Controller(Forwarder("127.0.0.1", next_hop.port), hostname="127.0.0.1", port=0) as first,
        smtplib.SMTP("127.0.0.1", first.port) as client,
    ):
        client.sendmail(sender, ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")
    envelope = final.envelope()
    assert envelope.mail_from == (sender or "<>")
    assert envelope.content == b"X-Forwarded: yes\r\nSubject: hi\r\n\r\nhello\r\n"


# A client library's test server.


class RecordingHandler:
    def __init__(self) -> None:
        self.tls: list[bool] = []

    async def handle_EHLO(
        self, server: Any, session: Session, envelope: Envelope, hostname: str, lines: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.tls.append(bool(server._tls_protocol))
        return lines


class RecordingSMTP(SMTP):
    commands: ClassVar[list[tuple[str, tuple[Any, ...]]]]
    responses: ClassVar[list[Any]]

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        if "bad" in arg:
            raise HeaderParseError("no address")
        if "worse" in arg:
            raise LookupError("no parser")
        return super()._getaddr(arg)

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        self.commands.append((command, args))
        hook_response = await super()._call_handler_hook(command, *args)
        assert isinstance(hook_response, str | list | _Missing)
        return hook_response

    async def push(self, status: str | bytes) -> None:
        self.responses.append(status)
        await super().push(status)

    async def smtp_EXPN(self, arg: str | None) -> None:
        status = await self._call_handler_hook("EXPN")
        await self.push("502 EXPN not implemented" if status is MISSING else status)


async def mocked(self: SMTP, arg: str | None = None) -> None:
    await self.push("250-mocked\n250 in one push")


async def closing(self: SMTP, *_: Any) -> None:
    self._writer.close()


async def test_a_client_librarys_server(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    handler = RecordingHandler()

    class Recording(RecordingSMTP):
        commands: ClassVar[list[tuple[str, tuple[Any, ...]]]] = []
        responses: ClassVar[list[Any]] = []

    def factory() -> SMTP:
        return Recording(handler, hostname="mx.test", tls_context=certificates.server_context())

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def talk() -> None:
        with smtplib.SMTP("127.0.0.1", port) as client:
            assert client.ehlo()[0] == 250
            client.starttls(context=certificates.client_context())
            assert client.ehlo()[0] == 250
            assert client.mail("bad@b.test") == (553, b"5.1.3 Error: malformed address")
            assert client.mail("worse@b.test")[0] == 451
            assert client.docmd("EXPN list") == (502, b"EXPN not implemented")
            monkeypatch.setattr(Recording, "smtp_NOOP", mocked)
            assert client.noop() == (250, b"mocked\nin one push")
            monkeypatch.setattr(Recording, "smtp_RCPT", closing)
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.rcpt("c@d.test")
        monkeypatch.setattr(Recording, "_handle_client", closing)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            smtplib.SMTP("127.0.0.1", port)

    await asyncio.to_thread(talk)
    server.close()
    await server.wait_closed()
    assert handler.tls == [False, True]
    assert ("EXPN", ()) in Recording.commands
    assert Recording.responses[0].startswith("220 mx.test ")


# A honeypot.


class Attacker(Session):
    """The session of an attacker."""


class Honeypot(SMTP):
    seen: collections.Counter[str] = collections.Counter()
    gone = threading.Event()

    def _create_session(self) -> Session:
        return Attacker(self.loop)

    async def _handle_client(self) -> None:
        self.seen["client"] += 1
        try:
            await super()._handle_client()
        finally:
            self.gone.set()

    def _timeout_cb(self) -> None:
        self.seen["timeout"] += 1
        super()._timeout_cb()

    async def smtp_QUIT(self, arg: str | None) -> None:
        self.seen["quit"] += 1
        await super().smtp_QUIT(arg)

    @auth_mechanism("CRAM-MD5")
    async def auth_CRAM_MD5(self, server: SMTP, args: list[str]) -> AuthResult:
        answer = await server.challenge_auth("<1.2@mx.test>")
        if not isinstance(answer, bytes):
            return AuthResult(success=False)
        login, _, digest = answer.rpartition(b" ")
        right = hmac.new(b"secret", b"<1.2@mx.test>", hashlib.md5).hexdigest().encode()
        data = LoginPassword(login, b"")
        return AuthResult(success=hmac.compare_digest(digest, right), handled=False, auth_data=data)


@pytest.fixture
def honeypot() -> Iterator[Controller]:
    Honeypot.seen.clear()
    Honeypot.gone.clear()

    class Trap(Controller):
        def factory(self) -> SMTP:
            return Honeypot(self.handler, auth_require_tls=False, timeout=0.5)

    with Trap(Catcher(), hostname="127.0.0.1", port=0) as controller:
        yield controller


def test_a_honeypot(honeypot: Controller) -> None:
    with smtplib.SMTP("127.0.0.1", honeypot.port) as client:
        client.ehlo()
        assert "CRAM-MD5" in client.esmtp_features["auth"].split()
        client.user, client.password = "anna", "secret"
        assert client.auth("CRAM-MD5", client.auth_cram_md5)[0] == 235
        client.sendmail("a@b.test", ["c@d.test"], "hi")
        handler: Catcher = honeypot.handler
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert isinstance(session, Attacker)
        assert session.auth_data.login == b"anna"
    assert Honeypot.gone.wait(PATIENCE)
    assert Honeypot.seen == {"client": 1, "quit": 1}


def test_a_honeypot_waits_for_silent_clients(honeypot: Controller) -> None:
    with Client(honeypot.port) as client:
        assert client.reply().startswith(b"421 4.4.2")
    assert Honeypot.gone.wait(PATIENCE)
    assert Honeypot.seen == {"client": 1, "timeout": 1}


# An asyncio application that serves in its own loop.


async def test_an_application_awaits_the_private_create_server() -> None:
    handler = Catcher()
    controller = Controller(handler, hostname="127.0.0.1", port=0)
    server = await controller._create_server()
    port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    def deliver() -> None:
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail("a@b.test", ["c@d.test"], "hi")

    await asyncio.to_thread(deliver)
    assert handler.envelope().content == b"hi\r\n"
    server.close()
    await server.wait_closed()


# A web framework's base class for tests.


class WebFrameworkHandler:
    def __init__(self) -> None:
        self.mailbox: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, str)
        self.mailbox.append(envelope.content)
        return "250 OK"


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data == LoginPassword(b"anna", b"secret"))


def test_a_web_frameworks_base_class(certificates: Certificates) -> None:
    handler = WebFrameworkHandler()
    controller = Controller(
        handler,
        hostname="127.0.0.1",
        port=0,
        decode_data=True,
        authenticator=authenticate,
        auth_required=True,
        ssl_context=certificates.server_context(),
    )
    controller.start()
    try:
        context = certificates.client_context()
        with smtplib.SMTP_SSL("127.0.0.1", controller.port, context=context) as client:
            client.ehlo()
            assert client.mail("a@b.test")[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("anna", "wrong")
            client.login("anna", "secret")
            client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\ngrüße".encode())
    finally:
        controller.stop()
    assert handler.mailbox == ["Subject: hi\r\n\r\ngrüße\r\n"]


# A gateway that runs its loop itself and ends it in a signal handler.


class Gateway(NamedTuple):
    name: str
    seen: list[Any]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.seen.append(envelope.mail_from)
        return "250 OK"


def test_a_gateway_that_is_ended_by_a_signal() -> None:
    loop = asyncio.new_event_loop()
    handler = Gateway("gateway", [])
    controller = UnthreadedController(handler, loop=loop, hostname="127.0.0.1", port=0)
    controller.begin()

    def deliver_and_interrupt() -> None:
        with smtplib.SMTP("127.0.0.1", controller.port) as client:
            client.sendmail("a@b.test", ["c@d.test"], "hi")
        loop.call_soon_threadsafe(signal.raise_signal, signal.SIGTERM)

    def end(*_: object) -> None:
        loop.stop()
        controller.end()

    before = signal.signal(signal.SIGTERM, end)
    try:
        client = threading.Thread(target=deliver_and_interrupt)
        client.start()
        loop.run_forever()
        client.join(PATIENCE)
        if not controller.ended.is_set():
            loop.run_until_complete(controller.finalize())
    finally:
        signal.signal(signal.SIGTERM, before)
        loop.close()
    assert controller.ended.wait(PATIENCE)
    assert handler.seen == ["a@b.test"]


class Numbered(Envelope):
    number = 7


class OwnEnvelopes(SMTP):
    async def smtp_RSET(self, arg: str | None) -> None:
        self.envelope = Numbered()
        await self.push("250 OK")


class EnvelopeController(Controller):
    def factory(self) -> SMTP:
        return OwnEnvelopes(self.handler)


def test_a_program_makes_its_own_envelope() -> None:
    handler = ReceivingHandler()
    with (
        EnvelopeController(handler, hostname="127.0.0.1", port=0) as controller,
        smtplib.SMTP("127.0.0.1", controller.port) as client,
    ):
        client.ehlo()
        client.rset()
        client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")
        client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")
    assert [getattr(envelope, "number", None) for envelope in handler.box] == [7, None]


class Counting(SMTP):
    made: ClassVar[list[str]]

    def _create_session(self) -> Session:
        self.made.append("session")
        return super()._create_session()

    def _create_envelope(self) -> Envelope:
        self.made.append("envelope")
        return super()._create_envelope()


def test_a_program_that_counts_its_envelopes() -> None:
    class Counted(Counting):
        made: ClassVar[list[str]] = []

    class CountingController(Controller):
        def factory(self) -> SMTP:
            return Counted(self.handler)

    with (
        CountingController(Sink(), hostname="127.0.0.1", port=0) as controller,
        smtplib.SMTP("127.0.0.1", controller.port) as client,
    ):
        assert Counted.made == ["envelope", "session"]
        for command in "HELO a.test", "NOOP", "RSET", "RSET x":
            client.docmd(command)
        assert Counted.made[2:] == ["envelope"] * 2
        # After EHLO, and after DATA.
        client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")
        assert Counted.made[4:] == ["envelope"] * 2


def test_a_class_is_given_as_the_handler() -> None:
    with (
        Controller(Sink, hostname="127.0.0.1", port=0) as controller,
        smtplib.SMTP("127.0.0.1", controller.port) as client,
    ):
        assert client.sendmail("a@b.test", ["c@d.test"], "hi") == {}
