"""Observers on real sockets: controllers, TLS, and the ends of connections."""

import asyncio
import logging
import smtplib
import ssl
from collections.abc import Callable
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.controller import Controller, UnthreadedController
from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.protocol.settings import Settings
from aiosmtpd.server import Server
from aiosmtpd.smtp import SMTP, TakenMessage
from aiosmtpd.testing.faults import Faults, faulty
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import serving


class Told:
    """An observer that keeps the calls of some of its methods, for another thread."""

    def __init__(self, *names: str) -> None:
        self.calls: Queue[tuple[Any, ...]] = Queue()
        for name in names or ("began", "tls", "ended"):
            setattr(self, name, self._keeper(name))

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(server: SMTP, *args: Any) -> None:
            self.calls.put((name, *args))

        return keep

    def next(self) -> tuple[Any, ...]:
        return self.calls.get(timeout=PATIENCE)


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
NAMES = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("starttls", [True, False])
def test_a_handshake_is_reported_within_its_connection(
    certificates: Certificates, starttls: bool, version: ssl.TLSVersion
) -> None:
    told, context = Told(), certificates.client_context()
    context.minimum_version = context.maximum_version = version
    tls = certificates.server_context()
    keywords: dict[str, Any] = {"tls_context": tls} if starttls else {"ssl_context": tls}
    with serving(Sink(), observers=[told], **keywords) as controller:
        if starttls:
            with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client:
                client.starttls(context=context)
                client.ehlo()
        else:
            where = "127.0.0.1", controller.port
            with smtplib.SMTP_SSL(*where, timeout=PATIENCE, context=context) as client:
                client.ehlo()
        calls = [told.next() for _ in range(3)]
    assert calls == [("began",), ("tls", "ok", NAMES[version]), ("ended", "QUIT")]
    assert told.calls.empty()


def test_a_handshake_that_fails_is_reported_before_the_end(
    certificates: Certificates,
) -> None:
    told = Told()
    with (
        serving(Sink(), observers=[told], tls_context=certificates.server_context()) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"STARTTLS")[:3] == b"220"
        client.send(b"not a handshake\r\n")
        began, (name, result, version), (end, reason) = (told.next() for _ in range(3))
    assert (began, name, version, end) == (("began",), "tls", None, "ended")
    assert "SSL" in result
    assert reason == f"TLS handshake failed: {result}"
    assert told.calls.empty()


def test_a_client_that_leaves_its_handshake_is_reported(certificates: Certificates) -> None:
    told = Told()
    tls = certificates.server_context()
    with serving(Sink(), observers=[told], tls_context=tls) as controller:
        with Client(controller.port) as client:
            client.ask(b"EHLO client.test")
            client.ask(b"STARTTLS")
        calls = [told.next() for _ in range(3)]
    assert [call[0] for call in calls] == ["began", "tls", "ended"]
    assert calls[1][1] not in ("", "ok")


def test_one_that_fails_at_tls_is_logged(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def tls(self, server: SMTP, result: str, version: str | None) -> None:
            raise LookupError(result)

    tls = certificates.server_context()
    with (
        serving(Sink(), observers=[Failing()], tls_context=tls) as controller,
        smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client,
    ):
        client.starttls(context=certificates.client_context())
        assert client.noop()[0] == 250
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "Failing.tls failed" in record.getMessage()


def test_before_starttls_may_refuse(certificates: Certificates) -> None:
    class NotNow:
        def __init__(self) -> None:
            self.stages: list[tuple[str, str | None]] = []

        async def before(self, server: SMTP, stage: str, argument: str | None) -> None:
            self.stages.append((stage, argument))
            if stage == "starttls" and len(self.stages) < 4:
                server.disconnect("421 4.7.0 Not today")

    observer = NotNow()
    tls = certificates.server_context()
    with serving(Sink(), observers=[observer], tls_context=tls) as controller:
        with Client(controller.port) as client:
            client.ask(b"EHLO client.test")
            assert client.ask(b"STARTTLS") == b"421 4.7.0 Not today\r\n"
            assert client.reply() == b""
        with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as smtp:
            smtp.starttls(context=certificates.client_context())
            assert smtp.noop()[0] == 250
    # TLS begins a new session, but no new connection.
    assert [stage for stage, _ in observer.stages] == [
        *["connect", "ehlo", "starttls"],
        *["connect", "ehlo", "starttls", "quit"],
    ]


def test_each_connection_of_a_stopped_server_is_reported_ended() -> None:
    told = Told()
    with serving(Sink(), observers=[told], shutdown_timeout=0.1) as controller:
        clients = [Client(controller.port) for _ in range(3)]
        clients[0].transaction()
        clients[1].ask(b"EHLO client.test")
    for client in clients:
        client.close()
    calls = [told.next()[0] for _ in range(6)]
    assert calls == ["began"] * 3 + ["ended"] * 3


def test_one_connection_too_many_is_reported() -> None:
    told = Told("refused", "ended")
    with (
        serving(Sink(), observers=[told], max_connections=1) as controller,
        Client(controller.port),
    ):
        with Client(controller.port, greet=False) as client:
            assert client.reply()[:3] == b"421"
        assert told.next()[0] == "refused"
        assert told.next()[0] == "ended"


async def test_an_observer_serves_a_server_of_several_places() -> None:
    class Counts:
        count = 0

        def taken(self, server: SMTP, message: TakenMessage) -> None:
            self.count += message.reply.code == 250
            self.kind = type(server)

    def deliver(port: Any, kind: type[smtplib.SMTP]) -> None:
        with kind("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail("a@b.test", ["c@d.test"], "Subject: x\n\nbody")

    observer = Counts()
    places = "smtp://127.0.0.1:0", "lmtp://127.0.0.1:0"
    async with Server(Sink(), listen=places, observers=[observer]) as server:
        for address, kind in zip(server.addresses, (smtplib.SMTP, smtplib.LMTP), strict=True):
            await asyncio.to_thread(deliver, address[1], kind)
        assert observer.kind is LMTP
    assert observer.count == 2


async def test_an_unthreaded_controller_takes_observers() -> None:
    told = Told("began")
    loop = asyncio.get_running_loop()
    controller = UnthreadedController(
        Sink(), hostname="127.0.0.1", port=0, loop=loop, observers=[told]
    )
    await controller.start_async()
    try:
        with await asyncio.to_thread(Client, controller.port):
            assert told.calls.get_nowait() == ("began",)
    finally:
        await controller.stop_async()


def test_a_controller_refuses_other_objects() -> None:
    with (
        pytest.raises(TypeError, match="has no method of an observer: began, refused, tls"),
        Controller(Sink(), hostname="127.0.0.1", port=0, observers=[Sink()]),
    ):
        raise AssertionError("started")


def test_faulty_adds_to_settings_and_to_observers() -> None:
    told = Told("line")
    made = faulty(SMTP, Faults(["mail: 450 busy"]))
    settings = Settings.of({"hostname": "mx.test", "observers": [told]})

    class BySettings(Controller):
        def factory(self) -> SMTP:
            return made(self.handler, settings=settings)

    class ByKeywords(Controller):
        def factory(self) -> SMTP:
            return made(self.handler, hostname="mx.test", observers=[told])

    for kind in BySettings, ByKeywords:
        with kind(Sink(), hostname="127.0.0.1", port=0) as controller:
            with Client(controller.port) as client:
                client.ask(b"EHLO x")
                assert client.ask(b"MAIL FROM:<a@b.test>") == b"450 busy\r\n"
            assert [told.next()[1] for _ in range(2)] == [b"EHLO x", b"MAIL FROM:<a@b.test>"]
