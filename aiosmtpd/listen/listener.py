"""Accepting connections, with the public surface of ``asyncio.Server``.

The servers of the event loop have faults. They lose connections that they accept in the turn in
which they close. Clients that never finish their TLS handshake outlive them. Their sockets have no
order. They write thousands of log records a second when the process is out of descriptors.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ssl import SSLContext
from typing import Any

from aiosmtpd.listen.sockets import file_of

log = logging.getLogger("mail.log")

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""

ACCEPTS_PER_TURN = 16
"""Connections accepted before those that are open have their turn again."""

SHARED_ACCEPTS = 4
"""The same for sockets that other processes have too: fewer, so that they get their part."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTEST_PAUSE = 0.005
LONGEST_PAUSE = 1.0
"""Seconds without accepting when there are no descriptors; doubled until there are some."""

ARRIVAL = 0.5
"""Seconds for connections to begin that were accepted before the end."""

TELL_AGAIN = 60.0
"""Seconds until the log says again that there are no descriptors."""


class Listener(asyncio.AbstractServer):
    """Bound sockets that serve one kind of protocol, in TLS if there is a context.

    :meth:`start_serving` begins to accept connections. A client in TLS is an ordinary connection
    from then on. *handshake_timeout* (seconds) is for protocols of other libraries. The sockets
    that *is_shared* names are other processes' too: closing leaves the files of Unix sockets, and
    the connections that wait.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocols: Callable[[], asyncio.BaseProtocol],
        *,
        ssl_context: SSLContext | None = None,
        handshake_timeout: float = 30.0,
        is_shared: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        self._protocols = protocols
        self._context = ssl_context
        self._handshake_timeout = handshake_timeout
        self._is_shared = is_shared
        self._files = [file for sock in sockets if (file := file_of(sock))] if not is_shared else []
        self._servers: list[asyncio.Server] = []
        self._arrivals: set[asyncio.Task[Any]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._pause = SHORTEST_PAUSE
        self._told = -TELL_AGAIN
        self._is_open = False
        self._closed: asyncio.Future[None] = self._loop.create_future()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets in their order; empty once closed."""
        return self._sockets

    def use_tls(self, context: SSLContext) -> None:
        """Begin new connections with this context, if they begin with TLS."""
        if self._context is not None:
            self._context = context

    def is_serving(self) -> bool:
        """Tell whether connections are accepted."""
        return self._is_open and not self._closed.done()

    def stop_sharing(self) -> None:
        """Have the sockets alone from now on: close() accepts the connections that wait."""
        self._is_shared = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that accepts the connections."""
        return self._loop

    def close(self) -> None:
        """Stop listening and remove the files of Unix sockets; open connections go on."""
        if self.is_serving() and not self._is_shared:
            # The kernel has answered these clients: they are not dropped without a word.
            for sock in self._sockets:
                if sock not in self._pauses:
                    with suppress(OSError):
                        self._accept_all(sock)
        for pause in self._pauses.values():
            pause.cancel()
        # First the loop's own servers: they cannot let go of a closed socket.
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                with suppress(NotImplementedError):
                    self._loop.remove_reader(sock.fileno())
                sock.close()
        for path, inode in self._files:
            # Another server may have put its own socket there.
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._sockets = ()
        self._files.clear()
        self._servers.clear()
        self._pauses.clear()
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """Wait until the sockets are closed; open connections do not count."""
        await asyncio.shield(self._closed)

    async def start_serving(self) -> None:
        """Begin to accept connections; closes the sockets if that fails."""
        if self._is_open:
            return
        self._is_open = True
        try:
            for sock in self._sockets:
                sock.listen(BACKLOG)
                try:
                    self._loop.add_reader(sock.fileno(), self._accept, sock)
                except NotImplementedError:
                    # The proactor of Windows has no readers.
                    server = await self._loop.create_server(
                        self._protocol, sock=sock, backlog=BACKLOG
                    )
                    self._servers.append(server)
        except BaseException:
            self.close()
            raise

    async def serve_forever(self) -> None:
        """Accept connections until cancelled or closed; closes, and raises CancelledError."""
        try:
            await self.wait_closed()
        finally:
            self.close()
        raise asyncio.CancelledError

    async def end_arrivals(self) -> None:
        """Let the connections begin that were accepted; drop those that take longer.

        Only the event loop's own TLS handshakes take longer than a few turns.
        """
        if arrivals := set(self._arrivals):
            _, late = await asyncio.wait(arrivals, timeout=ARRIVAL)
            for arrival in late:
                arrival.cancel()
            if late:
                await asyncio.wait(late)
            # A transport closes its socket one turn later, that of the loop's TLS three.
            for _ in range(3):
                await asyncio.sleep(0)

    def _accept_all(self, sock: socket.socket) -> None:
        """Accept the connections that wait in a socket which is about to close."""
        waiting = -1
        for _ in range(BACKLOG // ACCEPTS_PER_TURN):
            if len(self._arrivals) == waiting:
                return
            waiting = len(self._arrivals)
            self._accept(sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(SHARED_ACCEPTS if self._is_shared else ACCEPTS_PER_TURN):
            try:
                connection, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    raise
                self._pause_accepting(sock, error)
                return
            self._pause = SHORTEST_PAUSE
            connection.setblocking(False)
            arrival = self._loop.create_task(self._serve(connection))
            self._arrivals.add(arrival)
            arrival.add_done_callback(partial(self._arrived, connection, peer))

    def _protocol(self) -> asyncio.BaseProtocol:
        """Make the protocol of a connection; one of ours begins TLS itself."""
        protocol = self._protocols()
        if self._context is not None and hasattr(protocol, "tls_from_start"):
            protocol.tls_from_start = self._context
        return protocol

    async def _serve(self, connection: socket.socket) -> None:
        protocol = self._protocol()
        tls: dict[str, Any] = {}
        if self._context is not None and not hasattr(protocol, "tls_from_start"):
            # A protocol of the program's own has the event loop's TLS.
            tls = {"ssl": self._context, "ssl_handshake_timeout": self._handshake_timeout}
        await self._loop.connect_accepted_socket(lambda: protocol, connection, **tls)

    def _arrived(self, connection: socket.socket, peer: object, arrival: asyncio.Task[Any]) -> None:
        self._arrivals.discard(arrival)
        if arrival.cancelled():
            connection.close()
        elif (error := arrival.exception()) is not None:
            connection.close()
            if not isinstance(error, OSError):
                raise error
            log.info("%r TLS handshake failed: %s", peer, error)

    def _pause_accepting(self, sock: socket.socket, error: OSError) -> None:
        if (now := self._loop.time()) - self._told >= TELL_AGAIN:
            self._told = now
            log.error("Connections wait, none can be accepted: %s", error)
        self._loop.remove_reader(sock.fileno())
        self._pauses[sock] = self._loop.call_later(self._pause, self._end_pause, sock)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _end_pause(self, sock: socket.socket) -> None:
        del self._pauses[sock]
        self._loop.add_reader(sock.fileno(), self._accept, sock)
