"""Serving in the running event loop: `Server`, and what the controllers rest on."""

import asyncio
import logging
import signal
import ssl
import sys
import threading
from abc import ABCMeta, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self, TypeAlias

import attrs
from public import public

from aiosmtpd import smtp
from aiosmtpd.engine.connection import handshake_timeout
from aiosmtpd.engine.registry import Registry
from aiosmtpd.listen import sockets as listening
from aiosmtpd.listen.listener import Listener
from aiosmtpd.protocol.limits import LIMIT_NAMES, Limits, limits_of

DEFAULT_PORT = 8025
DEFAULT_SHUTDOWN_TIMEOUT: float = 10.0
"""Seconds that stopping gives to running transactions."""

LAST_RESORT = 1.0
"""Seconds that cancelled tasks have to end before they are left behind."""

ALREADY_RUNNING = "SMTP daemon already running"
NOT_RUNNING = "SMTP daemon not running"

TLSContext: TypeAlias = ssl.SSLContext | Callable[[], ssl.SSLContext]

log = logging.getLogger("mail.log")


class _FakeServer(asyncio.StreamReaderProtocol):
    """Takes the connection that no SMTP instance could be made for, and ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        reader = asyncio.StreamReader(loop=loop)
        super().__init__(reader, self._cb_client_connected, loop=loop)

    def _cb_client_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"421 4.3.0 Service not available\r\n")
        writer.close()


def _server_to_client_ssl_ctx(server_ctx: ssl.SSLContext) -> ssl.SSLContext:
    """Make a context by which a client reaches a server that uses `server_ctx`."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.options = server_ctx.options
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client


def adopt(protocol: Any, registry: Registry) -> None:
    """Let a connection that belongs to no server yet belong to this one."""
    # A factory may return any protocol at all.
    if getattr(protocol, "registry", registry) is None:
        protocol.registry = registry


async def serve(
    sockets: Sequence[listening.Socket],
    protocols: listening.Protocols,
    ssl_context: TLSContext | None,
    parameters: dict[str, Any],
    registry: Registry,
    *,
    remove_files: bool = True,
) -> Listener:
    """Accept on bound sockets with the TLS and the time limits that the settings ask for."""
    return await listening.serve(
        sockets,
        protocols,
        ssl_context=ssl_context() if callable(ssl_context) else ssl_context,
        handshake_timeout=_handshake_timeout(parameters),
        limits=_limits_of_handshakes(parameters),
        registry=registry,
        remove_files=remove_files,
    )


def _limits(parameters: dict[str, Any]) -> Limits:
    return limits_of({key: parameters[key] for key in LIMIT_NAMES & parameters.keys()})


def _handshake_timeout(parameters: dict[str, Any]) -> float:
    """Return the seconds that a TLS handshake may take before there is a connection."""
    # The class's own default: no connection has been made yet that would know.
    timeout: float = parameters.get("timeout") or 300
    return handshake_timeout(timeout, _limits(parameters))


def _limits_of_handshakes(parameters: dict[str, Any]) -> Limits:
    limits = _limits(parameters)
    # Behind a proxy all come from one host.
    behind = parameters.get("proxy_protocol_timeout") is not None
    return attrs.evolve(limits, max_connections_per_host=None) if behind else limits


def reload_tls(context: TLSContext | None, servers: Iterable[object]) -> None:
    """Let new connections to servers begin with what the callable `context` gives now.

    Raises TypeError where it is no callable.
    """
    if not callable(context):
        raise TypeError(
            "reload_tls() asks a callable ssl_context; load new files into a context itself "
            "with its load_cert_chain()"
        )
    new = context()
    for server in servers:
        if isinstance(server, Listener):
            server.use_tls(new)


async def shut_down(
    servers: Sequence[asyncio.AbstractServer], registry: Registry, timeout: float
) -> None:
    """Stop listening and end every connection, transactions within `timeout` seconds."""
    for server in servers:
        server.close()
    try:
        for server in servers:
            if isinstance(server, Listener):
                await server.end_arrivals()
        await _stop_within(registry, timeout)
    except asyncio.CancelledError:
        # Who cancels a graceful stop wants it over now, not connections left behind.
        await _stop_within(registry, 0)
        raise


async def _stop_within(registry: Registry, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout + LAST_RESORT):
            await registry.stop(timeout)
    except TimeoutError:
        log.warning("%d connections refuse to end, their hooks too", len(registry.connections))


def close_loop(loop: asyncio.AbstractEventLoop, timeout: float = LAST_RESORT) -> None:
    """End what is left in a stopped loop, tasks and threads in `timeout` seconds; close it."""
    try:
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            # One that will not end must not keep stop() waiting for ever, nor may a worker thread.
            loop.run_until_complete(asyncio.wait(tasks, timeout=timeout))
        loop.run_until_complete(loop.shutdown_asyncgens())
        if sys.version_info >= (3, 12):
            loop.run_until_complete(_end_workers(timeout))
    finally:
        loop.close()


if sys.version_info >= (3, 12):

    async def _end_workers(timeout: float) -> None:
        # RuntimeWarning: they go on, and warnings are errors here. TimeoutError: Python 3.12.1
        # forgets the time while it waits.
        with suppress(RuntimeWarning, TimeoutError):
            async with asyncio.timeout(2 * timeout):
                await asyncio.get_running_loop().shutdown_default_executor(timeout)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does, where the main thread asks for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def run_until_signal(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, by Ctrl-C and SIGTERM too."""
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        # Not on Windows and not outside the main thread: Ctrl-C alone works there.
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


class AsyncServing(metaclass=ABCMeta):
    """The part of a controller that serves in the running loop and knows no thread."""

    server: asyncio.AbstractServer | None = None
    server_coro: Awaitable[asyncio.AbstractServer] | None = None
    smtpd: smtp.SMTP | None = None
    _thread_exception: Exception | None = None
    _factory_invoked: threading.Event | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _loop_before: asyncio.AbstractEventLoop | None = None
    ssl_context: TLSContext | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop | None, shutdown_timeout: float) -> None:
        self.loop = loop
        self.shutdown_timeout = shutdown_timeout
        self._factory_invoked = threading.Event()
        self._registry = Registry()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves; made when first asked for unless one was given."""
        # A controller that nobody starts must not hold a loop's descriptors.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    @property
    def addresses(self) -> list[listening.Address]:
        """Where the server listens: `(host, port)` or the path of a Unix socket; else nothing."""
        return listening.addresses_of(self.server)

    def reload_tls(self) -> None:
        """Ask the callable `ssl_context` again, for new connections; open ones go on.

        May be called from any thread. Raises TypeError where `ssl_context` is no callable, and
        what it raises.
        """
        reload_tls(self.ssl_context, [self.server])

    @abstractmethod
    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        """Bind and serve in the running loop."""

    @abstractmethod
    def _factory_invoker(self) -> asyncio.BaseProtocol:
        """Make the object for one connection, or note why there is none; must not raise."""

    async def start_async(self) -> None:
        """Serve in the running event loop, without a thread; ready when it returns.

        Raises what binding or `factory()` raised, AssertionError when already running.
        """
        if self._is_serving():
            raise AssertionError(ALREADY_RUNNING)
        self._prepare()
        self._loop_before, self._loop = self._loop, asyncio.get_running_loop()
        try:
            self.server_coro = self._create_server()
            self.server = await self.server_coro
            self._factory_invoker()
            self._raise_failure()
        except BaseException:
            await self._finish(0)
            raise

    async def stop_async(self, no_assert: bool = False, timeout: float | None = None) -> None:
        """Stop what `start_async()` started; meaning and parameters are those of `stop()`."""
        if self.server is None:
            if no_assert:
                return
            raise AssertionError(NOT_RUNNING)
        await self._finish(self.shutdown_timeout if timeout is None else timeout)

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop_async(no_assert=True)

    def _is_serving(self) -> bool:
        return self.server is not None and self.server.is_serving()

    def _prepare(self) -> None:
        self._cleanup()
        self._factory_invoked = threading.Event()
        self._registry = Registry()

    def _raise_failure(self) -> None:
        if self._thread_exception is not None:
            raise self._thread_exception

    async def _finish(self, timeout: float) -> None:
        try:
            await self._drain(timeout)
        finally:
            self._cleanup()
            self._loop = self._loop_before

    async def _drain(self, timeout: float) -> None:
        await shut_down([] if self.server is None else [self.server], self._registry, timeout)

    def _cleanup(self) -> None:
        self.smtpd = None
        self.server = None
        self.server_coro = None
        self._thread_exception = None
        if self._factory_invoked is not None:
            self._factory_invoked.clear()


@public
class Server:
    """Serves SMTP or LMTP in the running event loop; `async with` starts and stops it.

    `listen` is one place or several, each spelt `host:port`, `host`, `:port`, `port`,
    `[ipv6]:port`, `unix:/path` or `fd:number`; without a host it is the loopback, IPv6 and IPv4
    where both exist, without a port 8025, and port 0 is any free one. In front may stand `smtp://`
    (plain), `smtps://` (TLS from the start by `ssl_context`) or `lmtp://`; without these it is
    SMTP, in TLS if there is an `ssl_context`. `factory` makes the object for a connection in place
    of `SMTP(handler, ...)` and `LMTP(handler, ...)`, which get the other keywords.
    `shutdown_timeout` (seconds) is what stopping gives to running transactions. Raises ValueError
    for a place that cannot be.
    """

    def __init__(
        self,
        handler: Any,
        *,
        listen: str | listening.Listen | Sequence[str | listening.Listen] = "127.0.0.1:0",
        ssl_context: TLSContext | None = None,
        factory: Callable[[], asyncio.BaseProtocol] | None = None,
        shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
        **SMTP_parameters: Any,
    ) -> None:
        self.handler = handler
        self.ssl_context = ssl_context
        self.shutdown_timeout = shutdown_timeout
        self.SMTP_kwargs: dict[str, Any] = {"enable_SMTPUTF8": True, **SMTP_parameters}
        texts = [listen] if isinstance(listen, str | listening.Listen) else listen
        self._places = [
            listening.parse_listen(text) if isinstance(text, str) else text for text in texts
        ]
        if not self._places:
            raise ValueError("no place to listen at")
        if ssl_context is None and any(place.scheme == "smtps" for place in self._places):
            raise ValueError("smtps:// needs an ssl_context")
        self._factory = factory
        self._listeners: list[Listener] = []
        self._registry = Registry()
        self._stopped = asyncio.Event()

    @property
    def addresses(self) -> list[listening.Address]:
        """Where the server listens: `(host, port)` or the path of a Unix socket, in order."""
        return [
            address for listener in self._listeners for address in listening.addresses_of(listener)
        ]

    async def start(self) -> None:
        """Listen everywhere or, if one place fails, nowhere; ready when it returns.

        Raises OSError with the address in its text, what `SMTP` says to a wrong keyword,
        RuntimeError when already running.
        """
        if self._listeners:
            raise RuntimeError("the server is already running")
        for place in self._places:
            # A wrong keyword shows now, and not to the first client.
            self._make(place)
        self._registry = Registry()
        self._stopped.clear()
        try:
            for place in self._places:
                self._listeners.append(await self._listen(place))
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, timeout: float | None = None) -> None:
        """Stop listening and end the connections; does nothing when not running.

        Idle clients get `421 4.3.2` at once, running transactions have `timeout` seconds
        (`shutdown_timeout` if None) before they are aborted.
        """
        listeners, self._listeners = self._listeners, []
        grace = self.shutdown_timeout if timeout is None else timeout
        await shut_down(listeners, self._registry, grace)
        self._stopped.set()

    def reload_tls(self) -> None:
        """Ask the callable `ssl_context` again, for new connections; open ones go on.

        Raises TypeError where `ssl_context` is no callable, and what it raises.
        """
        reload_tls(self.ssl_context, self._listeners)

    async def serve_forever(self) -> None:
        """Serve until cancelled or stopped, starting first if need be; then stop gracefully."""
        if not self._listeners:
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

    async def _listen(self, place: listening.Listen) -> Listener:
        if place.path is not None:
            sockets = listening.bind_unix(place.path)
        elif place.fd is not None:
            sockets = listening.adopt_fd(place.fd)
        else:
            hosts = listening.LOOPBACKS if place.host is None else [place.host]
            port = DEFAULT_PORT if place.port is None else place.port
            sockets = await listening.bind_tcp(hosts, port)
        return await serve(
            sockets,
            partial(self._protocol, place),
            self.ssl_context if place.scheme in (None, "smtps") else None,
            self.SMTP_kwargs,
            self._registry,
            remove_files=place.fd is None,
        )

    def _protocol(self, place: listening.Listen) -> asyncio.BaseProtocol:
        try:
            protocol = self._make(place)
        except Exception:
            log.exception("No SMTP instance could be made, a connection is refused")
            return _FakeServer(asyncio.get_running_loop())
        adopt(protocol, self._registry)
        return protocol

    def _make(self, place: listening.Listen) -> asyncio.BaseProtocol:
        if self._factory is not None:
            return self._factory()
        if place.scheme == "lmtp":
            from aiosmtpd.lmtp import LMTP

            return LMTP(self.handler, **self.SMTP_kwargs)
        return smtp.SMTP(self.handler, **self.SMTP_kwargs)
