"""The keeper of the desk: starts its process, starts it again if it ends, and replaces it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import attrs

from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.runner.child import Child, Timing, reason
from aiosmtpd.runner.slot import SOUND, pause_after
from aiosmtpd.runner.verbs import LONGEST, UNANSWERED

LINGER = 10.0
"""Seconds for which a desk that was replaced may answer its last clients."""

LAST_LINGER = 1.0
"""The same at the end of the master."""

SETTLE = 1.0
"""Seconds after that, before the desk is killed."""

PAUSE = 0.005
"""Seconds between two messages of the desk: more of them wait, so that the master has time."""

log = logging.getLogger("mail.log")


class Keeper:
    """Keeps the desk of a master. *answer* gets a verb and its value, as the desk sends them."""

    def __init__(
        self, answer: Callable[[Any, Any], Awaitable[dict[str, Any]]], timing: Timing
    ) -> None:
        self.restarts = 0
        """How often a desk ended that should not have."""
        self._answer = answer
        self._timing = attrs.evolve(timing, settle=SETTLE)
        self._wanted: tuple[dict[str, Any], list[int]] | None = None
        self._served: tuple[dict[str, Any], list[int]] | None = None
        """The order of the desk that runs."""
        self._is_ending = False
        self._child: Child | None = None
        self._children: set[Child] = set()
        self._failures = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping = self._start_task(self._keep())

    @property
    def pid(self) -> int | None:
        """The process of the desk, None if there is none now."""
        return self._child.pid if self._child is not None else None

    @property
    def pids(self) -> set[int]:
        """All processes: the desk, and those before it that still end."""
        return {child.pid for child in self._children}

    def use(self, order: dict[str, Any] | None, descriptors: Iterable[int] = ()) -> None:
        """Have a desk with this order and these descriptors, or none.

        The desk before it ends once this one is ready, and stays if this one cannot start.
        """
        self._wanted = None if order is None else (order, list(descriptors))
        self._failures = 0
        self._hurry.set()
        self._wake.set()

    async def stop(self) -> None:
        """End; the last clients have a second to take their answers."""
        self._is_ending = True
        self._keeping.cancel()
        for child in self._children:
            child.drain(LAST_LINGER, 0.0, self._timing)
        for child in list(self._children):
            await child.ended.wait()
        for task in self._tasks:
            task.cancel()

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            if self._failures > 1:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_after(self._failures)):
                        await self._hurry.wait()
            self._wake.clear()
            self._hurry.clear()
            old, wanted = self._child, self._wanted
            if old is not None and wanted is self._served:
                continue
            try:
                self._child = None if wanted is None else await self._begin(*wanted)
            except Exception as error:
                why = error if isinstance(error, Failure) else one_line(error)
                log.error("The desk cannot start: %s", why)
                self._failures += 1
                if self._child is None:
                    self._wake.set()
                continue
            self._served = wanted
            if old is not None:
                old.drain(LINGER, 0.0, self._timing)

    async def _begin(self, order: dict[str, Any], descriptors: list[int]) -> Child:
        child = await Child.spawn(
            -1, order, descriptors, self._timing, kind="desk", longest=LONGEST
        )
        self._children.add(child)
        answering: set[asyncio.Task[None]] = set()

        async def on_ask(message: dict[str, Any]) -> None:
            await self._hear(child, message, answering)

        child.pause, child.on_ask = PAUSE, on_ask
        self._start_task(self._follow(child))
        await child.ready(self._timing.start)
        log.info("The desk is ready (process %d)", child.pid)
        return child

    async def _hear(
        self, child: Child, message: dict[str, Any], answering: set[asyncio.Task[None]]
    ) -> None:
        """Begin to answer a question; raises TypeError for one without a number."""
        number, verb = message["ask"], message.get("verb")
        if not isinstance(number, int):
            raise TypeError("a question without a number")
        if len(answering) >= UNANSWERED:
            child.answer(number, {"error": "too many requests wait for an answer"})
        else:
            coroutine = self._reply(child, number, verb, message.get("about"))
            task = self._start_task(coroutine)
            answering.add(task)
            task.add_done_callback(answering.discard)
        # A desk that does not read the answers is not read either.
        await child.flush()

    async def _reply(self, child: Child, number: int, verb: Any, about: Any) -> None:
        child.answer(number, await self._answer(verb, about))

    async def _follow(self, child: Child) -> None:
        """Wait for the end of a process."""
        await child.ended.wait()
        self._children.discard(child)
        if self._child is not child:
            return
        self._child = None
        if self._is_ending:
            return
        self.restarts += 1
        served = asyncio.get_running_loop().time() - (child.ready_at or 0.0)
        self._failures = 0 if served >= SOUND else self._failures + 1
        log.error("The desk (process %d) has ended: %s", child.pid, reason(child.code))
        self._wake.set()

    def _start_task(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
