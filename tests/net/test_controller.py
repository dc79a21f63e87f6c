"""Controllers: the life of a server in a thread of its own or in a program's event loop."""

import asyncio
import errno
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import aiosmtpd.controller
from aiosmtpd.controller import (
    IP6_IS,
    BaseController,
    Controller,
    UnixSocketController,
    UnixSocketUnthreadedController,
    UnthreadedController,
    get_localhost,
)
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.controlling import LOCAL, POSIX, Failing, is_served, stopping, taken
from tests.net.support import free_port

# In a thread of its own.


def test_start_and_stop() -> None:
    controller = Controller(Sink(), **LOCAL)
    assert controller.addresses == []
    controller.start()
    port = controller.port
    assert port
    assert controller.addresses == [("127.0.0.1", port)]
    assert is_served(port)
    assert isinstance(controller.smtpd, SMTP)
    assert controller.server is not None
    controller.stop()
    assert not is_served(port)
    gone: list[Any] = [controller.smtpd, controller.server]
    assert gone == [None, None]
    assert controller.addresses == []
    assert controller.loop.is_closed()


def test_start_again() -> None:
    controller = Controller(Sink(), **LOCAL)
    ports = []
    for _ in range(3):
        controller.start()
        ports.append(controller.port)
        assert is_served(controller.port)
        controller.stop()
    assert all(ports)


def test_a_port_that_was_found_may_be_taken_at_the_next_start() -> None:
    controller = Controller(Sink(), **LOCAL)
    controller.start()
    controller.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", controller.port))
        other.listen()
        with controller:
            assert controller.port != other.getsockname()[1]
            assert is_served(controller.port)


def test_a_port_that_the_program_chose_is_kept() -> None:
    with taken() as port:
        pass
    controller = Controller(Sink(), hostname="127.0.0.1", port=port)
    for _ in range(2):
        with controller:
            assert controller.port == port
            assert is_served(port)


def test_the_port_of_an_environment_variable() -> None:
    port: Any = str(free_port())
    with Controller(Sink(), "127.0.0.1", port) as controller:
        assert is_served(int(port))
        assert controller.port == port
    with Controller(Sink(), "127.0.0.1", cast(Any, "0")) as controller:
        assert is_served(controller.port)


def test_as_a_context_manager() -> None:
    with Controller(Sink(), **LOCAL) as controller:
        assert is_served(controller.port)
        port = controller.port
    assert not is_served(port)


def test_twice_started() -> None:
    with Controller(Sink(), **LOCAL) as controller:
        with pytest.raises(AssertionError, match=r"^SMTP daemon already running$"):
            controller.start()
        assert is_served(controller.port)


def test_stopped_without_a_start() -> None:
    controller = Controller(Sink(), **LOCAL)
    with pytest.raises(AssertionError, match=r"^SMTP daemon not running$"):
        controller.stop()
    controller.stop(no_assert=True)


def test_twice_stopped() -> None:
    controller = Controller(Sink(), **LOCAL)
    controller.start()
    controller.stop()
    with pytest.raises(AssertionError, match=r"^SMTP daemon not running$"):
        controller.stop()


def test_an_unused_controller_holds_nothing() -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    kept = [Controller(Sink(), **LOCAL) for _ in range(10)]
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after == before
    assert len(kept) == 10


def test_on_a_loop_that_is_given() -> None:
    loop = asyncio.new_event_loop()
    controller = Controller(Sink(), loop=loop, **LOCAL)
    assert controller.loop is loop
    with controller:
        assert is_served(controller.port)
    assert loop.is_closed()


def test_in_a_loop_that_runs() -> None:
    async def main() -> None:
        controller = Controller(Sink(), loop=asyncio.get_running_loop(), **LOCAL)
        with pytest.raises(RuntimeError, match="use `await controller"):
            controller.start()

    asyncio.run(main())


def test_the_port_is_taken() -> None:
    with taken() as port:
        controller = Controller(Sink(), hostname="127.0.0.1", port=port)
        with pytest.raises(OSError, match=f"'127.0.0.1', {port}") as caught:
            controller.start()
        assert caught.value.errno == errno.EADDRINUSE
        controller.stop()
    with controller:
        assert is_served(port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_port(port: int) -> None:
    controller = Controller(Sink(), hostname="127.0.0.1", port=port)
    with pytest.raises(OverflowError, match="0-65535"), stopping(controller):
        controller.start()


def test_no_host() -> None:
    controller = Controller(Sink(), hostname="no-such-host.invalid", port=0)
    with pytest.raises(socket.gaierror, match="no-such-host"), stopping(controller):
        controller.start()


def test_every_interface() -> None:
    with Controller(Sink(), hostname="", port=0) as controller:
        assert is_served(controller.port)


@pytest.mark.skipif(get_localhost() != "::1", reason="no IPv6 here")
def test_both_loopbacks_by_default() -> None:
    with Controller(Sink(), port=0) as controller:
        assert controller.addresses == [("::1", controller.port), ("127.0.0.1", controller.port)]
        for host in "::1", "127.0.0.1":
            Client((host, controller.port)).close()


def test_a_subclass_may_name_the_host_later() -> None:
    controller = Controller(Sink(), port=0)
    controller.hostname = "127.0.0.1"
    with controller:
        assert controller.addresses == [("127.0.0.1", controller.port)]


# Effects of `factory()`.


@pytest.mark.parametrize("error", [ValueError("in factory()"), TimeoutError("in factory()")])
def test_a_factory_that_raises(error: Exception) -> None:
    controller = Failing(Sink(), **LOCAL)
    controller.error = error
    with pytest.raises(type(error), match=r"in factory\(\)"):
        controller.start()
    controller.stop()
    assert not is_served(controller.port)


def test_a_wrong_keyword_is_raised_by_start() -> None:
    controller = Controller(Sink(), sizelimit=1, **LOCAL)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sizelimit"), stopping(controller):
        controller.start()


def test_a_factory_that_gives_nothing() -> None:
    class Empty(Controller):
        def factory(self) -> Any:
            return None

    controller = Empty(Sink(), **LOCAL)
    with pytest.raises(RuntimeError, match="returned None"), stopping(controller):
        controller.start()


def test_a_factory_that_raises_later(caplog: pytest.LogCaptureFixture) -> None:
    controller = Failing(Sink(), **LOCAL)
    controller.good = 1
    with controller:
        with Client(controller.port, greet=False) as client:
            assert client.reply() == b"421 4.3.0 Service not available\r\n"
            assert client.reply() == b""
        controller.good = 1
        assert is_served(controller.port)
    assert "a connection is refused" in caplog.text
    assert "ValueError: in factory()" in caplog.text


def test_a_factory_that_is_too_slow() -> None:
    let_go = threading.Event()

    class Slow(Controller):
        def factory(self) -> SMTP:
            let_go.wait(PATIENCE)
            return super().factory()

    # Time in which the thread begins to serve, also on a busy machine.
    controller = Slow(Sink(), ready_timeout=0.5, **LOCAL)
    with pytest.raises(TimeoutError, match="not responding within allotted time"):
        controller.start()
    let_go.set()
    controller.stop()
    assert not is_served(controller.port)


def test_a_server_that_is_too_slow() -> None:
    class Slow(Controller):
        async def _create_server(self) -> asyncio.AbstractServer:
            await asyncio.sleep(PATIENCE)
            return await super()._create_server()

    controller = Slow(Sink(), ready_timeout=0.1, **LOCAL)
    with pytest.raises(TimeoutError, match="failed to start within allotted time"):
        controller.start()
    controller.stop()


def test_the_environment_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSMTPD_CONTROLLER_TIMEOUT", "12.5")
    assert Controller(Sink(), ready_timeout=1).ready_timeout == 12.5
    monkeypatch.delenv("AIOSMTPD_CONTROLLER_TIMEOUT")
    assert Controller(Sink(), ready_timeout=1).ready_timeout == 1
    assert Controller(Sink()).ready_timeout == 5


def test_a_check_of_the_programs_own() -> None:
    class Checking(Controller):
        def _trigger_server(self) -> None:
            assert is_served(self.port)
            raise ConnectionRefusedError("not what I want")

    controller = Checking(Sink(), **LOCAL)
    with pytest.raises(ConnectionRefusedError, match="not what I want"):
        controller.start()
    assert not is_served(controller.port)
    controller.stop()


def test_a_check_that_is_too_slow_is_not_a_failure() -> None:
    class Checking(Controller):
        def _trigger_server(self) -> None:
            raise TimeoutError

    with Checking(Sink(), **LOCAL) as controller:
        assert is_served(controller.port)


def test_a_run_that_breaks_before_it_serves() -> None:
    class Broken(Controller):
        def _run(self, ready_event: threading.Event) -> None:
            raise ZeroDivisionError("in _run()")

    controller = Broken(Sink(), **LOCAL)
    with pytest.raises(ZeroDivisionError, match=r"in _run\(\)"):
        controller.start()
    controller.stop()


def test_a_run_that_serves_nothing() -> None:
    class Empty(Controller):
        def _run(self, ready_event: threading.Event) -> None:
            pass

    controller = Empty(Sink(), **LOCAL)
    with pytest.raises(TimeoutError, match="failed to start"):
        controller.start()
    controller.stop()


# Keywords.


@pytest.mark.parametrize("kind", [Controller, UnthreadedController])
def test_server_kwargs(kind: type[BaseController]) -> None:
    with pytest.warns(DeprecationWarning, match=r"server_kwargs will be removed") as caught:
        controller = kind(
            Sink(), server_kwargs={"ident": "a", "timeout": 1}, ident="b", server_hostname="mx.test"
        )
    assert caught[0].filename == __file__
    assert controller.SMTP_kwargs == {
        "ident": "b",
        "timeout": 1,
        "hostname": "mx.test",
        "enable_SMTPUTF8": True,
    }


def test_a_context_from_a_callable(certificates: Certificates) -> None:
    made = []

    def make() -> ssl.SSLContext:
        made.append(1)
        return certificates.server_context()

    with Controller(Sink(), ssl_context=make, **LOCAL) as controller:
        Client(controller.port, tls=certificates.client_context()).close()
    assert made == [1]


def test_a_client_of_a_servers_context(certificates: Certificates) -> None:
    """1.4's helper by which programs reach their own server."""
    server = certificates.server_context()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    context = aiosmtpd.controller._server_to_client_ssl_ctx(server)
    with (
        Controller(Sink(), ssl_context=server, **LOCAL) as controller,
        Client(controller.port, tls=context) as client,
    ):
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.version() == "TLSv1.2"


# Names and addresses of this machine.


class Probe:
    """A socket whose bind() raises this."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, *_: object) -> "Probe":
        return self

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def bind(self, _: object) -> None:
        if self.number:
            raise OSError(self.number, "so")


@pytest.mark.parametrize(
    ("number", "host"),
    [
        (0, "::1"),
        (errno.EADDRINUSE, "::1"),
        (errno.EADDRNOTAVAIL, "127.0.0.1"),
        (errno.EAFNOSUPPORT, "127.0.0.1"),
        (errno.EMFILE, "127.0.0.1"),
    ],
)
def test_get_localhost(number: int, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiosmtpd.controller, "makesock", Probe(number))
    monkeypatch.setattr(aiosmtpd.controller, "_has_ipv6", lambda: True)
    assert get_localhost() == host
    monkeypatch.setattr(aiosmtpd.controller, "_has_ipv6", lambda: False)
    assert get_localhost() == "127.0.0.1"


def test_errnos() -> None:
    assert errno.EADDRINUSE in IP6_IS.YES
    assert {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} <= IP6_IS.NO
    assert aiosmtpd.controller._has_ipv6() is socket.has_ipv6


# Unix sockets.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@POSIX
def test_a_unix_socket(path: Path) -> None:
    controller = UnixSocketController(Sink(), path)
    assert controller.unix_socket == str(path)
    for _ in range(2):
        with controller:
            assert controller.addresses == [str(path)]
            Client(str(path)).close()
        assert not path.exists()


@POSIX
def test_a_unix_socket_in_the_programs_loop(path: Path) -> None:
    controller = UnixSocketUnthreadedController(Sink(), str(path))
    with controller, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    assert not path.exists()
    assert controller.ended.is_set()
