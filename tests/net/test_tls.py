"""TLS over real sockets: STARTTLS (RFC 3207) and implicit TLS."""

import logging
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session, TLSSetupException
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import Catcher, serving


def upgraded(client: Client, context: ssl.SSLContext) -> None:
    """Go through STARTTLS."""
    assert client.ask(b"EHLO client.test")[:3] == b"250"
    assert client.ask(b"STARTTLS") == b"220 Ready to start TLS\r\n"
    client.start_tls(context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_starttls_begins_a_new_session(certificates: Certificates, version: ssl.TLSVersion) -> None:
    handler = Catcher()
    context = certificates.client_context()
    context.maximum_version = version
    with (
        serving(handler, tls_context=certificates.server_context()) as controller,
        Client(controller.port) as client,
    ):
        assert b"STARTTLS" in client.ask(b"EHLO client.test")
        peer = client.socket.getsockname()
        upgraded(client, context)
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"503 Error: send HELO first\r\n"
        assert b"STARTTLS" not in client.ask(b"EHLO again.test")
        assert client.ask(b"STARTTLS")[:3] == b"503"
        client.transaction()
        client.send(b"hi\r\n.\r\n")
        assert client.reply() == b"250 OK\r\n"
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert session.peer == peer
        assert session.host_name == "client.test"
        assert session.ssl is not None
        assert set(session.ssl) == {
            "peercert",
            "cipher",
            "compression",
            "ssl_object",
            "sslcontext",
        }


REFUSED = b"AUTH PLAIN AHUAcA=="


@pytest.mark.parametrize(
    ("keywords", "command", "times", "answer"),
    [
        ({"command_call_limit": {"NOOP": 2, "*": 20}}, b"NOOP", 2, b"421 4.7.0 NOOP sent too many"),
        ({}, b"JUNK", 4, b"502 5.5.1 Too many unrecognized commands"),
        ({"max_auth_failures": 1}, REFUSED, 1, b"421 4.7.0 Too many failed authentications"),
        ({"max_transactions": 1}, b"MAIL FROM:<a@b.test>", 1, b"452 4.5.3"),
    ],
    ids=["calls", "unknown verbs", "failed AUTH", "transactions"],
)
def test_counts_from_before_starttls_hold_after_it(
    certificates: Certificates, keywords: dict[str, Any], command: bytes, times: int, answer: bytes
) -> None:
    """A client cannot reset its counts with TLS."""
    context = certificates.server_context()
    settings = {"tls_context": context, "auth_require_tls": False, **keywords}
    with serving(Catcher(), **settings) as controller, Client(controller.port) as client:
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        for _ in range(times):
            assert not client.ask(command).startswith(answer)
        upgraded(client, certificates.client_context())
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        assert client.ask(command).startswith(answer)


def test_implicit_tls_counts_as_tls(certificates: Certificates) -> None:
    handler = Catcher()
    server_context = certificates.server_context()
    with serving(handler, ssl_context=server_context, tls_context=server_context) as controller:
        context = certificates.client_context()
        with smtplib.SMTP_SSL("127.0.0.1", controller.port, context=context) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            assert client.has_extn("auth")
            client.sendmail("a@b.test", ["c@d.test"], b"hi\r\n")
        session, envelope = handler.caught.get(timeout=PATIENCE)
        assert envelope.content == b"hi\r\n"
        assert session.ssl is not None


@pytest.mark.parametrize("implicit", [False, True])
def test_a_client_certificate_is_in_the_session(certificates: Certificates, implicit: bool) -> None:
    handler = Catcher()
    wants = certificates.server_context(ssl.CERT_REQUIRED)
    keywords: dict[str, Any] = {"ssl_context" if implicit else "tls_context": wants}
    with serving(handler, **keywords) as controller:
        context = certificates.client_context(own_certificate=True)
        client: smtplib.SMTP
        if implicit:
            client = smtplib.SMTP_SSL("127.0.0.1", controller.port, context=context)
        else:
            client = smtplib.SMTP("127.0.0.1", controller.port)
            client.starttls(context=context)
        with client:
            client.sendmail("a@b.test", ["c@d.test"], b"hi\r\n")
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert session.ssl is not None
        names = session.ssl["peercert"]["subjectAltName"]
        assert ("email", "client@example.com") in names


def test_the_context_may_be_a_callable(certificates: Certificates) -> None:
    handler = Catcher()
    with (
        serving(handler, tls_context=certificates.server_context) as controller,
        Client(controller.port) as client,
    ):
        upgraded(client, certificates.client_context())
        client.transaction()
        client.send(b".\r\n")
        assert client.reply() == b"250 OK\r\n"


def test_a_callable_without_a_context_is_an_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> ssl.SSLContext:
        raise FileNotFoundError("cert.pem")

    with serving(Catcher(), tls_context=fails) as controller, Client(controller.port) as client:
        client.hello()
        assert client.ask(b"STARTTLS")[:9] == b"451 4.3.0"
        assert client.ask(b"NOOP") == b"250 OK\r\n"
    assert "FileNotFoundError: cert.pem" in caplog.text


def test_plaintext_after_starttls_is_never_run(certificates: Certificates) -> None:
    """CVE-2011-0411: bytes in the same segment as STARTTLS are dropped."""
    handler = Catcher()
    with (
        serving(handler, tls_context=certificates.server_context()) as controller,
        Client(controller.port) as client,
    ):
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        client.send(b"STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@b.test>\r\n")
        assert client.reply() == b"220 Ready to start TLS\r\n"
        client.start_tls(certificates.client_context())
        assert client.ask(b"RCPT TO:<c@d.test>") == b"503 Error: send HELO first\r\n"
        assert client.ask(b"NOOP") == b"250 OK\r\n"


def test_starttls_forgets_a_transaction(certificates: Certificates) -> None:
    with (
        serving(Catcher(), tls_context=certificates.server_context()) as controller,
        Client(controller.port) as client,
    ):
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        assert client.ask(b"MAIL FROM:<a@b.test>")[:3] == b"250"
        upgraded(client, certificates.client_context())
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        assert client.ask(b"RCPT TO:<c@d.test>") == b"503 Error: need MAIL command\r\n"


class TellsOfFaults(Catcher):
    def __init__(self) -> None:
        super().__init__()
        self.faults: Queue[Exception] = Queue()

    async def handle_exception(self, error: Exception) -> str:
        self.faults.put(error)
        return "451 told"


@pytest.mark.parametrize(
    "nonsense", [b"EHLO in the clear\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 99]
)
def test_a_failed_handshake_leaves_nothing(
    certificates: Certificates, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    handler = TellsOfFaults()
    with (
        caplog.at_level(logging.INFO),
        serving(handler, tls_context=certificates.server_context()) as controller,
    ):
        with Client(controller.port) as client:
            assert client.ask(b"EHLO client.test")[:3] == b"250"
            assert client.ask(b"STARTTLS")[:3] == b"220"
            client.send(nonsense)
            assert isinstance(handler.faults.get(timeout=PATIENCE), TLSSetupException)
            left = client.rest()
        assert b"451" not in left
        with Client(controller.port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_goes_in_the_handshake(certificates: Certificates) -> None:
    handler = TellsOfFaults()
    with serving(handler, tls_context=certificates.server_context()) as controller:
        with Client(controller.port) as client:
            assert client.ask(b"EHLO client.test")[:3] == b"250"
            assert client.ask(b"STARTTLS")[:3] == b"220"
        assert isinstance(handler.faults.get(timeout=PATIENCE), TLSSetupException)


def test_require_starttls(certificates: Certificates) -> None:
    context = certificates.server_context()
    with (
        serving(Catcher(), tls_context=context, require_starttls=True) as controller,
        Client(controller.port) as client,
    ):
        assert client.ask(b"HELO client.test") == b"530 Must issue a STARTTLS command first\r\n"
        assert client.ask(b"NOOP") == b"250 OK\r\n"
        upgraded(client, certificates.client_context())
        client.transaction()


class RefusesTLS(Catcher):
    def handle_STARTTLS(self, server: SMTP, session: Session, envelope: Envelope) -> bool:
        assert session.ssl is not None
        return False


class RefusesTLSLater(Catcher):
    """Has a hook that is awaited: its coroutine would be true."""

    async def handle_STARTTLS(self, server: SMTP, session: Session, envelope: Envelope) -> bool:
        return False


@pytest.mark.parametrize("kind", [RefusesTLS, RefusesTLSLater])
def test_a_refused_handshake_leaves_only_quit(
    kind: type[Catcher], certificates: Certificates
) -> None:
    with (
        serving(kind(), tls_context=certificates.server_context()) as controller,
        Client(controller.port) as client,
    ):
        upgraded(client, certificates.client_context())
        refused = b"554 Command refused due to lack of security\r\n"
        assert client.ask(b"EHLO client.test") == refused
        assert client.ask(b"NOOP") == refused
        assert client.ask(b"QUIT") == b"221 Bye\r\n"


class RaisesInTLS(Catcher):
    def handle_STARTTLS(self, server: SMTP, session: Session, envelope: Envelope) -> bool:
        raise ValueError("no policy")


def test_a_hook_that_raises_after_the_handshake_opens_nothing(certificates: Certificates) -> None:
    handler = RaisesInTLS()
    with (
        serving(handler, tls_context=certificates.server_context()) as controller,
        Client(controller.port) as client,
    ):
        upgraded(client, certificates.client_context())
        assert b"no policy" not in client.ask(b"EHLO client.test")
        assert client.ask(b"MAIL FROM:<a@b.test>")[:3] != b"250"


def test_lmtp_may_greet_before_tls_is_required(certificates: Certificates) -> None:
    """RFC 3207 section 4 and RFC 2033: else no client sees that STARTTLS is offered."""
    server = certificates.server_context()

    class Local(Controller):
        def factory(self) -> LMTP:
            return LMTP(self.handler, tls_context=server, require_starttls=True)

    controller = Local(Catcher(), hostname="127.0.0.1", port=0)
    with controller, Client(controller.port) as client:
        assert b"STARTTLS" in client.ask(b"LHLO client.test")
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"530 Must issue a STARTTLS command first\r\n"


def test_a_large_message_over_tls(certificates: Certificates) -> None:
    handler = Catcher()
    message = b"".join(b"%08d %s\r\n" % (n, b"x" * 60) for n in range(5_000_000 // 71))
    with serving(handler, tls_context=certificates.server_context()) as controller:
        with smtplib.SMTP("127.0.0.1", controller.port) as client:
            client.starttls(context=certificates.client_context())
            client.sendmail("a@b.test", ["c@d.test"], message)
        assert handler.envelope().content == message


def test_a_second_connection_made_for_each_starttls(certificates: Certificates) -> None:
    """Mailman counts them: two for each STARTTLS connection."""
    made: list[object] = []

    class Counting(SMTP):
        def connection_made(self, transport: Any) -> None:
            made.append(transport)
            super().connection_made(transport)

    from aiosmtpd.controller import Controller

    context = certificates.server_context()

    class Counted(Controller):
        def factory(self) -> SMTP:
            return Counting(self.handler, tls_context=context)

    with (
        Counted(Catcher(), hostname="127.0.0.1", port=0) as controller,
        Client(controller.port) as client,
    ):
        upgraded(client, certificates.client_context())
        assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert len(made) == 2


def test_a_subclass_with_its_own_starttls(certificates: Certificates) -> None:
    """A fixture library switches the facades' transports itself."""
    handler = Catcher()
    context = certificates.server_context()

    class Own(SMTP):
        async def smtp_STARTTLS(self, arg: str | None) -> None:
            await self.push("220 Ready to start TLS")
            transport: Any = self.transport
            tls: Any = await self.loop.start_tls(transport, self, context, server_side=True)
            self._original_transport = transport
            self._tls_protocol = tls
            self._reader._transport = tls
            self._writer._transport = tls
            assert self._writer._transport is tls
            assert self._reader._transport is tls

    from aiosmtpd.controller import Controller

    class Owned(Controller):
        def factory(self) -> SMTP:
            return Own(self.handler, tls_context=context)

    with (
        Owned(handler, hostname="127.0.0.1", port=0) as controller,
        Client(controller.port) as client,
    ):
        upgraded(client, certificates.client_context())
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"503 Error: send HELO first\r\n"
        client.transaction()
        client.send(b".\r\n")
        assert client.reply() == b"250 OK\r\n"
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert session.ssl is not None


def test_a_subclass_with_its_own_starttls_closes_after_a_reply() -> None:
    """On uvloop its transport is the event loop's own."""

    class Own(SMTP):
        async def smtp_STARTTLS(self, arg: str | None) -> None:
            await super().smtp_STARTTLS(arg)

        async def smtp_NOOP(self, arg: str | None) -> None:
            await self.push("421 later")
            assert self.transport is not None
            self.transport.close()

    from aiosmtpd.controller import Controller

    class Owned(Controller):
        def factory(self) -> SMTP:
            return Own(self.handler)

    with (
        Owned(Catcher(), hostname="127.0.0.1", port=0) as controller,
        Client(controller.port) as client,
    ):
        assert client.ask(b"NOOP") == b"421 later\r\n"
        assert client.rest() == b""


def stay(client: Client) -> None:
    assert client.socket.recv(100) == b""


def reset(client: Client) -> None:
    client.reset()


def talk_on(client: Client) -> None:
    client.send(b"NOOP\r\n")


def go(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)


@contextmanager
def in_the_handshake(
    told: Queue[str], certificates: Certificates, timeout: float
) -> Iterator[tuple[Controller, Client]]:
    """Serve a client that has said STARTTLS; *told* gets the end of its connection."""

    class Losing(SMTP):
        def connection_lost(self, error: Exception | None) -> None:
            told.put("lost")
            super().connection_lost(error)

    class Handler(Catcher):
        async def handle_DISCONNECT(self, *args: Any) -> None:
            told.put(args[-1])

    class Losers(Controller):
        def factory(self) -> SMTP:
            return Losing(self.handler, **self.SMTP_kwargs)

    context = certificates.server_context()
    made = Losers(Handler(), "127.0.0.1", 0, tls_context=context, timeout=timeout)
    with (
        made as controller,
        Client(controller.port) as client,
    ):
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        assert client.ask(b"STARTTLS")[:3] == b"220"
        yield controller, client


@pytest.mark.parametrize("do", [stay, reset, talk_on, go])
def test_a_handshake_that_fails_ends_the_connection_once(
    do: Callable[[Client], None], certificates: Certificates
) -> None:
    told: Queue[str] = Queue()
    # The server waits only for a client that stays silent.
    timeout = 0.3 if do is stay else PATIENCE
    with in_the_handshake(told, certificates, timeout) as (_, client):
        do(client)
        # It is forgotten, and does not count among the open connections any more.
        assert told.get(timeout=PATIENCE) == "lost"
        assert told.get(timeout=PATIENCE).startswith("TLS handshake failed")
    assert told.empty()


def test_a_stop_in_the_handshake_ends_the_connection_once(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    told: Queue[str] = Queue()
    with in_the_handshake(told, certificates, PATIENCE) as (controller, _):
        controller.stop(timeout=0.1)
    assert told.get_nowait() == "lost"
    assert told.get_nowait().startswith("TLS handshake failed")
    assert told.empty()
    assert "refuse to end" not in caplog.text


def test_reset_in_the_middle_of_tls(certificates: Certificates) -> None:
    with serving(Catcher(), tls_context=certificates.server_context()) as controller:
        client = Client(controller.port)
        upgraded(client, certificates.client_context())
        client.reset()
        with Client(controller.port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"


def test_a_stop_does_not_wait_for_a_client_to_take_leave(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.engine.connection.CLOSE_NOTIFY", 0.05)
    context = certificates.server_context()
    with (
        serving(Catcher(), ssl_context=context, shutdown_timeout=6 * PATIENCE) as controller,
        Client(controller.port, tls=certificates.client_context()),
    ):
        # The client reads no more, and says nothing.
        stopping = threading.Thread(target=controller.stop)
        stopping.start()
        stopping.join(2 * PATIENCE)
        assert not stopping.is_alive()
