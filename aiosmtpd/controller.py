"""Controllers: a ``Server`` in a thread of its own, or in an event loop that the program runs."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress
from copy import copy
from socket import AF_INET6, SOCK_STREAM, has_ipv6, socket as makesock
from typing import Any, Literal, Self, Unpack

from public import public

from aiosmtpd import smtp
from aiosmtpd.engine import diagnostics, hooks
from aiosmtpd.listen import sockets
from aiosmtpd.listen.addresses import Address, Listen
from aiosmtpd.protocol.limits import LIMIT_NAMES
from aiosmtpd.protocol.settings import (
    NAMES,
    BaseKeywords,
    ControllerKeywords,
    Settings,
    SMTPKeywords,
    check_names,
)
from aiosmtpd.server import (
    DEFAULT_PORT,
    DEFAULT_SHUTDOWN_TIMEOUT,
    Server,
    TLSContext,
    _FakeServer as _FakeServer,
    _server_to_client_ssl_ctx as _server_to_client_ssl_ctx,
    close_loop,
    log,
    run_until_signal,
    sigterm_as_interrupt,
)
from aiosmtpd.smtp import SMTP

DEFAULT_READY_TIMEOUT: float = 5.0
"""Seconds that ``start()`` waits for the server."""

ALREADY_RUNNING = "SMTP daemon already running"
NOT_RUNNING = "SMTP daemon not running"
_BUSY = (
    "within allotted time. This might happen if the system is too busy. "
    "Try increasing the `ready_timeout` parameter."
)
NOT_STARTED = f"SMTP server failed to start {_BUSY}"
NOT_RESPONDING = f"SMTP server started, but not responding {_BUSY}"
SERVER_KWARGS_DEPRECATED = (
    "server_kwargs will be removed in version 2.0. "
    "Just specify the keyword arguments to forward to SMTP as kwargs to this __init__ method."
)


@public
class IP6_IS:  # noqa: N801
    """The errors of binding ``::1`` that show whether this machine has IPv6."""

    NO = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # noqa: RUF012
    YES = {errno.EADDRINUSE}  # noqa: RUF012


def _has_ipv6() -> bool:
    return has_ipv6


@public
def get_localhost() -> Literal["::1", "127.0.0.1"]:
    """Return the loopback address: ``::1`` if it can be bound, else ``127.0.0.1``."""
    if not _has_ipv6():
        return "127.0.0.1"
    try:
        with makesock(AF_INET6, SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return "::1" if error.errno in IP6_IS.YES else "127.0.0.1"
    return "::1"


HANDSHAKE_NAMES = LIMIT_NAMES | {"timeout", "proxy_protocol_timeout"}
"""The keywords of ``SMTP`` that the listener needs, before a connection has an ``SMTP`` object."""


SMTP_ALONE = {"loop", "settings", "registry"}
"""The parameters of ``SMTP`` that are not settings of a server."""

OWN_KEYWORDS = (
    *("handler", "hostname", "port", "unix_socket", "loop"),
    *ControllerKeywords.__annotations__,
)
"""The parameters of controllers: an error message suggests the one closest to a misspelt name."""


@public
class BaseController(metaclass=ABCMeta):
    """The part that all controllers share: the settings, the factory, and serving in a loop.

    If there is an *ssl_context*, or a function that returns one, each connection starts with TLS.
    *server_hostname* is the ``hostname`` of ``SMTP``. *shutdown_timeout* is how many seconds
    running transactions get when the controller stops. Other keywords go to ``SMTP``.
    """

    server: asyncio.AbstractServer | None = None
    server_coro: Awaitable[asyncio.AbstractServer] | None = None
    smtpd: SMTP | None = None
    _thread_exception: Exception | None = None

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ssl_context: TLSContext | None = None,
        server_hostname: str | None = None,
        shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
        server_kwargs: dict[str, Any] | None = None,
        **SMTP_parameters: Unpack[SMTPKeywords],
    ) -> None:
        self.handler = handler
        self._loop = loop
        self.ssl_context = ssl_context
        self.shutdown_timeout = shutdown_timeout
        self.SMTP_kwargs: dict[str, Any] = {"enable_SMTPUTF8": True}
        if server_kwargs is not None:
            warnings.warn(SERVER_KWARGS_DEPRECATED, DeprecationWarning, stacklevel=4)
            self.SMTP_kwargs |= server_kwargs
        self.SMTP_kwargs |= SMTP_parameters
        if server_hostname:
            self.SMTP_kwargs["hostname"] = server_hostname
        self._validated_kwargs: tuple[dict[str, Any], Settings | None] = {}, None
        self._loop_before: asyncio.AbstractEventLoop | None = None
        self._factory_invoked: threading.Event | None = threading.Event()
        self._inner_server = self._new_inner_server()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves; made when first asked for, unless the program gave one."""
        # A controller that is never started must not hold the descriptors of a loop.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    @property
    def addresses(self) -> list[Address]:
        """The addresses at which the server listens; empty when stopped.

        An address is ``(host, port)`` or the path of a Unix socket.
        """
        return sockets.addresses_of(self.server)

    def reload_tls(self) -> None:
        """Call the function *ssl_context* again, for new connections; open ones go on.

        May be called from any thread. Raises TypeError if *ssl_context* is not a function, and
        what the function raises.
        """
        self._current_server().reload_tls()

    # The server, and the attributes that programs may set at any time.

    def _new_inner_server(self) -> Server:
        # The lambda looks the method up for each connection, because programs replace it.
        return Server(self.handler, listen=Listen(), factory=lambda: self._factory_invoker())

    def _current_server(self) -> Server:
        """Return the server with the attributes that the controller has now."""
        serving = self._inner_server
        serving.ssl_context = self.ssl_context
        serving.shutdown_timeout = self.shutdown_timeout
        if self.server is not None and self.server not in serving.listeners:
            # A subclass has made it.
            serving.listeners.append(self.server)
        return serving

    async def _serve_at(self, place: Listen) -> asyncio.AbstractServer:
        """Bind a place and accept connections there."""
        serving = self._current_server()
        serving.listeners, serving.places = [], [place]
        # Do not validate all keywords here: a subclass with its own factory may have others.
        names = self.SMTP_kwargs.keys() & HANDSHAKE_NAMES
        serving.settings = Settings.of({name: self.SMTP_kwargs[name] for name in names})
        await serving.bind()
        (listener,) = serving.listeners
        await listener.start_serving()
        return listener

    def _connection_settings(self) -> Settings | None:
        """Return the settings that ``SMTP_kwargs`` asks for, validated once for all connections.

        Programs may change the dict at any time. Returns None if it has a parameter of ``SMTP``
        that is not a setting. Raises TypeError if it has a keyword that ``SMTP`` does not have.
        """
        known, settings = self._validated_kwargs
        if known != self.SMTP_kwargs:
            if others := self.SMTP_kwargs.keys() - {*NAMES}:
                check_names(others - SMTP_ALONE, type(self).__name__, OWN_KEYWORDS)
                return None
            settings = Settings.of(self.SMTP_kwargs)
            diagnostics.look_at_settings(SMTP, settings)
            # Programs may also change a dict, list or set in place: keep a copy of it.
            known = {
                name: copy(value) if isinstance(value, dict | list | set) else value
                for name, value in self.SMTP_kwargs.items()
            }
            self._validated_kwargs = known, settings
        return settings

    @abstractmethod
    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        """Bind and serve in the running loop."""

    def factory(self) -> SMTP:
        """Return the object for one connection; override it to return your own."""
        settings = self._connection_settings() if SMTP is smtp.SMTP else None
        if settings is None:
            # Let SMTP check the keywords, or the class that a test has put in its place.
            return SMTP(self.handler, **self.SMTP_kwargs)
        return SMTP(self.handler, settings=settings)

    def _factory_invoker(self) -> SMTP | _FakeServer:
        """Return the object for one connection, or one that refuses it; never raises."""
        invoked = self._factory_invoked
        try:
            smtpd = self.factory()
            if smtpd is None:
                raise RuntimeError("factory() returned None")
            self._inner_server.adopt(smtpd)
            self.smtpd = smtpd
        except Exception as error:
            if invoked is None or invoked.is_set():
                log.exception("factory() failed, a connection is refused")
            self._thread_exception = error
            return _FakeServer(asyncio.get_running_loop())
        finally:
            if invoked is not None:
                invoked.set()
        return smtpd

    # In the running loop, without a thread.

    async def start_async(self) -> None:
        """Serve in the running event loop, without a thread; ready when it returns.

        Raises what binding or ``factory()`` raised, AssertionError if already running.
        """
        if self._is_serving():
            raise AssertionError(ALREADY_RUNNING)
        self._prepare()
        self._loop_before, self._loop = self._loop, asyncio.get_running_loop()
        try:
            await self._inner_server.open_handler()
            self.server_coro = self._create_server()
            self.server = await self.server_coro
            self._factory_invoker()
            self._raise_failure()
        except BaseException:
            await self._finish(0)
            raise

    async def stop_async(
        self, no_assert: bool = False, timeout: float | None = None, *, linger: float = 0.0
    ) -> None:
        """Stop after ``start_async()``, with the meaning and the parameters of ``stop()``."""
        if self.server is None:
            if no_assert:
                return
            raise AssertionError(NOT_RUNNING)
        await self._finish(timeout, linger)

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
        self._inner_server = self._new_inner_server()

    def _raise_failure(self) -> None:
        if self._thread_exception is not None:
            raise self._thread_exception

    async def _finish(self, timeout: float | None, linger: float = 0.0) -> None:
        try:
            await self._current_server().stop(timeout, linger=linger)
        finally:
            self._cleanup()
            self._loop = self._loop_before

    def _cleanup(self) -> None:
        self.smtpd = None
        self.server = None
        self.server_coro = None
        self._thread_exception = None
        if self._factory_invoked is not None:
            self._factory_invoked.clear()

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        """Stop the loop and cancel all its tasks; call this in the thread of the loop."""
        if stop_loop:
            self.loop.stop()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()


@public
class BaseThreadedController(BaseController, metaclass=ABCMeta):
    """Serves in an event loop that runs in a daemon thread of its own.

    ``start()`` takes at most *ready_timeout* seconds. The environment variable
    ``AIOSMTPD_CONTROLLER_TIMEOUT`` overrides that.
    """

    _thread: threading.Thread | None = None

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ready_timeout: float = DEFAULT_READY_TIMEOUT,
        ssl_context: TLSContext | None = None,
        server_hostname: str | None = None,
        **SMTP_parameters: Unpack[BaseKeywords],
    ) -> None:
        super().__init__(
            handler,
            loop,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            **SMTP_parameters,
        )
        self.ready_timeout = float(os.getenv("AIOSMTPD_CONTROLLER_TIMEOUT", ready_timeout))
        self._thread_ended = threading.Event()
        self._stop_requested = self._loop_left = False
        self._stopping: asyncio.Task[None] | None = None

    def _prepare(self) -> None:
        super()._prepare()
        # The thread of a start() that has failed is not that of the server which starts now.
        self._thread = None

    @abstractmethod
    def _trigger_server(self) -> None:
        """Prove from the caller's thread that the server works; raises if it does not."""

    def _run(self, ready_event: threading.Event) -> None:
        """Serve until the loop is stopped; the whole life of the thread."""
        loop = self.loop
        # As in 1.4, for code of the program that runs here before the loop does.
        asyncio.set_event_loop(loop)
        try:
            try:
                if hooks.lifetime(self.handler) is not None:
                    loop.run_until_complete(self._inner_server.open_handler())
                self.server_coro = self._create_server()
                self.server = loop.run_until_complete(self.server_coro)
            except (Exception, asyncio.CancelledError) as error:
                self._thread_exception = error if isinstance(error, Exception) else None
                return
            loop.call_soon(ready_event.set)
            if not self._stop_requested:
                loop.run_forever()
        finally:
            # From here on, nothing may stop the loop again: the next lines have to run in it.
            self._loop_left = True
            try:
                loop.run_until_complete(self._current_server().stop(0))
            finally:
                close_loop(loop)

    def _run_thread(self, ready_event: threading.Event) -> None:
        # start() waits only for this event. Set it after a failure too, or start() would time out.
        try:
            self._run(ready_event)
        except Exception as error:
            if ready_event.is_set():
                raise
            self._thread_exception = error
        finally:
            ready_event.set()
            self._thread_ended.set()

    def start(self) -> None:
        """Start the thread and return once the server listens and ``factory()`` has run.

        Raises what binding or ``factory()`` raised, TimeoutError if it takes longer than
        ``ready_timeout``, RuntimeError if ``factory()`` returns None, AssertionError if already
        running. Nothing is left running after a failure.
        """
        thread = self._thread
        if self._is_serving() if thread is None else thread.is_alive():
            raise AssertionError(ALREADY_RUNNING)
        if self.loop.is_running():
            raise RuntimeError(
                "this event loop runs already: use `await controller.start_async()` inside it"
            )
        if self.loop.is_closed():
            self.loop = type(self.loop)()
        self._prepare()
        self._stop_requested = self._loop_left = False
        self._thread_ended.clear()
        ready_event = threading.Event()
        self._thread = threading.Thread(target=self._run_thread, args=(ready_event,), daemon=True)
        self._thread.start()
        try:
            self._wait_until_ready(ready_event)
        except BaseException as error:
            self._request_stop(0)
            if not isinstance(error, TimeoutError):
                self._thread.join(self.ready_timeout)
            raise

    def _wait_until_ready(self, ready_event: threading.Event) -> None:
        deadline = time.monotonic() + self.ready_timeout
        in_time = ready_event.wait(self.ready_timeout)
        self._raise_failure()
        if not in_time or self.server is None:
            raise TimeoutError(NOT_STARTED)
        # Try factory() here: a program's own _run() may not.
        invoked = self._factory_invoked
        self.loop.call_soon_threadsafe(self._factory_invoker)
        in_time = invoked is None or invoked.wait(max(deadline - time.monotonic(), 0))
        self._raise_failure()
        if not in_time:
            raise TimeoutError(NOT_RESPONDING)
        # If a program's own check is too slow, ignore it: factory() has run by now.
        with suppress(TimeoutError):
            self._trigger_server()
        self._raise_failure()
        if self.smtpd is None:
            raise RuntimeError("Unknown Error, failed to init SMTP server")

    def stop(
        self, no_assert: bool = False, timeout: float | None = None, *, linger: float = 0.0
    ) -> None:
        """Stop listening, let transactions end, close the loop and join the thread.

        For *linger* seconds the sessions go on and end by themselves. Then clients between two
        transactions get ``421 4.3.2``. Running transactions have *timeout* seconds
        (``shutdown_timeout`` if None); then they are aborted. Raises AssertionError if not running,
        unless *no_assert*.
        """
        thread = self._thread
        if thread is None:
            if no_assert:
                return
            raise AssertionError(NOT_RUNNING)
        self._request_stop(timeout, linger)
        thread.join()
        self.loop.close()
        self._thread = self._stopping = None
        self._cleanup()

    def _request_stop(self, timeout: float | None, linger: float = 0.0) -> None:
        self._stop_requested = True
        # RuntimeError: the thread of a failed start() has closed the loop.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._begin_stop, timeout, linger)

    def _begin_stop(self, timeout: float | None, linger: float) -> None:
        if not self._loop_left:
            self._stopping = self.loop.create_task(self._drain_and_cancel(timeout, linger))

    async def _drain_and_cancel(self, timeout: float | None, linger: float) -> None:
        try:
            await self._current_server().stop(timeout, linger=linger)
        finally:
            if not self._loop_left:
                self.cancel_tasks()

    async def stop_async(
        self, no_assert: bool = False, timeout: float | None = None, *, linger: float = 0.0
    ) -> None:
        """Stop after ``start_async()`` or ``start()``, with the parameters of ``stop()``."""
        if self._thread is None:
            await super().stop_async(no_assert, timeout, linger=linger)
        else:
            await asyncio.to_thread(self.stop, no_assert, timeout, linger=linger)

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or another thread's ``stop()``; start first if need be."""
        try:
            with sigterm_as_interrupt():
                if self._thread is None:
                    self.start()
                # Do not join(): in Python 3.11 and 3.12, a join() that is interrupted believes that
                # the thread has ended. Wait for a second at a time: on Windows, Ctrl-C does not
                # interrupt a wait.
                while not self._thread_ended.wait(1.0):
                    pass
        except KeyboardInterrupt:
            log.info("Interrupted, stopping")
        finally:
            self.stop(no_assert=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(no_assert=True)


@public
class BaseUnthreadedController(BaseController, metaclass=ABCMeta):
    """Serves in an event loop that the program runs; ``ended`` is set when it has stopped."""

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ssl_context: TLSContext | None = None,
        server_hostname: str | None = None,
        **SMTP_parameters: Unpack[BaseKeywords],
    ) -> None:
        super().__init__(
            handler,
            loop,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            **SMTP_parameters,
        )
        self.ended = threading.Event()
        self._ending: asyncio.Task[None] | None = None
        self._owns_loop = loop is None

    def _prepare(self) -> None:
        super()._prepare()
        self.ended.clear()

    def _cleanup(self) -> None:
        super()._cleanup()
        self.ended.set()

    def begin(self) -> None:
        """Start listening, before the loop runs; ready when it returns.

        The loop becomes that of ``asyncio.get_event_loop()``. Raises what binding or ``factory()``
        raised, RuntimeError inside a running loop.
        """
        self._begin(is_current=True)

    def _begin(self, *, is_current: bool = False) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if is_current:
                # A program of 1.4 may run it so. Not for run() and `with`, which close their loop.
                asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self.start_async())
        else:
            raise RuntimeError(
                "begin() cannot wait inside a running event loop: "
                "use `await controller.start_async()`, `await controller.stop_async()`"
            )

    async def finalize(self) -> None:
        """Stop gracefully in the running loop, then set ``ended``; do nothing if stopped."""
        await self.stop_async(no_assert=True)

    def end(self) -> None:
        """Stop listening and begin ``finalize()``; if the loop does not run, run it for that.

        Raises AssertionError when not running.
        """
        if self.server is None:
            raise AssertionError(NOT_RUNNING)
        # If a program has stopped the loop already, finalize() may never run.
        self.server.close()
        loop = self.loop
        if self._ending is None or self._ending.done():
            self._ending = loop.create_task(self.finalize())
        if not loop.is_running():
            loop.run_until_complete(self._ending)

    def run(self) -> None:
        """Run the loop until Ctrl-C or SIGTERM, then stop; start to listen first if need be."""
        if self.server is None:
            self._begin()
        try:
            run_until_signal(self.loop)
        finally:
            self._end_context()

    def _end_context(self) -> None:
        if self.server is not None:
            self.end()
        if self._owns_loop and self._loop is not None and not self._loop.is_running():
            close_loop(self._loop)
            self.loop = None

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_context()


@public
class InetMixin(BaseController, metaclass=ABCMeta):
    """Listens on TCP.

    A *hostname* of None is the loopback, IPv6 and IPv4 if both exist; ``""`` is every interface. A
    *port* of 0 is any free port; the attribute ``port`` is the real one after the start.
    """

    def __init__(
        self,
        handler: Any,
        hostname: str | None = None,
        port: int = DEFAULT_PORT,
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Unpack[ControllerKeywords],
    ) -> None:
        parameters: Any = kwargs  # for a class with a thread, or for one without
        super().__init__(handler, loop, **parameters)
        self._localhost = get_localhost()
        self._both_loopbacks = hostname is None
        self.hostname = self._localhost if hostname is None else hostname
        self.port = port
        self._found_port: int | None = None

    async def _create_server(self) -> asyncio.AbstractServer:
        both = self._both_loopbacks and self.hostname == "::1"
        # After a restart, ask for any free port again: the last one may be taken by now. 1.4 took
        # the port as a str, too, such as that of an environment variable.
        port = 0 if self.port == self._found_port else int(self.port)
        server = await self._serve_at(Listen(host=None if both else self.hostname or "", port=port))
        if port == 0:
            self.port = self._found_port = int(sockets.addresses_of(server)[0][1])
        return server

    def _trigger_server(self) -> None:
        """Do nothing: a bound socket needs no proof. Programs override it with their own checks."""


@public
class UnixSocketMixin(BaseController, metaclass=ABCMeta):
    """Listens on a Unix socket; its file is removed when the server stops."""

    def __init__(
        self,
        handler: Any,
        unix_socket: str | os.PathLike[str],
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Unpack[ControllerKeywords],
    ) -> None:
        parameters: Any = kwargs  # for a class with a thread, or for one without
        super().__init__(handler, loop, **parameters)
        self.unix_socket = os.fspath(unix_socket)

    async def _create_server(self) -> asyncio.AbstractServer:
        return await self._serve_at(Listen(path=self.unix_socket))

    def _trigger_server(self) -> None:
        """Do nothing: a bound socket needs no proof. Programs override it with their own checks."""


@public
class Controller(InetMixin, BaseThreadedController):
    """Serves TCP in a thread of its own."""


@public
class UnixSocketController(UnixSocketMixin, BaseThreadedController):
    """Serves a Unix socket in a thread of its own."""


@public
class UnthreadedController(InetMixin, BaseUnthreadedController):
    """Serves TCP in the program's event loop."""


@public
class UnixSocketUnthreadedController(UnixSocketMixin, BaseUnthreadedController):
    """Serves a Unix socket in the program's event loop."""
