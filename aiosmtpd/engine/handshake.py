"""TLS from the first octet: the handshake of a connection before its protocol hears of it.

`ssl=` of the event loop's own servers would do, were there not the connections that never finish
their handshake: those are nobody's, and outlive the server that accepted them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ssl import SSLContext
from typing import Any, cast

log = logging.getLogger("mail.log")


class Handshakes:
    """The protocol factory of a listener that speaks TLS; it knows the handshakes under way.

    `timeout` is in seconds.
    """

    def __init__(
        self, protocols: Callable[[], asyncio.BaseProtocol], context: SSLContext, timeout: float
    ) -> None:
        self._protocols = protocols
        self._context = context
        self._timeout = timeout
        self._pending: set[asyncio.Task[None]] = set()

    def __call__(self) -> asyncio.BaseProtocol:
        """Return what takes a connection until its handshake is done."""
        return _Door(self)

    def begin(self, door: _Door, transport: asyncio.Transport) -> None:
        """Shake hands in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._shake_hands(door, transport))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def cancel(self) -> None:
        """Give up the handshakes under way."""
        for task in self._pending:
            task.cancel()

    async def wait(self) -> None:
        """Wait until the handshakes under way have ended and their sockets are closed."""
        if self._pending:
            await asyncio.wait(self._pending)
            # A transport closes its socket in the turn after abort().
            await asyncio.sleep(0)

    async def _shake_hands(self, door: _Door, transport: asyncio.Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                door,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeout,
            )
        except OSError as error:
            peer = transport.get_extra_info("peername")
            log.info("%r TLS handshake failed: %s%s", peer, error, _hint(error))
            secured = None
        finally:
            if not door.secured:
                transport.abort()
        if secured is not None and not door.lost:
            door.open(secured, self._protocols())


def _hint(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(error, ConnectionAbortedError) or reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return " (this port speaks TLS from the start, the client may not)"
    return ""
