"""Clients with Nagle's algorithm need not wait for an acknowledgement in their handshake."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
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
