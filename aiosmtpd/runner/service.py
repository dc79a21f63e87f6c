"""Serving as the configuration says: the part that a worker and a server without workers share."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiosmtpd.delivery.events import OnEvent
from aiosmtpd.delivery.spool import SpoolError
from aiosmtpd.listen.addresses import Listen, spell
from aiosmtpd.listen.listener import Listener
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.protocol.limits import Crowd
from aiosmtpd.runner.certificates import Texts
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.folders import Leftovers, free_folder
from aiosmtpd.runner.handler import make_handler
from aiosmtpd.runner.keys import Contexts
from aiosmtpd.server import Server

SPOOL_FAILED = 74
"""Exit code (EX_IOERR) after an error of the spool's disk."""

TRIES = 3
"""Folders that are tried for the spool before the worker gives up."""

log = logging.getLogger("mail.log")


class Service:
    """One server with its handler, its spool and its certificates, from start to end.

    :attr:`lost` is set once the disk of the spool cannot be trusted: end then, with
    :data:`SPOOL_FAILED`.
    """

    def __init__(self, config: Config, slot: int = 0, workers: int = 1) -> None:
        self.config = config
        self.lost = asyncio.Event()
        self.observers: list[Any] = []
        self.crowd: Crowd | None = None
        """Counts connections over all workers; None counts those of this server."""
        self.on_event: OnEvent | None = None
        """Called with each event of a delivery, in some thread."""
        self._slot = slot
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._contexts: Contexts | None = None
        self._server: Server | None = None
        self._delivery: Any = None
        self._emptied: Leftovers | None = None
        self._leftovers: asyncio.Task[None] | None = None

    @property
    def server(self) -> Server:
        """The server, once started."""
        if self._server is None:
            raise RuntimeError("the service is not started")
        return self._server

    @property
    def deliveries(self) -> list[Any]:
        """The handlers with a spool: its own first, then those of workers before."""
        if self._delivery is None:
            return []
        return [self._delivery, *(self._emptied.handlers if self._emptied is not None else ())]

    @property
    def addresses(self) -> list[str]:
        """The addresses at which it listens, as people write them."""
        return [spell(address) for address in self.server.addresses]

    async def start(
        self,
        places: Sequence[Listen],
        texts: Sequence[Texts] = (),
        bound: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve at *places*; call *bound* once they are bound.

        Raises Failure with one line, after all that was opened is closed.
        """
        config = self.config
        if config.tls is not None and texts:
            self._contexts = Contexts(texts, config.tls.min_version)
        context = self._contexts.context if self._contexts is not None else None
        try:
            handler = await self._make_handler()
            self._server = Server(
                handler,
                listen=places,
                ssl_context=context,
                settings=config.settings(tls_context=context, observers=self.observers),
                shutdown_timeout=config.drain.grace,
                crowd=self.crowd,
            )
            await self._server.bind()
            bound()
            await self._server.start()
        except BaseException as error:
            await self._give_up()
            if isinstance(error, Failure) or not isinstance(error, Exception):
                raise
            raise Failure(_why(error), 1) from error

    async def _give_up(self) -> None:
        """Close all that is open after a start that failed; the log has the errors of that."""
        try:
            await self.stop(0.0, 0.0)
        except Exception:
            log.exception("The server has failed to start, and cannot close what was open")

    def use_certificates(self, texts: Sequence[Texts]) -> None:
        """Use other certificates for new handshakes."""
        if self._contexts is not None and texts:
            self._contexts.use(texts)

    async def stop(self, linger: float, grace: float, *, is_last: bool = False) -> None:
        """End: sessions go on for *linger* seconds, transactions for *grace* seconds more.

        With *is_last* no other process serves the sockets: clients that wait there are served too.
        """
        if self._leftovers is not None:
            # Another worker may have those folders now; this takes as long as a running delivery.
            self._leftovers.cancel()
        for listener in self._server.listeners if self._server and is_last else ():
            if isinstance(listener, Listener):
                listener.stop_sharing()
        try:
            if self._server is not None:
                await self._server.stop(grace, linger=linger)
        finally:
            if self._delivery is not None:
                await self._delivery.close()
            if self._leftovers is not None:
                await asyncio.wait([self._leftovers])

    async def _make_handler(self) -> Any:
        """Return the handler; one with a spool is open."""
        spool = self.config.spool
        if spool is None or self.config.handler is not None:
            return make_handler(self.config, on_failure=self._lose, on_event=self.on_event)
        first: SpoolError | None = None
        used: set[str] = set()
        for _ in range(TRIES):
            folder = free_folder(spool.path, self._slot, used)
            used.add(folder)
            delivery = self._make(folder)
            try:
                await delivery.open()
            except SpoolError as error:
                if not os.access(spool.path, os.W_OK | os.X_OK):
                    # No other folder in there would be better.
                    raise
                # In use since a moment ago, or damaged; that one is kept as it is.
                first = first or error
                log.error("%s", error)
                continue
            self._delivery = delivery
            self._emptied = Leftovers(spool.path, self._slot, self._workers, folder, self._make)
            self._leftovers = self._loop.create_task(self._emptied.run())
            return delivery
        raise first or SpoolError(f"No spool in {spool.path}")

    def _make(self, folder: str) -> Any:
        return make_handler(self.config, folder, on_failure=self._lose, on_event=self.on_event)

    def _lose(self, error: BaseException) -> None:
        # Called in another thread; the loop may be closed by now.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(partial(self._lost, error))

    def _lost(self, error: BaseException) -> None:
        log.critical("The disk of the spool has failed: stopping: %s", error)
        self.lost.set()


def _why(error: Exception) -> str:
    from aiosmtpd.delivery.item import Misconfigured

    if isinstance(error, Misconfigured | SpoolError):
        return str(error)
    if isinstance(error, OSError):
        return f"Cannot serve: {error.strerror or error}"
    return one_line(error)
