"""Threats to TLS that docs/explain/threat-model names, over real sockets."""

import logging
import socket
import ssl
from contextlib import suppress
from typing import Any

import pytest

from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.dialogue.tls import Client as Hello
from tests.net.support import Catcher, serving

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 465\r\n"


class Facts(Catcher):
    """Keeps the TLS facts of the last session."""

    tls: Any = None

    async def handle_CONNECT(self, server: Any, session: Any, *_: Any) -> str:
        self.tls = session.ssl
        return "220 mx.test"


def shaken(port: int, context: ssl.SSLContext, before: bytes = b"") -> ssl.SSLSocket:
    """Connect, send *before* in the clear, and begin TLS."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    with suppress(OSError):
        plain.sendall(before)
    try:
        return context.wrap_socket(plain, server_hostname="localhost")
    except OSError:
        plain.close()
        raise


@pytest.mark.parametrize("header", [HEADER, b""])
def test_an_untrusted_host_gets_no_handshake(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, header: bytes
) -> None:
    """The PROXY header comes before TLS, so an untrusted host does not come as far as TLS."""
    caplog.set_level(logging.INFO)
    handler = Facts()
    keywords = {"proxy_protocol_timeout": PATIENCE, "proxy_trusted": "192.0.2.0/24"}
    seen = b""
    with (
        serving(handler, ssl_context=certificates.server_context(), **keywords) as controller,
        socket.create_connection(("127.0.0.1", controller.port), timeout=PATIENCE) as peer,
        suppress(OSError),
    ):
        peer.sendall(header + Hello(certificates.client_context()).shake_hands())
        # A client that leaves at once is not a balancer's probe: its line is at INFO.
        peer.shutdown(socket.SHUT_WR)
        seen = peer.recv(1000)
    assert seen == b""
    assert "PROXY header from a host that is not trusted" in caplog.text
    assert "TLS" not in caplog.text
    assert handler.tls is None


def test_a_second_proxy_header_in_tls_is_a_command(certificates: Certificates) -> None:
    """The client of a proxy cannot claim an address itself."""
    handler = Facts()
    keywords = {"proxy_protocol_timeout": PATIENCE, "proxy_trusted": "127.0.0.0/8"}
    with (
        serving(handler, ssl_context=certificates.server_context(), **keywords) as controller,
        shaken(controller.port, certificates.client_context(), HEADER) as client,
    ):
        assert client.recv(1000) == b"220 mx.test\r\n"
        client.sendall(HEADER.replace(b".7", b".8"))
        assert client.recv(1000)[:4] == b"500 "


def test_a_handshake_without_an_end_is_refused(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenSSL ends a first message that grows beyond 128 KiB."""
    caplog.set_level(logging.INFO)
    record = b"\x16\x03\x01\x40\x00"
    sent = 0
    with (
        serving(Facts(), ssl_context=certificates.server_context()) as controller,
        Client(controller.port, greet=False) as client,
        suppress(ConnectionError),
    ):
        client.send(record + b"\x01\x02\x00\x00" + bytes(16380))
        while sent < 64 * 2**20:
            client.send(record + bytes(16384))
            sent += 16384
    assert sent < 64 * 2**20
    assert "TLS handshake failed: [SSL: " in caplog.text


def test_the_first_context_asks_for_client_certificates(certificates: Certificates) -> None:
    """An ``sni_callback`` puts another in its place too late: docs/howto/tls."""
    first = certificates.server_context()
    second = certificates.server_context(ssl.CERT_REQUIRED)

    def choose(ssl_object: Any, name: str | None, context: ssl.SSLContext) -> None:
        ssl_object.context = second

    first.sni_callback = choose
    handler = Facts()
    showing = certificates.client_context(own_certificate=True)
    with serving(handler, ssl_context=first) as controller:
        with shaken(controller.port, showing) as client:
            assert client.recv(1000) == b"220 mx.test\r\n"
        assert (handler.tls["sslcontext"], handler.tls["peercert"]) == (second, None)
        first.verify_mode = ssl.CERT_REQUIRED
        with shaken(controller.port, showing) as client:
            assert client.recv(1000) == b"220 mx.test\r\n"
        assert handler.tls["peercert"]["subjectAltName"] == (("email", "client@example.com"),)


def test_a_resumed_session_has_the_clients_certificate(certificates: Certificates) -> None:
    handler = Facts()
    showing = certificates.client_context(own_certificate=True)
    session = None
    with serving(handler, ssl_context=certificates.server_context(ssl.CERT_REQUIRED)) as controller:
        for _ in range(2):
            plain = socket.create_connection(("127.0.0.1", controller.port), timeout=PATIENCE)
            with showing.wrap_socket(plain, server_hostname="localhost", session=session) as client:
                assert client.recv(1000) == b"220 mx.test\r\n"
                session, resumed = client.session, client.session_reused
            assert handler.tls["peercert"]["subjectAltName"] == (("email", "client@example.com"),)
    assert resumed
