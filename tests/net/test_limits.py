"""How many connections a server has: refused before the greeting, counted right on every exit."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.controller import UnixSocketController
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import PATIENCE, Client
from tests.conftest import Certificates

from .support import Catcher, serving

TOO_MANY = b"421 4.7.0 Too many connections, try again later\r\n"
TOO_MANY_OF_HOST = b"421 4.7.0 Too many connections from your host, try again later\r\n"
TOO_MANY_ARRIVALS = b"421 4.7.0 Too many new connections from your host, try again later\r\n"


def refused(port: int) -> bytes:
    """Connect; return the only reply there is."""
    with Client(port, greet=False) as client:
        reply = client.reply()
        assert client.reply() == b""
        return reply


def come_again(port: int) -> Client:
    """Connect as soon as there is room: the server learns of an end in its own time."""
    for _ in range(1000):
        client = Client(port, greet=False)
        if client.reply().startswith(b"220"):
            return client
        client.close()
    raise AssertionError("there is never room again")


class Counter:
    """Counts comings and goings."""

    came = gone = 0

    async def handle_CONNECT(
        self, server: SMTP, session: Session, envelope: Envelope, host: str, port: int
    ) -> str:
        self.came += 1
        return f"220 number {self.came}"

    async def handle_DISCONNECT(
        self, server: SMTP, session: Session, envelope: Envelope, reason: str
    ) -> None:
        self.gone += 1


def quit_politely(client: Client) -> None:
    assert client.ask(b"QUIT").startswith(b"221")


def reset(client: Client) -> None:
    client.reset_at_close()


def break_off(client: Client) -> None:
    client.transaction()
    client.send(b"Subject: never to end\r\n")


def fail_often(client: Client) -> None:
    for _ in range(6):
        with contextlib.suppress(OSError):
            client.ask(b"NONSENSE")


@pytest.mark.parametrize("leave", [quit_politely, reset, break_off, fail_often, Client.close])
@pytest.mark.parametrize(
    ("limit", "reply"),
    [("max_connections", TOO_MANY), ("max_connections_per_host", TOO_MANY_OF_HOST)],
)
def test_so_many_at_once(limit: str, reply: bytes, leave: Callable[[Client], Any]) -> None:
    keywords: dict[str, Any] = {limit: 2}
    with serving(Sink(), **keywords) as controller:
        first, second = Client(controller.port), Client(controller.port)
        assert refused(controller.port) == reply
        leave(first)
        first.close()
        with come_again(controller.port), second:
            assert refused(controller.port) == reply


def test_hooks_do_not_hear_of_those_that_are_refused() -> None:
    handler = Counter()
    with serving(handler, max_connections_per_host=1) as controller:
        with Client(controller.port):
            assert refused(controller.port) == TOO_MANY_OF_HOST
        come_again(controller.port).close()
    assert handler.came == handler.gone == 2


def test_so_many_in_a_minute() -> None:
    with serving(Sink(), max_connection_rate=3) as controller:
        for _ in range(3):
            Client(controller.port).close()
        assert refused(controller.port) == TOO_MANY_ARRIVALS


def test_behind_a_proxy_clients_count() -> None:
    class Trusting(Catcher):
        async def handle_PROXY(self, *_: Any) -> bool:
            return True

    def connect(number: int) -> tuple[Client, bytes]:
        client = Client(controller.port, greet=False)
        client.send(b"PROXY TCP4 192.0.2.%d 198.51.100.1 1000 25\r\n" % number)
        return client, client.reply()

    keywords: dict[str, Any] = {"proxy_protocol_timeout": PATIENCE, "max_connections_per_host": 1}
    with serving(Trusting(), **keywords) as controller:
        clients, replies = zip(*map(connect, (1, 1, 2)), strict=True)
        assert replies[1] == TOO_MANY_OF_HOST
        assert [reply[:3] for reply in replies] == [b"220", b"421", b"220"]
        for client in clients:
            client.close()


def handshakes(port: int, number: int) -> tuple[list[Client], list[Client]]:
    """Connect and send nothing; return which clients are kept and refused, in their order."""
    clients = [Client(port, greet=False) for _ in range(number)]
    gone = []
    for client in clients[2:]:
        assert client.reply() == b""
        gone.append(client)
    return clients[:2], gone


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_host"])
def test_handshakes_count_before_they_end(limit: str, certificates: Certificates) -> None:
    keywords: dict[str, Any] = {limit: 2, "ssl_context": certificates.server_context()}
    with serving(Sink(), **keywords) as controller:
        kept, gone = handshakes(controller.port, 5)
        # The two that are there can still become connections, and make room as they go.
        context = certificates.client_context()
        for client in kept:
            client.start_tls(context)
            client.expect(b"220 ")
            client.close()
        for client in (*kept, *gone):
            client.close()


def other_host(port: int) -> Client:
    try:
        return Client(port, source="127.0.0.2", greet=False)
    except OSError:
        pytest.skip("this machine has one address of its own only")


def test_a_client_refused_in_tls_takes_no_room_from_others(certificates: Certificates) -> None:
    keywords: dict[str, Any] = {
        "max_connections": 4,
        "max_connections_per_host": 2,
        "ssl_context": certificates.server_context(),
    }
    context = certificates.client_context()
    with serving(Sink(), **keywords) as controller, contextlib.ExitStack() as stack:

        def secure(client: Client) -> None:
            stack.callback(client.close)
            client.start_tls(context)
            client.expect(b"220 ")

        for _ in range(2):
            secure(Client(controller.port, greet=False))
        for _ in range(4):
            client = Client(controller.port, greet=False)
            stack.callback(client.close)
            assert client.reply() == b""
        secure(other_host(controller.port))


class Ends(logging.Handler):
    """Tells of the ends of connections."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen: Queue[str] = Queue()

    def emit(self, record: logging.LogRecord) -> None:
        if "disconnected" in (text := record.getMessage()):
            self.seen.put(text)


def test_a_client_refused_in_tls_has_no_handshake(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends()
    logging.getLogger("mail.log").addHandler(ends)
    keywords: dict[str, Any] = {
        "max_connection_rate": 1,
        "ssl_context": certificates.server_context(),
    }
    context = certificates.client_context()
    with (
        caplog.at_level(logging.INFO),
        serving(Sink(), **keywords) as controller,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(logging.getLogger("mail.log").removeHandler, ends)
        client = stack.enter_context(Client(controller.port, tls=context, greet=False))
        client.expect(b"220 ")
        # No handshake for a client that is refused.
        late = stack.enter_context(Client(controller.port, greet=False))
        assert late.reply() == b""
        assert "421 4.7.0" in ends.seen.get(timeout=PATIENCE)


def test_handshakes_of_a_proxy_are_not_those_of_one_host(certificates: Certificates) -> None:
    class Trusting(Catcher):
        async def handle_PROXY(self, *_: Any) -> bool:
            return True

    keywords: dict[str, Any] = {
        "proxy_protocol_timeout": PATIENCE,
        "max_connections_per_host": 1,
        "ssl_context": certificates.server_context(),
    }
    context = certificates.client_context()
    with serving(Trusting(), **keywords) as controller:
        clients = [Client(controller.port, greet=False) for _ in range(3)]
        for number, client in enumerate(clients):
            # The header comes before TLS.
            client.send(b"PROXY TCP4 192.0.2.%d 198.51.100.1 1000 25\r\n" % number)
            client.start_tls(context)
            client.expect(b"220 ")
            client.close()


def test_handshakes_over_a_unix_socket_have_no_host(
    certificates: Certificates, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    keywords: dict[str, Any] = {
        "max_connections_per_host": 1,
        "ssl_context": certificates.server_context(),
    }
    context = certificates.client_context()
    controller = UnixSocketController(Sink(), unix_socket=path, **keywords)
    controller.start()
    with contextlib.ExitStack() as stack:
        stack.callback(controller.stop)
        clients = [stack.enter_context(Client(path, greet=False)) for _ in range(2)]
        for client in clients:
            client.start_tls(context)
            client.expect(b"220 ")


def test_a_restarted_server_counts_from_zero() -> None:
    with serving(Sink(), max_connection_rate=1) as controller:
        Client(controller.port).close()
        controller.stop()
        controller.start()
        Client(controller.port).close()
