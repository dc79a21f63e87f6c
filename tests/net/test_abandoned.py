"""An event loop that a program abandons while clients are connected."""

import asyncio
import gc
import socket
import sys
import weakref
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP


def abandon(client: socket.socket) -> weakref.ref[asyncio.AbstractEventLoop]:
    """Serve a client, and let go of the event loop while the client is at rest."""
    loop = asyncio.new_event_loop()

    async def serve() -> bytes:
        server = await loop.create_server(
            lambda: SMTP(Sink(), hostname="mx.test", loop=loop), "127.0.0.1", 0
        )
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_recv(client, 1000)
        await loop.sock_sendall(client, b"NOOP\r\n")
        return await loop.sock_recv(client, 1000)

    assert loop.run_until_complete(serve())[:3] == b"250"
    return weakref.ref(loop)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_abandoned_loop_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver of a client at rest is collected: it neither wakes itself nor closes."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with socket.socket() as client:
        loop = abandon(client)
        gc.collect()
        if "uvloop" in repr(loop()):
            pytest.skip("uvloop keeps a loop that has clients")
        assert loop() is None, "the loop has been collected"
    drivers = [one for one in unraisable if "_handle_client" in repr(one.object)]
    assert not drivers, [one.exc_value for one in drivers]
