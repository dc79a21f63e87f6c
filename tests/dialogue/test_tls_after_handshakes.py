"""Messages of TLS 1.3 after the handshake (RFC 8446 section 4.6): tickets and new keys."""

import asyncio
import errno
import socket
import ssl
from pathlib import Path
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from aiosmtpd.engine import wire
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP
from tests.conftest import Certificates

from .tls import PATIENCE, Client, Peer, no_queue as no_queue

UPDATE = bytes([24, 0, 0, 1, 1])
"""A KeyUpdate that asks for one in return."""

HANDSHAKE = bytes([22])


def expand(secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context: RFC 8446 section 7.1."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


class Keys:
    """The keys of a client for the bytes that it sends, which the ssl module does not change."""

    def __init__(self, log: Path) -> None:
        lines = [line.split() for line in log.read_text().splitlines()]
        (secret,) = (line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0")
        self._secret = bytes.fromhex(secret)

    def update(self) -> bytes:
        """Return a record that asks for new keys: the first one that these keys encrypt."""
        key, nonce = expand(self._secret, "key", 32), expand(self._secret, "iv", 12)
        self._secret = expand(self._secret, "traffic upd", 48)
        plain = UPDATE + HANDSHAKE
        header = bytes([23, 3, 3]) + (len(plain) + 16).to_bytes(2, "big")
        return header + AESGCM(key).encrypt(nonce, plain, header)


@pytest.fixture
async def updates(certificates: Certificates, tmp_path: Path) -> tuple[Peer, Keys]:
    """Connect, begin TLS, and give the keys of the client."""
    server = SMTP(Sink(), hostname="mx.test", tls_context=certificates.server_context())
    context = certificates.client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.keylog_filename = str(tmp_path / "keys")
    peer = Peer(server)
    await peer.asks_for_tls()
    await peer.shake_hands(Client(context))
    assert peer.tls is not None
    cipher = peer.tls.object.cipher()
    assert cipher is not None
    assert cipher[0] == "TLS_AES_256_GCM_SHA384"
    return peer, Keys(tmp_path / "keys")


def has_ticket(peer: Peer) -> bool:
    """Read what has come, but no text; return True if the client could resume its session."""
    assert peer.read() == b""
    session = None if peer.tls is None else peer.tls.object.session
    return session is not None and session.has_ticket


async def test_the_tickets_wait_for_no_command(certificates: Certificates) -> None:
    """A client with Nagle's algorithm would send its EHLO 40 ms later without them."""
    peer = Peer(SMTP(Sink(), hostname="mx.test", tls_context=certificates.server_context()))
    await peer.starttls(certificates.client_context())
    async with asyncio.timeout(PATIENCE):
        while not has_ticket(peer):
            peer.transport.changed.clear()
            await peer.transport.changed.wait()
    await peer.finish()


async def test_the_tickets_leave_with_a_reply(certificates: Certificates) -> None:
    """One write has both, if the first command comes with the end of the handshake."""
    peer = Peer(SMTP(Sink(), hostname="mx.test", tls_context=certificates.server_context()))
    await peer.asks_for_tls()
    client = Client(certificates.client_context())
    peer.ciphertext()
    peer.transport.feed(client.shake_hands())
    client.feed(peer.ciphertext())
    end_of_handshake = client.shake_hands()
    peer.tls, peer.text = client, b""
    with patch.object(peer.transport, "write", wraps=peer.transport.write) as write:
        # From the event loop, as a socket's bytes come: within a task the driver would wait.
        arrived = end_of_handshake + client.write(b"NOOP\r\n")
        asyncio.get_running_loop().call_soon(peer.transport.feed, arrived)
        assert await peer.until(b"\r\n") == b"250 OK\r\n"
    assert write.call_count == 1
    assert client.object.session is not None
    assert client.object.session.has_ticket
    await peer.finish()


async def test_new_keys_are_answered_without_a_reply(updates: tuple[Peer, Keys]) -> None:
    """A server that keeps its answers for its next reply keeps as many as a client asks for."""
    peer, keys = updates
    # OpenSSL answers when it sees that there is more to read.
    peer.transport.feed(keys.update())
    for _ in range(100):
        before = len(peer.transport.sent)
        peer.transport.feed(keys.update())
        assert len(peer.transport.sent) > before
    # The client follows all these keys.
    assert await peer.finish() == b""


async def test_a_flood_of_new_keys_is_not_kept(updates: tuple[Peer, Keys]) -> None:
    """A client that asks and does not read is cut off."""
    peer, keys = updates
    peer.transport.feed(keys.update())
    assert not peer.transport.is_closing()
    sent = len(peer.transport.sent)
    peer.server.pause_writing()
    peer.transport.feed(keys.update())
    assert peer.transport.is_closing()
    assert len(peer.transport.sent) == sent
    async with asyncio.timeout(PATIENCE):
        await peer.transport.lost.wait()


async def test_a_read_of_new_keys_alone(updates: tuple[Peer, Keys]) -> None:
    """A read could hold thousands of them: the event loop would stand still for their time."""
    peer, keys = updates
    peer.transport.feed(b"".join(keys.update() for _ in range(2000)))
    async with asyncio.timeout(PATIENCE):
        await peer.transport.lost.wait()
    assert len(peer.transport.sent) < 100_000


class Socket:
    """A socket that notes its options."""

    def __init__(self, error: Exception | None) -> None:
        self.options: list[tuple[int, ...]] = []
        self.error = error

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    "error", [None, OSError(errno.EOPNOTSUPP, "a Unix socket"), ValueError("closed, on uvloop")]
)
async def test_a_part_of_a_handshake_is_acknowledged(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """A client with Nagle's algorithm holds the next one until then."""
    monkeypatch.setattr(wire, "QUICK_ACK", 12)
    sock = Socket(error)
    peer = Peer(SMTP(Sink(), hostname="mx.test", tls_context=certificates.server_context()))
    peer.transport._extra["socket"] = sock  # type: ignore[attr-defined]
    await peer.asks_for_tls()
    hello = Client(certificates.client_context()).shake_hands()
    peer.transport.feed(hello[:100])
    assert sock.options == [(socket.IPPROTO_TCP, 12, 2)]
    # The server's own packets acknowledge the rest.
    peer.transport.feed(hello[100:])
    assert len(sock.options) == 1
    peer.transport.reset()
    await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
