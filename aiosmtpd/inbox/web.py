"""Serve the page and the API with uvicorn in the running event loop."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from public import public
from uvicorn.config import Config
from uvicorn.server import Server

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.services import Services
from aiosmtpd.listen import sockets
from aiosmtpd.listen.addresses import Address, Listen, spell

DEFAULT_PORT = 8025

FAREWELL = 0.3
"""Seconds that requests have to end when the server stops."""

LARGEST_FRAME = 1 << 16
"""Bytes of a WebSocket message that a client may send."""

_TICK = 0.01
_NOISE = ("Unsupported upgrade request", "Invalid HTTP request received", "No supported WebSocket")
"""Warnings about each such request: they say something about a client, not about the inbox."""


class _Server(Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the program."""
        yield

    @property
    def is_idle(self) -> bool:
        """True if no request is being answered."""
        return not self.server_state.tasks


class _Quiet(logging.Filter):
    """Leaves out what uvicorn says about odd clients, and about requests that the end cuts off."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopping = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.is_stopping and not record.getMessage().startswith(_NOISE)


@public
class Web:
    """The page and the API at one place; *place* is by default port 8025 of the loopback.

    With *ssl_context*, it is served by HTTPS.
    """

    def __init__(
        self,
        services: Services,
        place: Listen | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._services = services
        self._place = Listen() if place is None else place
        self._ssl = ssl_context
        self._sockets: list[Any] = []
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._quiet = _Quiet()

    @property
    def addresses(self) -> list[Address]:
        """The addresses, in their order; empty before :meth:`bind` and after :meth:`stop`."""
        return [(sock.getsockname()[0], sock.getsockname()[1]) for sock in self._sockets]

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine, ``""`` while it is not bound."""
        if not self._sockets:
            return ""
        # 127.0.0.1 is what more programs understand.
        addresses = sorted(self.addresses, key=lambda one: one[0] != "127.0.0.1")
        host, port = addresses[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))  # noqa: S104
        scheme = "https" if self._ssl else "http"
        return f"{scheme}://{spell((host, int(port)))}{self._services.options.root}"

    async def bind(self) -> None:
        """Bind the place, without accepting connections; raises OSError with the address in it."""
        port = DEFAULT_PORT if self._place.port is None else self._place.port
        hosts = sockets.LOOPBACKS if self._place.host is None else [self._place.host]
        self._sockets = await sockets.bind_tcp(hosts, port)

    async def start(self) -> None:
        """Accept connections; binds the place if :meth:`bind` has not done so."""
        if not self._sockets:
            await self.bind()
        config = Config(
            make_app(self._services),
            loop="none",
            http="h11",
            ws="wsproto",
            ws_max_size=LARGEST_FRAME,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        config.load()
        config.ssl = self._ssl
        logging.getLogger("uvicorn.error").addFilter(self._quiet)
        self._server = server = _Server(config)
        self._task = asyncio.create_task(server.serve(sockets=self._sockets))
        while not server.started and not self._task.done():
            await asyncio.sleep(_TICK)
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """End streams and requests that wait, then all connections; it takes half a second."""
        self._services.stopping.set()
        server, task = self._server, self._task
        self._server = self._task = None
        if server is None or task is None:
            sockets.close_all(self._sockets)
            self._sockets = []
            return
        for listener in server.servers:
            listener.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FAREWELL
        while not server.is_idle and loop.time() < deadline:
            await asyncio.sleep(_TICK)
        self._quiet.is_stopping = True
        server.should_exit = True
        for connection in list(server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if not server.is_idle and transport is not None:
                transport.abort()
        await asyncio.wait([task])
        logging.getLogger("uvicorn.error").removeFilter(self._quiet)
        self._sockets = []
        task.result()
