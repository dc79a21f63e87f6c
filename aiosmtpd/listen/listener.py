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
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ssl import SSLContext, SSLError
from typing import Any

from aiosmtpd.engine.registry import Registry
from aiosmtpd.listen.sockets import file_of
from aiosmtpd.protocol import networks, replies
from aiosmtpd.protocol.limits import Limits
from aiosmtpd.protocol.receiver import TLS_HANDSHAKE

log = logging.getLogger("mail.log")

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""

ACCEPTS_PER_TURN = 16
"""Connections accepted before those that are open have their turn again."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTEST_PAUSE = 0.005
LONGEST_PAUSE = 1.0
"""Seconds without accepting when there are no descriptors; doubled until there are some."""

FAREWELL = 2.0
"""Seconds in which a client that speaks without TLS may read the reply."""

TELL_AGAIN = 60.0
"""Seconds until the log says again that there are no descriptors."""


class Listener(asyncio.AbstractServer):
    """Bound sockets that serve one kind of protocol, in TLS if there is a context.

    :meth:`start_serving` begins to accept connections. *handshake_timeout* is in seconds. *limits*
    hold for TLS handshakes together with the connections of *registry*. With *remove_files*,
    closing removes the files of Unix sockets.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocols: Callable[[], asyncio.BaseProtocol],
        *,
        ssl_context: SSLContext | None = None,
        handshake_timeout: float = 30.0,
        limits: Limits | None = None,
        registry: Registry | None = None,
        remove_files: bool = True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        self._protocols = protocols
        self._tls: dict[str, Any] = {}
        if ssl_context is not None:
            self._tls = {"ssl": ssl_context, "ssl_handshake_timeout": handshake_timeout}
        self._limits = limits if self._tls else None
        self._registry = registry or Registry()
        self._handshakes: Counter[str] = Counter()
        self._files = [file for sock in sockets if (file := file_of(sock))] if remove_files else []
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
        if self._tls:
            self._tls["ssl"] = context

    def is_serving(self) -> bool:
        """Tell whether connections are accepted."""
        return self._is_open and not self._closed.done()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that accepts the connections."""
        return self._loop

    def close(self) -> None:
        """Stop listening and remove the files of Unix sockets; open connections go on."""
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
                        self._protocols, sock=sock, backlog=BACKLOG, **self._tls
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
        """Drop the connections that have no protocol yet because their TLS handshake goes on."""
        if arrivals := set(self._arrivals):
            for arrival in arrivals:
                arrival.cancel()
            await asyncio.wait(arrivals)
            # A transport closes its socket one turn later.
            await asyncio.sleep(0)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
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
            if (host := self._admit(peer)) is None:
                connection.close()
                continue
            connection.setblocking(False)
            arrival = self._loop.create_task(
                self._begin_tls(connection, host)
                if self._tls
                else self._loop.connect_accepted_socket(self._protocols, connection)
            )
            self._arrivals.add(arrival)
            arrival.add_done_callback(partial(self._arrived, connection, peer))

    def _admit(self, peer: Any) -> str | None:
        """Reserve a slot for a client that starts its TLS handshake.

        Return its counting key, or None if a connection limit is reached. The limits of the server
        count connections, and before the end of the handshake there is no connection.
        """
        limits = self._limits
        if limits is None:
            return ""
        host = ""
        # A Unix socket's peer has no address.
        if limits.max_connections_per_host and isinstance(peer, tuple):
            host = networks.host_key(peer[0])
        connections = len(self._registry.connections) + self._handshakes.total() + 1
        others = self._handshakes[host]
        refusal = self._registry.crowd.refusal(host, others, connections, limits)
        if refusal is None:
            self._handshakes[host] += 1
            return host
        log.info("%r refused before its TLS handshake: %s", peer, refusal)
        return None

    async def _begin_tls(self, connection: socket.socket, host: str) -> None:
        """Serve a client in TLS, and free its slot when the handshake has ended."""
        try:
            await self._shake_hands(connection)
        finally:
            self._handshakes[host] -= 1
            if self._handshakes[host] <= 0:
                # A host that has gone takes no memory.
                del self._handshakes[host]

    async def _shake_hands(self, connection: socket.socket) -> None:
        """Serve a client that begins a handshake in time; refuse one that speaks without TLS."""
        limit = self._tls["ssl_handshake_timeout"]
        begin = self._loop.time()
        try:
            async with asyncio.timeout(limit):
                first = await self._peek(connection)
        except TimeoutError:
            # A client that waits for a greeting does not speak TLS.
            raise ConnectionAbortedError(f"nothing came in {limit:g} seconds") from None
        if first and first != TLS_HANDSHAKE:
            await self._turn_away(connection)
            raise ConnectionAbortedError("no TLS in what the client sent")
        left = max(limit - (self._loop.time() - begin), SHORTEST_PAUSE)
        settings = {**self._tls, "ssl_handshake_timeout": left}
        await self._loop.connect_accepted_socket(self._protocols, connection, **settings)

    async def _peek(self, connection: socket.socket) -> bytes:
        """Return the first byte from a client without taking it; empty at the end of its data."""
        came: asyncio.Future[bytes] = self._loop.create_future()

        def look() -> None:
            try:
                first = connection.recv(1, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # The handshake will fail, and the log has the reason.
                first = b""
            # Called again, or too late: the loop removes the reader in a later turn.
            with suppress(asyncio.InvalidStateError):
                came.set_result(first)

        look()
        if came.done():
            return came.result()
        self._loop.add_reader(connection.fileno(), look)
        try:
            return await came
        finally:
            self._loop.remove_reader(connection.fileno())

    async def _turn_away(self, connection: socket.socket) -> None:
        """Send the reply that this port speaks TLS. Read on for a while, or it would be lost."""
        with suppress(OSError):
            connection.send(replies.TLS_ONLY.octets)
            connection.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(FAREWELL):
                while await self._loop.sock_recv(connection, 65536):
                    pass

    def _arrived(self, connection: socket.socket, peer: object, arrival: asyncio.Task[Any]) -> None:
        self._arrivals.discard(arrival)
        if arrival.cancelled():
            connection.close()
        elif (error := arrival.exception()) is not None:
            connection.close()
            if not isinstance(error, OSError):
                raise error
            log.info("%r TLS handshake failed: %s%s", peer, error, _likely_cause(error))

    def _pause_accepting(self, sock: socket.socket, error: OSError) -> None:
        if (now := self._loop.time()) - self._told >= TELL_AGAIN:
            self._told = now
            log.error("Connections wait, none can be accepted: %s", error)
        self._loop.remove_reader(sock.fileno())
        self._pauses[sock] = self._loop.call_later(
            self._pause, self._loop.add_reader, sock.fileno(), self._accept, sock
        )
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def _likely_cause(error: OSError) -> str:
    plain = isinstance(error, SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")
    if plain or isinstance(error, ConnectionAbortedError):
        return " (this port speaks TLS from the start, the client may not)"
    return ""
