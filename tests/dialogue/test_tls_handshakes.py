"""Handshakes that wait for a turn of the loop, and clients that go at their end."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from weakref import ref

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP
from tests.conftest import Certificates

from .conversation import Conversation
from .harness import settle
from .observing import Seen
from .tls import PATIENCE, Client, Peer

BANNER = b"220 mx.test test\r\n"


@pytest.fixture
def served(certificates: Certificates) -> Callable[..., Peer]:
    """Return a function that connects to a server; *seen* is its observer."""

    def connect(seen: Seen, *, from_start: bool = False) -> Peer:
        context = certificates.server_context()
        server = SMTP(
            Sink(),
            hostname="mx.test",
            ident="test",
            tls_context=None if from_start else context,
            observers=[seen],
        )
        if from_start:
            server.tls_from_start = context
        return Peer(server)

    return connect


async def test_handshakes_over_the_budget_of_a_turn_wait(
    served: Callable[..., Peer], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.engine.handshakes.BUDGET", 1e-9)
    peers = [served(Seen(), from_start=True) for _ in range(3)]
    clients = [Client(certificates.client_context()) for _ in peers]
    await asyncio.gather(
        *(peer.shake_hands(client) for peer, client in zip(peers, clients, strict=True))
    )
    for peer in peers:
        await peer.until(BANNER)
        await peer.finish()


async def test_a_client_that_goes_before_its_turn(
    served: Callable[..., Peer], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.engine.handshakes.BUDGET", 1e-9)
    seen = Seen()
    peers = [served(one, from_start=True) for one in (Seen(), seen)]
    for peer in peers:
        peer.transport.feed(Client(certificates.client_context()).shake_hands())
    while peers[1].server._tls is None:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    # Its step is in the queue.
    for peer in peers:
        peer.server.connection_lost(None)
    for peer in peers:
        await asyncio.wait_for(peer.server._handler_coroutine, PATIENCE)
    await settle()
    assert [call[0] for call in seen.calls] == ["began", "tls", "ended"]


async def test_a_handshake_in_the_queue_ends_at_its_timeout(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No handshake gets its turn.
    monkeypatch.setattr("aiosmtpd.engine.handshakes.BUDGET", 0.0)
    seen = Seen()
    server = SMTP(Sink(), hostname="mx.test", observers=[seen], handshake_timeout=0.05)
    server.tls_from_start = certificates.server_context()
    peer = Peer(server)
    peer.transport.feed(Client(certificates.client_context()).shake_hands())
    async with asyncio.timeout(PATIENCE):
        while not peer.transport.has_ended:
            await peer._change()
    peer.server.connection_lost(None)
    await settle()
    why = "it took more than 0.05 seconds"
    assert [call[:2] for call in seen.calls] == [
        ("began",),
        ("tls", why),
        ("ended", f"TLS handshake failed: {why}"),
    ]


async def test_a_client_that_goes_with_its_first_bytes(
    served: Callable[..., Peer], certificates: Certificates
) -> None:
    seen = Seen()
    peer = served(seen, from_start=True)
    await asyncio.sleep(0)
    peer.transport.feed(Client(certificates.client_context()).shake_hands())
    peer.server.connection_lost(None)
    await asyncio.wait_for(peer.server._handler_coroutine, PATIENCE)
    await settle()
    assert [call[:2] for call in seen.calls] == [
        ("began",),
        ("tls", "Disconnected"),
        ("ended", "TLS handshake failed: closed by the client"),
    ]


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_client_that_goes_after_its_last_bytes(
    served: Callable[..., Peer], certificates: Certificates, from_start: bool
) -> None:
    seen = Seen()
    peer = served(seen, from_start=from_start)
    if not from_start:
        await peer.until(BANNER)
        await peer.asks_for_tls()
    client = Client(certificates.client_context())
    peer.transport.feed(client.shake_hands())
    while not (data := peer.ciphertext()):
        await peer._change()
    client.feed(data)
    peer.transport.feed(client.shake_hands())
    assert client.established
    peer.server.connection_lost(None)
    await asyncio.wait_for(peer.server._handler_coroutine, PATIENCE)
    await settle()
    (told,) = seen.of("tls")
    assert told[1] != "ok"
    assert seen.calls[-1][0] == "ended"


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Free only what nothing refers to."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("from_start", [False, True])
@pytest.mark.parametrize("fault", ["garbage", "FIN", "RST", "forged"])
async def test_a_connection_without_tls_is_freed_at_once(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, fault: str, from_start: bool
) -> None:
    """OpenSSL keeps up to 90 KB for it. The garbage collection does not count them."""
    monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0)
    context = certificates.server_context()
    server = SMTP(Sink(), hostname="mx.test", tls_context=context)
    if from_start:
        server.tls_from_start = context
    connection, peer = ref(server), Peer(server)
    del server
    await begin_tls(peer, fault, Client(certificates.client_context()), from_start)
    if fault in ("garbage", "forged"):
        peer.transport.feed(b"\x17\3\3\0\x40" + bytes(64))
    elif fault == "FIN":
        peer.transport.feed_eof()
    else:
        peer.transport.reset()
    await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
    # As the event loop's own transports do.
    peer.transport.set_protocol(asyncio.Protocol())
    del peer
    async with asyncio.timeout(PATIENCE):
        while connection() is not None:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)


async def begin_tls(peer: Peer, fault: str, client: Client, from_start: bool) -> None:
    """Go to the point of a fault: before the end of a handshake, or after it."""
    if not from_start:
        await peer.asks_for_tls()
    if fault == "forged":
        await peer.shake_hands(client)
    else:
        peer.transport.feed(client.shake_hands())
    await settle()


async def test_the_event_loops_own_tls_is_reported() -> None:
    """As with ``loop.create_server(..., ssl=context)``."""
    seen = Seen()
    async with Conversation(SMTP(Sink(), observers=[seen]), tls=True):
        assert [call[:2] for call in seen.calls[:2]] == [("began",), ("tls", "ok")]
