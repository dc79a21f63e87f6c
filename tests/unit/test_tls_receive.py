"""Ciphertext that the TLS layer takes from a buffer of its caller."""

import ssl

import pytest

from aiosmtpd.engine.tls import PIECE, TLS
from tests.conftest import Certificates
from tests.dialogue.tls import Client

from .test_tls_layer import EDGES, V13, VERSIONS, feed, pattern, shake_hands


def established(certificates: Certificates, version: ssl.TLSVersion = V13) -> tuple[TLS, Client]:
    """Return both sides, after their handshake."""
    context = certificates.client_context()
    context.maximum_version = version
    tls, client = TLS(certificates.server_context()), Client(context)
    shake_hands(tls, client)
    return tls, client


@VERSIONS
@pytest.mark.parametrize("size", EDGES)
def test_the_caller_may_use_its_buffer_again(
    certificates: Certificates, version: ssl.TLSVersion, size: int
) -> None:
    tls, client = established(certificates, version)
    data = client.write(pattern(size))
    buffer = bytearray(len(data))
    got = b""
    for cut in (len(data) // 3, len(data)):
        piece, data = data[:cut], data[cut:]
        buffer[: len(piece)] = piece
        got += tls.receive(memoryview(buffer)[: len(piece)])
        buffer[:] = bytes(len(buffer))
    assert got == pattern(size)


def test_nothing_of_a_buffer_is_kept_after_the_end(certificates: Certificates) -> None:
    tls, client = established(certificates)
    data = client.write(b"QUIT\r\n") + client.close() + bytes(2 * PIECE)
    assert tls.receive(data) == b"QUIT\r\n"
    assert tls.ended
    assert tls.receive(data) == b""


def test_what_waited_in_the_handshake_comes_first(certificates: Certificates) -> None:
    tls, client = TLS(certificates.server_context()), Client(certificates.client_context())
    assert feed(tls, client.shake_hands()) == b""
    client.feed(tls.output())
    tls.feed(client.shake_hands() + client.write(pattern(4 * PIECE)))
    assert tls.shake_hands()
    more = client.write(pattern(4 * PIECE, 1))
    assert tls.receive(more) == pattern(4 * PIECE) + pattern(4 * PIECE, 1)
