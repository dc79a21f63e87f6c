"""Serving in one process, on systems where workers cannot get sockets from a master: Windows."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import evolve

from aiosmtpd.process.exit import exit_despite_threads, flush_standard_streams
from aiosmtpd.process.failure import Failure
from aiosmtpd.process.signals import signals_handled
from aiosmtpd.runner.certificates import Texts
from aiosmtpd.runner.config import Config, Place
from aiosmtpd.runner.keys import checked
from aiosmtpd.runner.logs import OWN
from aiosmtpd.runner.service import SPOOL_FAILED, Service

log = logging.getLogger("mail.log")


def run_alone(config: Config, certificates: float = 60.0) -> int:
    """Serve until a signal; return the exit code. Raises Failure if it cannot start.

    *certificates* is the seconds between two looks at the files of certificates.
    """
    threads = set(threading.enumerate())
    with asyncio.Runner() as runner:
        code = runner.run(_Alone(config, certificates).run())
    flush_standard_streams()
    exit_despite_threads(threads, code)
    return code


class _Alone:
    def __init__(self, config: Config, certificates: float) -> None:
        self._config = config
        self._pause = certificates
        self._texts = self._read()
        self._stopping: asyncio.Task[None] | None = None
        self._end = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        service = Service(self._config)
        with signals_handled(loop, self._reactions(service)):
            await service.start(self._places(), self._texts)
            log.info("Server is listening on %s", " and ".join(service.addresses), extra=OWN)
            looking = loop.create_task(self._look(service))
            losing = loop.create_task(service.lost.wait())
            ending = loop.create_task(self._end.wait())
            both: list[asyncio.Task[Any]] = [losing, ending]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            drain = self._config.drain
            linger = 0.0 if service.lost.is_set() else drain.linger
            self._stopping = loop.create_task(service.stop(linger, drain.grace, is_last=True))
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._stopping])
                await self._stopping
            for task in (looking, *both):
                task.cancel()
            await asyncio.wait([looking, *both])
        return SPOOL_FAILED if service.lost.is_set() else 0

    def _reactions(self, service: Service) -> dict[int, Callable[[], None]]:
        reactions: dict[int, Callable[[], None]] = {
            getattr(signal, name): self._on_signal
            for name in ("SIGINT", "SIGTERM", "SIGBREAK")
            if hasattr(signal, name)
        }
        if hasattr(signal, "SIGHUP"):
            reactions[signal.SIGHUP] = lambda: self._load(service)
        return reactions

    def _on_signal(self) -> None:
        if self._stopping is not None:
            # The second time is now.
            self._stopping.cancel()
        self._end.set()

    def _places(self) -> list[Place]:
        """Return the places as workers get them: one without a scheme speaks SMTP."""
        return [evolve(place, scheme=place.scheme or "smtp") for place in self._config.listen]

    def _read(self) -> list[Texts]:
        tls = self._config.tls
        return [one.texts for one in checked(tls.pairs)] if tls is not None else []

    def _load(self, service: Service) -> None:
        try:
            texts = self._read()
            if texts != self._texts:
                service.use_certificates(texts)
                self._texts = texts
                log.info("Certificates loaded again")
        except Failure as failure:
            log.error("%s; the old certificate stays", failure)

    async def _look(self, service: Service) -> None:
        while True:
            await asyncio.sleep(self._pause)
            self._load(service)
