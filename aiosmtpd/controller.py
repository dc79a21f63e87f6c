"""Controllers: a server in a thread of its own, or in an event loop that the program runs."""

import asyncio
import errno
import os
import threading
import time
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from socket import AF_INET6, SOCK_STREAM, has_ipv6, socket as makesock
from typing import Any, Literal, Self

from public import public

from aiosmtpd.listen import sockets as listening
from aiosmtpd.listen.listener import Listener
from aiosmtpd.server import (
    ALREADY_RUNNING,
    DEFAULT_PORT,
    DEFAULT_SHUTDOWN_TIMEOUT,
    NOT_RUNNING,
    AsyncServing,
    Server as Server,
    TLSContext,
    _FakeServer as _FakeServer,
    _server_to_client_ssl_ctx as _server_to_client_ssl_ctx,
    adopt,
    close_loop,
    log,
    run_until_signal,
    serve,
    sigterm_as_interrupt,
)
from aiosmtpd.smtp import SMTP

public(Server=Server)

DEFAULT_READY_TIMEOUT: float = 5.0
"""Seconds that `start()` waits for the server."""

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
    """What an errno of binding `::1` says about IPv6 on this machine."""

    NO = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # noqa: RUF012
    YES = {errno.EADDRINUSE}  # noqa: RUF012


def _has_ipv6() -> bool:
    return has_ipv6


@public
def get_localhost() -> Literal["::1", "127.0.0.1"]:
    """Return the loopback address: `::1` where it can be bound, else `127.0.0.1`."""
    if not _has_ipv6():
        return "127.0.0.1"
    try:
        with makesock(AF_INET6, SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return "::1" if error.errno in IP6_IS.YES else "127.0.0.1"
    return "::1"


@public
class BaseController(AsyncServing, metaclass=ABCMeta):
    """What all controllers share: the settings, the factory and serving in the running loop.

    `ssl_context` (or a callable giving one) makes every connection start with TLS. Keywords that
    are not listed go to `SMTP`; `server_hostname` is its `hostname`. `shutdown_timeout` (seconds)
    is what stopping gives to running transactions.
    """

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ssl_context: TLSContext | None = None,
        server_hostname: str | None = None,
        shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
        **SMTP_parameters: Any,
    ) -> None:
        super().__init__(loop, shutdown_timeout)
        self.handler = handler
        self.ssl_context = ssl_context
        self.SMTP_kwargs: dict[str, Any] = {}
        if "server_kwargs" in SMTP_parameters:
            warnings.warn(SERVER_KWARGS_DEPRECATED, DeprecationWarning, stacklevel=4)
            self.SMTP_kwargs = dict(SMTP_parameters.pop("server_kwargs"))
        self.SMTP_kwargs.update(SMTP_parameters)
        if server_hostname:
            self.SMTP_kwargs["hostname"] = server_hostname
        self.SMTP_kwargs.setdefault("enable_SMTPUTF8", True)

    def factory(self) -> SMTP:
        """Make the object that serves one connection; override it to give your own."""
        return SMTP(self.handler, **self.SMTP_kwargs)

    def _factory_invoker(self) -> SMTP | _FakeServer:
        """Call `factory()` as the event loop's protocol factory, which must not raise."""
        invoked = self._factory_invoked
        try:
            smtpd = self.factory()
            if smtpd is None:
                raise RuntimeError("factory() returned None")
            adopt(smtpd, self._registry)
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

    async def _serve(self, sockets: Sequence[listening.Socket]) -> Listener:
        settings = self.ssl_context, self.SMTP_kwargs, self._registry
        return await serve(sockets, self._factory_invoker, *settings)

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        """Stop the loop and cancel all its tasks; to be called in the loop's thread."""
        if stop_loop:
            self.loop.stop()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()


@public
class BaseThreadedController(BaseController, metaclass=ABCMeta):
    """Runs the event loop in a daemon thread of its own.

    `ready_timeout` (seconds) bounds `start()`; the environment variable
    AIOSMTPD_CONTROLLER_TIMEOUT overrides it.
    """

    _thread: threading.Thread | None = None
    _stop_requested = False
    _stopping: asyncio.Task[None] | None = None
    _loop_left = False

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ready_timeout: float = DEFAULT_READY_TIMEOUT,
        ssl_context: TLSContext | None = None,
        server_hostname: str | None = None,
        **SMTP_parameters: Any,
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

    @abstractmethod
    def _trigger_server(self) -> None:
        """Prove from the caller's thread that the server works; raises if it does not."""

    def _run(self, ready_event: threading.Event) -> None:
        """Serve until the loop is stopped; the whole life of the thread."""
        loop = self.loop
        try:
            try:
                self.server_coro = self._create_server()
                self.server = loop.run_until_complete(self.server_coro)
            except (Exception, asyncio.CancelledError) as error:
                self._thread_exception = error if isinstance(error, Exception) else None
                return
            loop.call_soon(ready_event.set)
            if not self._stop_requested:
                loop.run_forever()
        finally:
            # Whoever stopped the loop, from here on nobody stops it again.
            self._loop_left = True
            try:
                loop.run_until_complete(self._drain(0))
            finally:
                close_loop(loop)

    def _run_thread(self, ready_event: threading.Event) -> None:
        # start() waits for the event alone, so it is set too when there is nothing to wait for.
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
        """Start the thread and return once the server listens and `factory()` has run.

        Raises what binding or `factory()` raised, TimeoutError when it takes longer than
        `ready_timeout`, RuntimeError when `factory()` gives None, AssertionError when already
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
        # _run() may be the program's own; whoever runs the loop, factory() is tried here.
        invoked = self._factory_invoked
        self.loop.call_soon_threadsafe(self._factory_invoker)
        in_time = invoked is None or invoked.wait(max(deadline - time.monotonic(), 0))
        self._raise_failure()
        if not in_time:
            raise TimeoutError(NOT_RESPONDING)
        # That a program's own client was too slow says nothing: factory() has run by now.
        with suppress(TimeoutError):
            self._trigger_server()
        self._raise_failure()
        if self.smtpd is None:
            raise RuntimeError("Unknown Error, failed to init SMTP server")

    def stop(self, no_assert: bool = False, timeout: float | None = None) -> None:
        """Stop listening, let transactions end, close the loop and join the thread.

        Idle clients get `421 4.3.2` at once, running transactions have `timeout` seconds
        (`shutdown_timeout` if None) before they are aborted. Raises AssertionError when not
        running, unless `no_assert`.
        """
        thread = self._thread
        if thread is None:
            if no_assert:
                return
            raise AssertionError(NOT_RUNNING)
        self._request_stop(self.shutdown_timeout if timeout is None else timeout)
        thread.join()
        self.loop.close()
        self._thread = self._stopping = None
        self._cleanup()

    def _request_stop(self, timeout: float) -> None:
        self._stop_requested = True
        # The thread of a failed start() has closed its loop.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._begin_stop, timeout)

    def _begin_stop(self, timeout: float) -> None:
        if not self._loop_left:
            self._stopping = self.loop.create_task(self._drain_and_cancel(timeout))

    async def _drain_and_cancel(self, timeout: float) -> None:
        try:
            await self._drain(timeout)
        finally:
            if not self._loop_left:
                self.cancel_tasks()

    async def stop_async(self, no_assert: bool = False, timeout: float | None = None) -> None:
        """Stop what `start_async()` or `start()` started; see `stop()`."""
        if self._thread is None:
            await super().stop_async(no_assert, timeout)
        else:
            await asyncio.to_thread(self.stop, no_assert, timeout)

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or another thread's `stop()`; starts what is not started."""
        try:
            with sigterm_as_interrupt():
                if self._thread is None:
                    self.start()
                # Not join(): in Python 3.11 and 3.12 an interrupted one takes the thread for
                # ended. Where nothing interrupts a wait (Windows), Ctrl-C is seen between two.
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
    """Serves in an event loop that the program runs itself; `ended` is set when it has stopped."""

    _ending: asyncio.Task[None] | None = None

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ssl_context: TLSContext | None = None,
        server_hostname: str | None = None,
        **SMTP_parameters: Any,
    ) -> None:
        super().__init__(
            handler,
            loop,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            **SMTP_parameters,
        )
        self.ended = threading.Event()
        self._owns_loop = loop is None

    def _prepare(self) -> None:
        super()._prepare()
        self.ended.clear()

    def _cleanup(self) -> None:
        super()._cleanup()
        self.ended.set()

    def begin(self) -> None:
        """Start listening, before the loop runs; ready when it returns.

        Raises what binding or `factory()` raised, RuntimeError inside a running loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.loop.run_until_complete(self.start_async())
        else:
            raise RuntimeError(
                "begin() cannot wait inside a running event loop: "
                "use `await controller.start_async()`, `await controller.stop_async()`"
            )

    async def finalize(self) -> None:
        """Stop gracefully in the running loop, then set `ended`; nothing to do if stopped."""
        await self.stop_async(no_assert=True)

    def end(self) -> None:
        """Stop listening at once and begin `finalize()`; complete it if the loop does not run.

        Raises AssertionError when not running.
        """
        if self.server is None:
            raise AssertionError(NOT_RUNNING)
        # Programs stop the loop before this: then finalize() may never be run.
        self.server.close()
        loop = self.loop
        if self._ending is None or self._ending.done():
            self._ending = loop.create_task(self.finalize())
        if not loop.is_running():
            loop.run_until_complete(self._ending)

    def run(self) -> None:
        """Run the loop until Ctrl-C or SIGTERM, then stop; begins what has not begun."""
        if self.server is None:
            self.begin()
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
        self.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_context()


@public
class InetMixin(BaseController, metaclass=ABCMeta):
    """Listens on TCP.

    `hostname` None is the loopback, IPv6 and IPv4 where both exist; "" every interface; a `port`
    of 0 any free one, which `port` then tells.
    """

    _found_port: int | None = None

    def __init__(
        self,
        handler: Any,
        hostname: str | None = None,
        port: int = DEFAULT_PORT,
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, loop, **kwargs)
        self._localhost = get_localhost()
        self._both_loopbacks = hostname is None
        self.hostname = self._localhost if hostname is None else hostname
        self.port = port
        self._found_port = None

    async def _create_server(self) -> asyncio.AbstractServer:
        hosts = [self.hostname]
        if self._both_loopbacks and hosts == ["::1"]:
            hosts.append("127.0.0.1")
        # A restart looks for a free port again: the last one may be taken by now.
        port = 0 if self.port == self._found_port else self.port
        server = await self._serve(await listening.bind_tcp(hosts, port))
        if port == 0:
            self.port = self._found_port = server.sockets[0].getsockname()[1]
        return server

    def _trigger_server(self) -> None:
        """Do nothing: a bound socket needs no proof. Here for programs' own checks."""


@public
class UnixSocketMixin(BaseController, metaclass=ABCMeta):
    """Listens on a Unix socket, whose file goes when the server stops."""

    def __init__(
        self,
        handler: Any,
        unix_socket: str | os.PathLike[str],
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, loop, **kwargs)
        self.unix_socket = os.fspath(unix_socket)

    async def _create_server(self) -> asyncio.AbstractServer:
        return await self._serve(listening.bind_unix(self.unix_socket))

    def _trigger_server(self) -> None:
        """Do nothing: a bound socket needs no proof. Here for programs' own checks."""


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
