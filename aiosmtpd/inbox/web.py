"""Serve the page and the API with uvicorn in the running event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import h11
from public import public
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.services import Services
from aiosmtpd.listen import sockets
from aiosmtpd.listen.addresses import Address, Listen, reachable, spell

DEFAULT_PORT = 8025

FAREWELL = 0.3
"""Seconds that requests have to end when the server stops."""

LARGEST_FRAME = 1 << 16
"""Bytes of a WebSocket message that a client may send."""

SECONDS_TO_ASK = 30
"""Seconds that a client has for the header of a request, from the connection or its first byte."""

BACKLOG = 50
"""Connections that wait to be accepted."""

MOST_CONNECTIONS = 5000
"""Connections at the same time; fewer if the process may open few files."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 20\r\n\r\ntoo many connections"
)
_NOISE = ("Unsupported upgrade request", "Invalid HTTP request received", "No supported WebSocket")
"""Warnings about each such request: they say something about a client, not about the inbox."""


class _Server(Server):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the program."""
        yield


def most_connections() -> int:
    """Return how many connections may be open: SMTP and the store need files, too."""
    try:
        import resource  # not on Windows
    except ImportError:
        return MOST_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if files < 0 else min(MOST_CONNECTIONS, files // 2)


class _Protocol(H11Protocol):
    """Ends connections that do not ask, and refuses those that are too many."""

    _asking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.write(_BUSY)
            transport.close()
        else:
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """Read a request, or go on to wait for the rest of its header."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._asking is None:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._asking = self.loop.call_later(SECONDS_TO_ASK, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None


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
        self._sockets: list[socket.socket] = []
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._quiet = _Quiet()

    @property
    def addresses(self) -> list[Address]:
        """The addresses, in their order; empty before :meth:`bind` and after :meth:`stop`."""
        return list(self._names())

    def _names(self) -> Iterator[tuple[str, int]]:
        for sock in self._sockets:
            host, port, *_ = sock.getsockname()
            yield host, port

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine, ``""`` while it is not bound."""
        if not self._sockets:
            return ""
        # 127.0.0.1 is what more programs understand.
        host, port = sorted(self._names(), key=lambda one: one[0] != "127.0.0.1")[0]
        scheme = "https" if self._ssl else "http"
        return f"{scheme}://{spell((reachable(host), port))}{self._services.options.root}"

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
            http=_Protocol,
            ws="wsproto",
            ws_max_size=LARGEST_FRAME,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            # The connections that asyncio accepts, or logs as failed, before it looks at others.
            backlog=BACKLOG,
        )
        config.load()
        config.ssl = self._ssl
        logging.getLogger("uvicorn.error").addFilter(self._quiet)
        self._server = server = _Server(config)
        self._task = asyncio.create_task(server.serve(sockets=self._sockets))
        ready = asyncio.create_task(server.ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
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
        await self._stop_accepting()
        for listener in server.servers:
            listener.close()
        if tasks := set(server.server_state.tasks):
            await asyncio.wait(tasks, timeout=FAREWELL)
        self._quiet.is_stopping = True
        server.should_exit = True
        if server.server_state.tasks:
            _abort(server)
        await asyncio.wait([task])
        # uvicorn does not close those that were accepted while it closed the others.
        _abort(server)
        await asyncio.sleep(0)
        logging.getLogger("uvicorn.error").removeFilter(self._quiet)
        self._sockets = []
        task.result()

    async def _stop_accepting(self) -> None:
        """Let asyncio finish with the connections that it has just accepted.

        In Python 3.11, it forgets to close them if its server is closed before.
        """
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            # Only asyncio's own loops for selectors have readers for them.
            with suppress(NotImplementedError):
                loop.remove_reader(sock)
        await asyncio.sleep(0)


def _abort(server: Server) -> None:
    for connection in list(server.server_state.connections):
        connection.transport.abort()
