"""Clients with Nagle's algorithm need not wait for an acknowledgement."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from tests.client import Client as RawClient
from tests.conftest import Certificates
from tests.dialogue.tls import PATIENCE, Client

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only on Linux")

DELAYED = 0.03
"""Seconds: an acknowledgement that waits for a packet of the server waits for 0.04."""


@pytest.fixture(params=[0, 2])
def server(certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[Controller]:
    """Serve with so many tickets for each client."""
    context = certificates.server_context()
    context.num_tickets = request.param
    controller = Controller(Sink(), "127.0.0.1", 0, server_hostname="mx.test", tls_context=context)
    controller.start()
    yield controller
    controller.stop()


def ask(client: socket.socket, line: bytes, end: bytes) -> None:
    client.sendall(line)
    got = b""
    while not got.endswith(end):
        got += client.recv(65536)


def acknowledged(client: socket.socket) -> float:
    """Return the seconds until the server has acknowledged all packets."""
    began = time.perf_counter()
    while True:
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        took = time.perf_counter() - began
        if struct.unpack_from("I", info, 24)[0] == 0:
            return took
        assert took < PATIENCE


def begin_tls(client: socket.socket, tls: Client) -> bytes:
    """Begin TLS; return the client's last bytes of the handshake."""
    ask(client, b"", b"\r\n")
    ask(client, b"EHLO client.test\r\n", b"250 HELP\r\n")
    ask(client, b"STARTTLS\r\n", b"\r\n")
    client.sendall(tls.shake_hands())
    while True:
        tls.feed(client.recv(65536))
        last = tls.shake_hands()
        if tls.established:
            return last


@pytest.mark.parametrize("packets", [1, 2])
def test_the_end_of_a_handshake_is_acknowledged(
    server: Controller, certificates: Certificates, packets: int
) -> None:
    """GnuTLS sends two."""
    took = []
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
            tls = Client(certificates.client_context())
            last = begin_tls(client, tls)
            if packets == 2:
                client.sendall(last[:6])
                took.append(acknowledged(client))
                last = last[6:]
            client.sendall(last)
            if packets == 1:
                took.append(acknowledged(client))
            client.sendall(tls.write(b"NOOP\r\n"))
            while not tls.read():
                tls.feed(client.recv(65536))
    assert min(took) < DELAYED


HEADER = b"Subject: a header that comes first\r\n"


@pytest.mark.parametrize("in_tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("command", [b"DATA", b"BDAT 200 LAST"], ids=["DATA", "BDAT"])
def test_the_first_pieces_of_a_message_are_acknowledged(
    certificates: Certificates, in_tls: bool, command: bytes
) -> None:
    """Among others, msmtp, s-nail and mutt write the header first, and then the rest."""
    took = []
    controller = Controller(
        Sink(),
        "127.0.0.1",
        0,
        server_hostname="mx.test",
        tls_context=certificates.server_context(),
        extensions="modern",
    )
    with controller, RawClient(controller.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        client.hello()
        if in_tls:
            client.ask(b"STARTTLS", b"220")
            client.start_tls(certificates.client_context())
            client.hello()
        for _ in range(5):
            client.begin()
            if command == b"DATA":
                client.ask(command, b"354")
            else:
                client.send(command + b"\r\n")
                took.append(acknowledged(client.socket))
            client.send(HEADER)
            took.append(acknowledged(client.socket))
            client.send(b"x" * (200 - len(HEADER)))
            if command == b"DATA":
                client.send(b"\r\n.\r\n")
            client.expect(b"250")
    # A busy machine may delay some.
    assert sorted(took)[-3] < DELAYED
