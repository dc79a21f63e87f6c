"""A slot: the place of one worker, in which one process follows another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.runner.child import Child, State, reason
from aiosmtpd.runner.logs import TOLD

if TYPE_CHECKING:
    from aiosmtpd.runner.config import Config
    from aiosmtpd.runner.master import Master

SOUND = 1.0
"""Seconds that a worker must have served so that the next one counts as the first try."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before the second try and those after it; the first one is made at once. The last pause
is for all others."""


def pause_after(failures: int) -> float:
    """Return the seconds before a process is started again that has failed so often, at least 2."""
    return PAUSES[min(failures - 2, len(PAUSES) - 1)]


LEAVING = 2
"""Workers of a slot that may end at the same time; the next reload waits for one of them."""

log = logging.getLogger("mail.log")


@attrs.frozen(kw_only=True)
class SlotState:
    """The state of a slot. Times are seconds of a clock that only goes forward."""

    slot: int
    pid: int | None
    state: State
    ready_for: float | None
    """Seconds since its worker is ready."""
    restarts: int
    """How often a worker ended that should not have."""
    leaving: int
    """How many older workers still end."""
    numbers: dict[str, object]
    """The numbers of the last heartbeat."""


class Slot:
    """One slot of a master. *config* is that of its worker; a reload has another one."""

    def __init__(self, number: int, config: Config, master: Master) -> None:
        self.number = number
        self.config = config
        self.child: Child | None = None
        self.restarts = 0
        self._master = master
        self._leaving: set[Child] = set()
        self._starting: Child | None = None
        self._given_up: Child | None = None
        """A worker that was not to become ready any more, because the server ends."""
        self._soon = 0
        self._is_retired = False
        self._lock = asyncio.Lock()
        self._gone = asyncio.Event()
        self._left = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def children(self) -> Iterator[Child]:
        """All processes of this slot, old and new."""
        yield from self._leaving
        yield from (child for child in (self.child, self._starting) if child is not None)

    def state(self) -> SlotState:
        """Return its state now."""
        child = self.child
        at = child.ready_at if child is not None else None
        return SlotState(
            slot=self.number,
            pid=child.pid if child is not None else None,
            state=child.state if child is not None else "ended",
            ready_for=None if at is None else asyncio.get_running_loop().time() - at,
            restarts=self.restarts,
            leaving=len(self._leaving),
            numbers=dict(child.numbers) if child is not None else {},
        )

    async def start(self) -> None:
        """Start the first worker; raises Failure if it does not become ready."""
        async with self._lock:
            self.child = await self._begin(self.config)

    async def replace(self, config: Config) -> None:
        """Start a worker with *config*; once it is ready, the old one ends. Raises Failure."""
        async with self._lock:
            if len(self._leaving) >= LEAVING:
                log.info("The reload waits until an older worker %d has ended", self.number)
            while len(self._leaving) >= LEAVING:
                self._left.clear()
                await self._left.wait()
            new = await self._begin(config)
            old, self.child, self.config = self.child, new, config
            self._gone.clear()
            self._soon = 0
            if old is not None:
                self._let_go(old)

    def retire(self) -> None:
        """Let the worker end for good."""
        self._is_retired = True
        self._gone.set()
        if self.child is not None:
            child, self.child = self.child, None
            self._let_go(child)

    async def ended(self) -> None:
        """Wait until no process is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def use_certificates(self, texts: Iterable[tuple[str, str]]) -> None:
        """Give all workers of the slot other certificates."""
        pairs = list(texts)
        for child in self.children:
            child.use_certificates(pairs)

    async def keep(self) -> None:
        """Start a worker whenever there is none, until cancelled or retired."""
        while not self._is_retired:
            await self._gone.wait()
            if self._soon > 1:
                await asyncio.sleep(pause_after(self._soon))
            async with self._lock:
                if self._is_retired or self.child is not None:
                    continue
                self._gone.clear()
                try:
                    self.child = await self._begin(self.config)
                except Exception as error:
                    # Whatever it is, the slot must not stay empty.
                    self._soon += 1
                    self._gone.set()
                    why = error if isinstance(error, Failure) else one_line(error)
                    log.error("Worker %d cannot start: %s", self.number, why)
            if self._is_retired:
                # While the worker started.
                self.retire()

    async def _begin(self, config: Config) -> Child:
        master = self._master
        order, descriptors = master.order(self.number, config)
        child = await Child.spawn(self.number, order, descriptors, master.timing)
        self._starting = child
        child.on_beat = self._hear_beat
        master.tell("worker_started", self.number, child.pid)
        task = asyncio.get_running_loop().create_task(self._follow(child))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await child.ready(master.timing.start)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._given_up = child
                if child.state == "ready":
                    # It may have clients: it ends by a drain as all others.
                    self._leaving.add(child)
                    raise
            await child.ended.wait()
            raise
        finally:
            self._starting = None
        log.info("Worker %d is ready (process %d)", self.number, child.pid, extra=TOLD)
        master.tell("worker_ready", self.number, child.pid)
        return child

    def _hear_beat(self, child: Child) -> None:
        self._master.tell("beat", self.number, child.pid, child.numbers)

    def _let_go(self, child: Child) -> None:
        drain = self.config.drain
        self._leaving.add(child)
        child.drain(drain.linger, drain.grace, self._master.timing)

    async def _follow(self, child: Child) -> None:
        """Wait for the end of a process."""
        await child.ended.wait()
        ends = self._master.is_draining or child is self._given_up
        was_asked = child in self._leaving or ends
        self._leaving.discard(child)
        self._left.set()
        why = self._why(child, was_asked, ends)
        lost = self._master.hear_of_end(child, why)
        if not was_asked and child.ready_at is not None:
            served = asyncio.get_running_loop().time() - child.ready_at
            self._soon = 0 if served >= SOUND else self._soon + 1
            self.restarts += 1
            text, cause = "Worker %d (process %d) has ended: %s%s", reason(child.code)
            with_it = "" if lost is None else f"; connections lost: {lost}"
            log.error(text, self.number, child.pid, cause, with_it, extra=TOLD)
        else:
            log.info("Worker %d (process %d) has ended", self.number, child.pid, extra=TOLD)
        if self.child is child:
            self.child = None
            self._gone.set()

    def _why(self, child: Child, was_asked: bool, ends: bool) -> str:
        """Return why a process has ended, in one word."""
        if child.is_hanging:
            return "hang"
        if child.ready_at is None and child.code > 0:
            return "start"
        if ends:
            return "drain"
        return "reload" if was_asked else "crash"
