"""A worker: ``python -m aiosmtpd.runner.worker NUMBER``, started by the master.

NUMBER is the descriptor of the channel. The first message has all that the worker needs; it serves
until the master says ``drain`` or ends.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiosmtpd.delivery.events import Event
from aiosmtpd.listen.addresses import Listen
from aiosmtpd.process.exit import exit_despite_threads, flush_standard_streams
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.process.rights import Identity
from aiosmtpd.process.signals import signals_handled
from aiosmtpd.runner.certificates import Texts
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.control import Channel
from aiosmtpd.runner.handler import LOADED_LATE
from aiosmtpd.runner.logs import set_level, set_up
from aiosmtpd.runner.numbers import Numbers
from aiosmtpd.runner.service import SPOOL_FAILED, Service
from aiosmtpd.runner.sessions import SessionLog
from aiosmtpd.runner.tally import Tally

BEAT = 1.0
"""Seconds between two heartbeats."""

ORPHAN_LINGER, ORPHAN_GRACE = 1.0, 0.5
"""The drain of a worker whose master has gone: the next one wants the ports and the spool."""

ORPHAN_END = 1.9
"""Seconds after which such a worker ends in any case; a delivery that runs is tried again."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH")
"""Signals that a worker ignores: the master says when it ends."""

log = logging.getLogger("mail.log")


class Worker:
    """One worker process. :meth:`run` returns the exit code."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._service: Service | None = None
        self._numbers: Numbers | None = None
        self._drain: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._is_now = self._has_complained = False
        self.answers: dict[str, Callable[[Any], Any]] = {"log": set_level}
        """The functions that answer requests of the master, by the key of the request."""

    async def run(self) -> int:
        """Serve until the master says so; return the exit code."""
        order = await self._channel.receive()
        if order is None:
            return 1
        try:
            service = await self._start(order)
        except Failure as failure:
            return await self._fail(_with_user(str(failure), order["identity"]), failure.code)
        except Exception as error:
            log.exception("The worker cannot start")
            return await self._fail(one_line(error), 1)
        self._service = service
        if "patience" in order:
            faulthandler.cancel_dump_traceback_later()
        losing = asyncio.ensure_future(service.lost.wait())
        tasks = [asyncio.ensure_future(one) for one in (self._listen(), self._beat())]
        self._channel.send({"ready": os.getpid(), "addresses": service.addresses})
        ends: list[asyncio.Future[Any]] = [self._drain, losing]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await self._stop(service)
        losing.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._send_last_numbers()
        await self._channel.flush()
        return SPOOL_FAILED if service.lost.is_set() else 0

    async def _start(self, order: dict[str, Any]) -> Service:
        if "patience" in order:
            # The code of a handler may wait for ever, and the master may have gone.
            faulthandler.dump_traceback_later(order["patience"], exit=True)
        _keep_from_programs(order)
        config = Config.from_json(order["config"])
        key = bytes.fromhex(order.get("log_key", ""))
        sessions = SessionLog(set_up(config.log, order["slot"], key))
        if order["identity"] is not None:
            # Before the first byte of a client, and before any code of the user's.
            Identity(**order["identity"]).assume(LOADED_LATE)
        descriptors = {fd for fd, _ in order["sockets"]}

        def close_descriptors() -> None:
            # The server has copies. These would keep the port after the end of the master.
            for descriptor in descriptors:
                os.close(descriptor)

        service = Service(config, order["slot"], order["workers"])
        numbers = Numbers(order["slot"])
        numbers.deliveries = lambda: service.deliveries
        service.observers += [numbers.observer, sessions]

        def on_event(event: Event) -> None:
            numbers.on_event(event)
            sessions.on_event(event)

        service.on_event = on_event
        if "tally" in order:
            service.crowd = Tally(*order["tally"])
        self.answers["sessions"] = sessions.sessions
        self._numbers = numbers
        await service.start(
            [Listen(scheme, fd=fd) for fd, scheme in order["sockets"]],
            [Texts(*pair) for pair in order["tls"]],
            close_descriptors,
        )
        numbers.start()
        return service

    async def _fail(self, text: str, code: int) -> int:
        self._channel.send({"failed": text, "code": code})
        await self._channel.flush()
        self._channel.close()
        return code or 1

    async def _listen(self) -> None:
        """Do what the master says; drain if it has gone."""
        while (message := await self._channel.receive()) is not None:
            try:
                self._hear(message)
            except Exception:
                # Without file descriptors, for example. The next message may be the end.
                log.exception("The worker cannot do what the master says")
        log.error("The master has gone: the worker ends")
        asyncio.get_running_loop().call_later(ORPHAN_END, os._exit, 1)
        self._end({"linger": ORPHAN_LINGER, "grace": ORPHAN_GRACE, "last": True})

    def _hear(self, message: dict[str, Any]) -> None:
        if "drain" in message:
            self._end(message["drain"])
        elif "tls" in message and self._service is not None:
            self._service.use_certificates([Texts(*pair) for pair in message["tls"]])
        elif "ask" in message:
            self._channel.send({"answer": message["ask"], **self._answered(message)})

    def _end(self, how: dict[str, Any]) -> None:
        if not self._drain.done():
            self._drain.set_result(how)
        elif not how["linger"] and not how["grace"]:
            # Now. Any other drain after a first one changes nothing.
            self._is_now = True
            if self._stopping is not None:
                self._stopping.cancel()

    async def _stop(self, service: Service) -> None:
        drain = service.config.drain
        how: dict[str, Any] = {"linger": 0.0, "grace": drain.grace}
        if self._drain.done():
            how = self._drain.result()
        else:
            self._drain.set_result(how)
        if self._is_now:
            how = {**how, "linger": 0.0, "grace": 0.0}
        self._stopping = asyncio.ensure_future(
            service.stop(how["linger"], how["grace"], is_last=how.get("last", False))
        )
        with suppress(asyncio.CancelledError):
            await asyncio.wait([self._stopping])
            try:
                await self._stopping
            except Exception:
                log.exception("The handler has failed at the end of the worker")

    async def _beat(self) -> None:
        while self._service is not None:
            self._send_numbers()
            await asyncio.sleep(BEAT)

    def _send_numbers(self) -> None:
        if self._numbers is None:
            return
        numbers: Any = {}
        try:
            numbers = self._numbers.snapshot()
        except Exception:
            # Without a heartbeat, the master would end a worker that serves.
            if not self._has_complained:
                log.exception("The numbers of the worker cannot be read")
            self._has_complained = True
        self._channel.send({"beat": numbers})

    async def _send_last_numbers(self) -> None:
        """Send the numbers of the last sessions: the master keeps them."""
        if self._numbers is not None:
            await self._numbers.stop()
            self._send_numbers()

    def _answered(self, message: dict[str, Any]) -> dict[str, Any]:
        for name, answer in self.answers.items():
            if name in message:
                try:
                    return {"value": answer(message[name])}
                except Exception as error:
                    return {"error": one_line(error)}
        return {"error": "this worker cannot answer that"}


def _keep_from_programs(order: dict[str, Any]) -> None:
    """Let no program that the handler starts inherit a socket: it would keep the port open."""
    for descriptor in [*(fd for fd, _ in order["sockets"]), *order.get("tally", ())[:1]]:
        os.set_inheritable(descriptor, False)


def _with_user(text: str, identity: dict[str, Any] | None) -> str:
    """Name the user of the workers in the reason of a failure, if the user may be the reason."""
    if identity is None or os.strerror(errno.EACCES) not in text:
        return text
    user = identity["user"]
    return (
        f"{text}; workers run as the user {user}: make it and give it to this user (mkdir, chown), "
        "or name another one (the key user, or the variable AIOSMTPD_USER)"
    )


async def _main(descriptor: int) -> int:
    loop = asyncio.get_running_loop()
    os.set_inheritable(descriptor, False)
    channel = await Channel.of(socket.socket(fileno=descriptor))
    with signals_handled(loop, _reactions()):
        try:
            return await Worker(channel).run()
        finally:
            channel.close()


def _reactions() -> dict[int, Callable[[], None]]:
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    # Not SIG_IGN, which commands of the handler would inherit.
    return {number: lambda: None for number in numbers}


def main() -> None:
    """Be a worker until the master ends it."""
    threads = set(threading.enumerate())
    with asyncio.Runner() as runner:
        code = runner.run(_main(int(sys.argv[1])))
    flush_standard_streams()
    exit_despite_threads(threads, code)
    sys.exit(code)


if __name__ == "__main__":
    main()
