"""The tickets of TLS 1.3 on real sockets, and clients with Nagle's algorithm."""

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


def ask(client: socket.socket, line: bytes, end: bytes) -> None:
    client.sendall(line)
    got = b""
    while not got.endswith(end):
        got += client.recv(65536)


def unacknowledged(client: socket.socket) -> int:
    """Return how many packets the server has not acknowledged."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 24)[0])


def end_handshake(client: socket.socket, tls: Client) -> float:
    """Begin TLS; return the seconds until the end of the handshake is acknowledged."""
    ask(client, b"", b"\r\n")
    ask(client, b"EHLO client.test\r\n", b"250 HELP\r\n")
    ask(client, b"STARTTLS\r\n", b"\r\n")
    client.sendall(tls.shake_hands())
    while True:
        tls.feed(client.recv(65536))
        last = tls.shake_hands()
        if tls.established:
            break
    client.sendall(last)
    began = time.perf_counter()
    while unacknowledged(client):
        assert time.perf_counter() - began < PATIENCE
    return time.perf_counter() - began


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Controller]:
    controller = Controller(
        Sink(), "127.0.0.1", 0, server_hostname="mx.test", tls_context=certificates.server_context()
    )
    controller.start()
    yield controller
    controller.stop()


def test_a_client_with_nagles_algorithm_need_not_wait(
    server: Controller, certificates: Certificates
) -> None:
    took = []
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
            tls = Client(certificates.client_context())
            took.append(end_handshake(client, tls))
            client.sendall(tls.write(b"EHLO client.test\r\n"))
            # One packet has the tickets and the reply.
            tls.feed(client.recv(65536))
            assert tls.read().endswith(b"250 HELP\r\n")
            assert tls.object.session is not None
            assert tls.object.session.has_ticket
    assert min(took) < DELAYED


def test_a_client_that_says_nothing_gets_its_tickets(
    server: Controller, certificates: Certificates
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        tls = Client(certificates.client_context())
        end_handshake(client, tls)
        while tls.object.session is None or not tls.object.session.has_ticket:
            tls.feed(client.recv(65536))
            assert tls.read() == b""
