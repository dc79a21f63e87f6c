"""The desk: ``python -m aiosmtpd.runner.desk NUMBER``, started by the master.

It answers at the places of ``[admin]``, which the master has bound: the pages, and ``aiosmtpd
ctl``. It gives up the rights of root before it takes a client. It knows nothing by itself: it asks
the master. NUMBER is the descriptor of the channel for that; the desk ends when the channel ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any

from aiosmtpd.process.exit import flush_standard_streams
from aiosmtpd.process.failure import Failure
from aiosmtpd.process.rights import Identity
from aiosmtpd.runner import logs
from aiosmtpd.runner.control import Channel
from aiosmtpd.runner.ctl import Ctl
from aiosmtpd.runner.exposition import CONTENT_TYPE, render
from aiosmtpd.runner.health import Answer, Health
from aiosmtpd.runner.verbs import PATIENCE, UNANSWERED

BEAT = 1.0
"""Seconds between two heartbeats."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH")
"""Signals that the desk ignores: the master says when it ends."""

log = logging.getLogger("mail.log")


class NoAnswer(ValueError):
    """The master has not answered in time."""


class Desk:
    """The process. :meth:`run` returns the exit code."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._shared: dict[str, asyncio.Task[Any]] = {}
        self._ending: asyncio.Task[None] | None = None
        self._health = Health(
            {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        )
        self._ctl = Ctl(
            {
                "status": lambda request: self.ask("status"),
                "reload": lambda request: self.ask("reload"),
                "drain": lambda request: self.ask("drain"),
                "sessions": lambda request: self.ask("sessions", request.get("limit")),
                "log-level": lambda request: self._log_level(request.get("level")),
            }
        )

    async def run(self) -> int:
        """Serve until the master says so, or ends; return the exit code."""
        order = await self._channel.receive()
        if order is None:
            return 1
        try:
            self._give_up_rights(order)
            await self._health.start(_sockets(order["http"]))
            await self._ctl.start(_sockets(order["ctl"]))
        except (Failure, OSError) as error:
            self._channel.send({"failed": str(error), "code": getattr(error, "code", 1)})
            await self._channel.flush()
            return 1
        self._channel.send({"ready": os.getpid()})
        beating = asyncio.ensure_future(self._beat())
        await self._listen()
        for task in (beating, self._ending):
            if task is not None:
                task.cancel()
        self._health.stop()
        self._ctl.stop()
        return 0

    async def ask(self, verb: str, about: Any = None) -> Any:
        """Ask the master; raises ValueError with its reason, NoAnswer if it does not answer."""
        if len(self._answers) >= UNANSWERED:
            raise NoAnswer("too many requests wait for the master")
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        self._channel.send({"ask": number, "verb": verb, "about": about})
        try:
            async with asyncio.timeout(PATIENCE[verb]):
                message = await answer
        except TimeoutError:
            raise NoAnswer("the master does not answer") from None
        finally:
            del self._answers[number]
        if "error" in message:
            raise ValueError(message["error"])
        return message["value"]

    async def _ask_for_all(self, verb: str) -> Any:
        """Ask the master once for all clients that want to know the same now."""
        task = self._shared.get(verb)
        if task is None:
            task = self._shared[verb] = asyncio.ensure_future(self.ask(verb))
            task.add_done_callback(lambda task: self._forget(verb, task))
        return await asyncio.shield(task)

    def _forget(self, verb: str, task: asyncio.Task[Any]) -> None:
        del self._shared[verb]
        if not task.cancelled():
            # Retrieved here, in case all clients have gone.
            task.exception()

    def _give_up_rights(self, order: dict[str, Any]) -> None:
        # The settings, without the class of them: its module has much that the desk does not need.
        settings: Any = SimpleNamespace(**order["log"])
        logs.set_up(settings, key=bytes.fromhex(order["log_key"]))
        if order["identity"] is None:
            return
        try:
            Identity(**order["identity"]).become()
        except Failure as failure:
            if order["must"]:
                raise
            # Such as in a container whose only user is root.
            log.warning("The desk keeps the rights of root: %s", failure)

    async def _beat(self) -> None:
        while True:
            self._channel.send({"beat": {}})
            await asyncio.sleep(BEAT)

    async def _listen(self) -> None:
        """Do what the master says until this is the end."""
        while (message := await self._channel.receive()) is not None:
            if "drain" in message and self._ending is None:
                self._health.stop()
                self._ctl.stop()
                self._ending = asyncio.ensure_future(self._end(message["drain"]["linger"]))
            elif (answer := self._answers.get(message.get("answer", 0))) and not answer.done():
                answer.set_result(message)

    async def _end(self, linger: float) -> None:
        """Answer the last requests, then close the channel: :meth:`_listen` ends then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(linger):
                await self._health.idle()
                await self._ctl.idle()
        self._channel.close()

    # Pages.

    async def _metrics(self, query: str) -> Answer:
        try:
            return Answer(200, render(await self._ask_for_all("numbers")), CONTENT_TYPE)
        except NoAnswer as error:
            return Answer(503, f"{error}\n")

    async def _healthz(self, query: str) -> Answer:
        try:
            await self._ask_for_all("alive")
        except NoAnswer as error:
            return Answer(503, f"{error}\n")
        return Answer(200, "ok\n")

    async def _readyz(self, query: str) -> Answer:
        try:
            why_not = await self._ask_for_all("ready")
        except NoAnswer as error:
            why_not = [str(error)]
        text = "not ready" if why_not else "ready"
        lines = [text, *why_not] if query == "verbose" else [text]
        return Answer(503 if why_not else 200, "".join(f"{line}\n" for line in lines))

    # Commands.

    async def _log_level(self, level: Any) -> Any:
        value = await self.ask("log-level", level)
        logs.set_level(value["level"])
        return value


def _sockets(descriptors: Iterable[int]) -> list[socket.socket]:
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


async def _main(descriptor: int) -> int:
    channel = await Channel.of(socket.socket(fileno=descriptor))
    try:
        return await Desk(channel).run()
    finally:
        channel.close()


def main() -> None:
    """Be the desk until the master ends it."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with asyncio.Runner() as runner:
        code = runner.run(_main(int(sys.argv[1])))
    flush_standard_streams()
    sys.exit(code)


if __name__ == "__main__":
    main()
