"""Serving in the running event loop: ``Server``, which controllers run in a thread or a loop."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self, TypeAlias, Unpack

from public import public

from aiosmtpd import smtp
from aiosmtpd.engine import diagnostics, hooks
from aiosmtpd.engine.registry import Registry
from aiosmtpd.engine.upgrade import handshake_timeout
from aiosmtpd.listen import sockets
from aiosmtpd.listen.addresses import Address, Listen, parse_listen
from aiosmtpd.listen.listener import Listener
from aiosmtpd.protocol.limits import Crowd
from aiosmtpd.protocol.settings import Settings, SMTPKeywords, check_names

DEFAULT_PORT = sockets.DEFAULT_PORT
DEFAULT_SHUTDOWN_TIMEOUT: float = 10.0
"""Seconds that stopping gives to running transactions."""

LAST_RESORT = 1.0
"""Seconds that cancelled tasks have to end before they are left behind."""

ALREADY_RUNNING = "the server is already running"

OWN_KEYWORDS = (
    "handler",
    "listen",
    "ssl_context",
    "factory",
    "shutdown_timeout",
    "settings",
    "crowd",
)
"""The parameters of ``Server`` beside the keywords of ``SMTP``."""

TLSContext: TypeAlias = ssl.SSLContext | Callable[[], ssl.SSLContext]

log = logging.getLogger("mail.log")


class _FakeServer(asyncio.StreamReaderProtocol):
    """Refuses a connection for which no SMTP instance could be made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        reader = asyncio.StreamReader(loop=loop)
        super().__init__(reader, self._cb_client_connected, loop=loop)

    def _cb_client_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"421 4.3.0 Service not available\r\n")
        writer.close()


def _server_to_client_ssl_ctx(server_ctx: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context with which a client reaches a server that uses *server_ctx*."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.options = server_ctx.options
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client


@public
class Server:
    """Serves SMTP or LMTP in the running event loop; ``async with`` starts and stops it.

    *listen* is one place or several. A place is written ``host:port``, ``host``, ``:port``,
    ``port``, ``[ipv6]:port``, ``unix:/path`` or ``fd:number``. If it has no host, the server
    listens at the loopback addresses, IPv6 and IPv4 if both exist. If it has no port, the port is
    8025; port 0 is any free port. A place may begin with ``smtp://`` (plain), ``smtps://`` (TLS
    from the start, by *ssl_context*) or ``lmtp://``. If it does not, the server speaks SMTP there,
    in TLS if there is an *ssl_context*.

    *factory* makes the object for a connection in place of ``SMTP`` and ``LMTP``.
    *shutdown_timeout* is how many seconds running transactions get when the server stops. The
    other keywords are those of :class:`~aiosmtpd.smtp.SMTP`, with ``enable_SMTPUTF8`` True unless
    you set it. Instead of them you may pass *settings*: keywords that are validated already.
    *crowd* enforces the limits on connections in place of counters of this server alone. Raises
    TypeError for an unknown keyword, and ValueError or TypeError for a value that is not allowed.
    """

    def __init__(
        self,
        handler: Any,
        *,
        listen: str | Listen | Sequence[str | Listen] = "127.0.0.1:0",
        ssl_context: TLSContext | None = None,
        factory: Callable[[], asyncio.BaseProtocol] | None = None,
        shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
        settings: Settings | None = None,
        crowd: Crowd | None = None,
        **SMTP_parameters: Unpack[SMTPKeywords],
    ) -> None:
        if settings is None:
            check_names(SMTP_parameters, type(self).__name__, OWN_KEYWORDS)
            settings = Settings.of({"enable_SMTPUTF8": True, **SMTP_parameters})
            diagnostics.look_at_settings(smtp.SMTP, settings)
        elif SMTP_parameters:
            raise TypeError("Server() takes settings or keywords, not both")
        self.handler = handler
        self.settings = settings
        self.ssl_context = ssl_context
        self.shutdown_timeout = shutdown_timeout
        texts = [listen] if isinstance(listen, str | Listen) else listen
        self.places = [parse_listen(text) if isinstance(text, str) else text for text in texts]
        if not self.places:
            raise ValueError("no place to listen at")
        if ssl_context is None and any(place.scheme == "smtps" for place in self.places):
            raise ValueError("smtps:// needs an ssl_context")
        self.listeners: list[asyncio.AbstractServer] = []
        self._factory = factory
        self._crowd = crowd
        self._registry = Registry(crowd)
        self._stopped = asyncio.Event()
        self._close_handler: Callable[[], Awaitable[object]] | None = None

    @property
    def addresses(self) -> list[Address]:
        """The addresses at which the server listens, in order; empty when stopped.

        An address is ``(host, port)`` or the path of a Unix socket.
        """
        return [
            address for listener in self.listeners for address in sockets.addresses_of(listener)
        ]

    async def bind(self) -> None:
        """Bind all places, or none if one of them fails; :meth:`start` accepts connections.

        A program may call this, give up the rights that it needed for its ports, and then call
        :meth:`start`. Raises OSError with the address in its text, and RuntimeError if the server
        is bound already.
        """
        if self.listeners:
            raise RuntimeError(ALREADY_RUNNING)
        self._registry = Registry(self._crowd)
        self._stopped.clear()
        try:
            for place in self.places:
                self.listeners.append(await self._bind(place))
        except BaseException:
            await self.stop(0)
            raise

    async def start(self) -> None:
        """Accept connections at all places, or at none if one fails; ready when it returns.

        Binds the places if :meth:`bind` has not done so, and awaits the handler's ``open()`` if it
        has one. Raises the errors of :meth:`bind`, of *factory* and of ``open()``, and RuntimeError
        if the server is already running.
        """
        if self._is_serving:
            raise RuntimeError(ALREADY_RUNNING)
        try:
            for place in self.places:
                # A trial: an error of the handler or the factory is raised here, not for a client.
                self._make(place)
            if not self.listeners:
                await self.bind()
            await self.open_handler()
            for listener in self.listeners:
                await listener.start_serving()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, timeout: float | None = None, *, linger: float = 0.0) -> None:
        """Stop listening and end the connections; does nothing if the server does not run.

        For *linger* seconds the sessions go on and end by themselves. Then clients between two
        transactions get ``421 4.3.2``. Running transactions have *timeout* seconds
        (``shutdown_timeout`` if None); then they are aborted. At the end, the handler's ``close()``
        is awaited if its ``open()`` was.
        """
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener.close()
        try:
            for listener in listeners:
                if isinstance(listener, Listener):
                    await listener.end_arrivals()
            if linger > 0:
                self._registry.is_patient = True
                await self._registry.wait(linger)
            await self._end_connections(self.shutdown_timeout if timeout is None else timeout)
        except asyncio.CancelledError:
            # If a graceful stop is cancelled, abort the remaining connections.
            await self._end_connections(0)
            raise
        finally:
            try:
                await self._end_handler()
            finally:
                self._stopped.set()

    @property
    def _is_serving(self) -> bool:
        return any(listener.is_serving() for listener in self.listeners)

    @property
    def is_busy(self) -> bool:
        """True if connections are open, or if the handler says that it is busy."""
        return bool(self._registry.connections) or getattr(self.handler, "is_busy", False) is True

    async def open_handler(self) -> None:
        """Await the handler's ``open()``, if it has one; :meth:`stop` awaits its ``close()``.

        For controllers whose sockets are not those of this server.
        """
        lifetime = hooks.lifetime(self.handler)
        if lifetime is not None and self._close_handler is None:
            await lifetime.open()
            self._close_handler = lifetime.close

    async def _end_handler(self) -> None:
        close, self._close_handler = self._close_handler, None
        if close is not None:
            await close()

    async def _end_connections(self, timeout: float) -> None:
        registry = self._registry
        try:
            async with asyncio.timeout(timeout + LAST_RESORT):
                await registry.stop(timeout)
        except TimeoutError:
            log.warning("%d connections refuse to end, their hooks too", len(registry.connections))

    def reload_tls(self) -> None:
        """Call the function *ssl_context* again, for new connections; open ones go on.

        Raises TypeError if *ssl_context* is not a function, and what the function raises.
        """
        if not callable(self.ssl_context):
            raise TypeError(
                "reload_tls() calls an ssl_context function; load new files into a context itself "
                "with its load_cert_chain()"
            )
        context = self.ssl_context()
        for listener in self.listeners:
            if isinstance(listener, Listener):
                listener.use_tls(context)

    async def serve_forever(self) -> None:
        """Serve until cancelled or stopped, then stop gracefully; start first if need be."""
        if not self._is_serving:
            await self.start()
        try:
            await self._stopped.wait()
        finally:
            await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def adopt(self, protocol: Any) -> None:
        """Take on a connection without a server: this server counts it, and ends it in stop()."""
        # A factory may return any protocol at all.
        if getattr(protocol, "registry", self._registry) is None:
            protocol.registry = self._registry

    async def _bind(self, place: Listen) -> Listener:
        limits = self.settings.limits
        context = self.ssl_context if place.scheme in (None, "smtps") else None
        if context is not None and not isinstance(context, ssl.SSLContext):
            context = context()
        return Listener(
            await sockets.bind(place),
            partial(self._protocol, place),
            ssl_context=context,
            handshake_timeout=handshake_timeout(self.settings.timeout or 300, limits),
            is_shared=place.fd is not None,
        )

    def _protocol(self, place: Listen) -> asyncio.BaseProtocol:
        try:
            protocol = self._make(place)
        except Exception:
            log.exception("No SMTP instance could be made, a connection is refused")
            return _FakeServer(asyncio.get_running_loop())
        self.adopt(protocol)
        return protocol

    def _make(self, place: Listen) -> asyncio.BaseProtocol:
        if self._factory is not None:
            return self._factory()
        if place.scheme == "lmtp":
            from aiosmtpd.lmtp import LMTP  # seldom needed

            return LMTP(self.handler, settings=self.settings)
        return smtp.SMTP(self.handler, settings=self.settings)


def close_loop(loop: asyncio.AbstractEventLoop, timeout: float = LAST_RESORT) -> None:
    """Cancel a stopped loop's tasks and close it; tasks and threads have *timeout* seconds."""
    try:
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            # A task or a thread that does not end must not keep stop() waiting for ever.
            loop.run_until_complete(asyncio.wait(tasks, timeout=timeout))
        loop.run_until_complete(loop.shutdown_asyncgens())
        if sys.version_info >= (3, 12):
            loop.run_until_complete(_end_workers(timeout))
    finally:
        loop.close()


if sys.version_info >= (3, 12):

    async def _end_workers(timeout: float) -> None:
        # If threads go on, the loop warns with RuntimeWarning, which may be raised. Python 3.12.1
        # may wait for longer than its timeout, so that ours raises TimeoutError.
        with suppress(RuntimeWarning, TimeoutError):
            async with asyncio.timeout(2 * timeout):
                await asyncio.get_running_loop().shutdown_default_executor(timeout)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def run_until_signal(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until the program, Ctrl-C or SIGTERM stops it."""
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        # On Windows and outside the main thread, Ctrl-C alone works.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, loop.stop)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        log.info("Interrupted, stopping")
    finally:
        for number in signals:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)
