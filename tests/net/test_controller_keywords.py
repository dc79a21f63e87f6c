"""Controllers: their keywords, and the settings of their connections."""

import asyncio
import smtplib
import socket
from typing import Any

import pytest

import aiosmtpd.controller
from aiosmtpd.controller import Controller, _FakeServer
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, Settings
from tests.conftest import Certificates

PATIENCE = 10.0
LOCAL: dict[str, Any] = {"hostname": "127.0.0.1", "port": 0}


def name_of_the_server(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        return sock.recv(100).split()[1]


def test_connections_share_settings_until_the_keywords_change() -> None:
    seen: list[Settings] = []

    class Observing(Controller):
        def factory(self) -> SMTP:
            smtpd = super().factory()
            seen.append(smtpd.settings)
            return smtpd

    limits = {"NOOP": 5}
    with Observing(Sink(), server_hostname="a", command_call_limit=limits, **LOCAL) as controller:
        assert [name_of_the_server(controller.port) for _ in range(2)] == [b"a", b"a"]
        # The first was made by start().
        assert len({id(settings) for settings in seen}) == 1
        controller.SMTP_kwargs["hostname"] = "b"
        assert name_of_the_server(controller.port) == b"b"
        limits["NOOP"] = 0
        with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client:
            assert client.noop()[0] == 421
        controller.SMTP_kwargs = {"hostname": "c"}
        assert name_of_the_server(controller.port) == b"c"


def test_keywords_may_change_before_the_start() -> None:
    controller = Controller(Sink(), timeout=1, **LOCAL)
    controller.SMTP_kwargs["hostname"] = "changed"
    del controller.SMTP_kwargs["timeout"]
    with controller:
        assert name_of_the_server(controller.port) == b"changed"


@pytest.mark.parametrize(
    ("name", "near"), [("prot", "port"), ("ready_time_out", "ready_timeout"), ("idnet", "ident")]
)
def test_a_misspelt_keyword_names_the_closest(name: str, near: str) -> None:
    wrong: dict[str, Any] = {name: 1}
    controller = Controller(Sink(), **LOCAL, **wrong)
    with pytest.raises(TypeError, match=rf"unexpected .* '{name}'. Did you mean '{near}'\?"):
        controller.start()


def test_keywords_for_a_factory_of_the_programs_own(certificates: Certificates) -> None:
    """Only the factory knows what they mean."""

    class Named(Controller):
        def factory(self) -> SMTP:
            keywords = {**self.SMTP_kwargs}
            return SMTP(self.handler, hostname=keywords.pop("nickname"), **keywords)

    own: dict[str, Any] = {"nickname": "mx"}
    with Named(Sink(), ssl_context=certificates.server_context(), **own, **LOCAL) as controller:
        plain = socket.create_connection(("127.0.0.1", controller.port), PATIENCE)
        context = certificates.client_context()
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            assert client.recv(100).startswith(b"220 mx ")


def test_a_loop_among_the_keywords_goes_to_smtp() -> None:
    controller = Controller(Sink(), server_hostname="mx", **LOCAL)
    controller.SMTP_kwargs["loop"] = controller.loop
    with controller:
        assert name_of_the_server(controller.port) == b"mx"


def test_the_server_class_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests of programs do: it gets the keywords of 1.4."""

    class Other(SMTP):
        def __init__(self, handler: Any, **keywords: Any) -> None:
            super().__init__(handler, **{**keywords, "hostname": "other"})

    monkeypatch.setattr(aiosmtpd.controller, "SMTP", Other)
    with Controller(Sink(), ident="Mine", **LOCAL) as controller:
        assert name_of_the_server(controller.port) == b"other"


def test_the_object_that_refuses_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests of programs do, and hide the error: there is no server object then."""
    controller = Controller(Sink(), **LOCAL)

    def refuse(loop: asyncio.AbstractEventLoop) -> Any:
        controller._thread_exception = None
        return _FakeServer(loop)

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("simulated")

    monkeypatch.setattr(aiosmtpd.controller, "_FakeServer", refuse)
    monkeypatch.setattr(aiosmtpd.controller, "SMTP", fail)
    with pytest.raises(RuntimeError, match="Unknown Error, failed to init SMTP server"):
        controller.start()
    controller.stop()


def test_an_ssl_context_that_is_set_later(certificates: Certificates) -> None:
    class Later(Controller):
        async def _create_server(self) -> asyncio.AbstractServer:
            self.ssl_context = certificates.server_context()
            return await super()._create_server()

    with Later(Sink(), **LOCAL) as controller:
        plain = socket.create_connection(("127.0.0.1", controller.port), PATIENCE)
        context = certificates.client_context()
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            assert client.recv(4) == b"220 "


def test_a_start_that_fails_after_binding_frees_the_port() -> None:
    class Failing(Controller):
        async def _create_server(self) -> asyncio.AbstractServer:
            await super()._create_server()
            raise ZeroDivisionError("after binding")

    controller = Failing(Sink(), **LOCAL)
    with pytest.raises(ZeroDivisionError, match="after binding"):
        controller.start()
    assert controller.port
    with pytest.raises(ConnectionRefusedError):
        name_of_the_server(controller.port)
    controller.stop()
