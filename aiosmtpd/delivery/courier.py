"""The courier: takes messages from the spool to their outlets, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import shlex
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from aiosmtpd.delivery.events import Event, OnEvent
from aiosmtpd.delivery.item import Item, Later, Misconfigured
from aiosmtpd.delivery.landing import Landing
from aiosmtpd.delivery.lane import UNREACHABLE, Lane, Tried
from aiosmtpd.delivery.ledger import Ledger, SpoolLost, direct_event, failed, line_of
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.route import Route, Routes
from aiosmtpd.delivery.spool import DIED, Job, Spool, SpoolError

T = TypeVar("T")

POLL = 0.5
"""Seconds, at most, between two looks at the spool: the queue command changes its rows."""

MORE = 64
"""Rows, at most, that one look at the spool asks for."""

LAST_RESORT = 1.0
"""Seconds that cancelled tries and closing outlets have, at least."""

CHECK = 3.0
"""Seconds for which the start waits for an outlet to open."""

ENDING = 64
"""Messages of one route that is down which are given up at the same time."""

log = logging.getLogger("mail.log")


class Courier:
    """Delivers the messages of *spool* by *routes*, from :meth:`start` to :meth:`stop`.

    When the courier stops, running tries have *grace* seconds. *on_failure* is called in the
    courier's thread when the spool has failed, *on_event* with each event of a delivery. *clock*
    returns the seconds since 1970.
    """

    def __init__(
        self,
        spool: Spool,
        routes: Routes,
        *,
        grace: float = 5.0,
        on_failure: Callable[[BaseException], object] | None = None,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.missing: set[str] = set()
        """Names of routes that messages in the spool have, and that no route has."""
        self._spool = spool
        self._routes = routes
        self._grace = grace
        self._on_failure = on_failure
        self._on_event = on_event
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._expiring: set[str] = set()
        self._stopping = False
        self._awake = False
        self._looked = 0.0
        self._next_look = 0.0
        self._loop = asyncio.new_event_loop()
        self.landing = Landing(self._loop)
        self._ledger = Ledger(
            spool,
            self.landing,
            clock=clock,
            is_stopping=lambda: self._stopping,
            tell=None if on_event is None else self._tell,
        )
        self._event: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    # In any thread.

    def start(self) -> None:
        """Start the thread; return when its loop runs."""
        self._spool.on_stored = self.wake
        self._thread = threading.Thread(target=self._main, name="aiosmtpd courier", daemon=True)
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """End the running tries, close the outlets and end the thread."""
        self._stopping = True
        self.wake()
        thread = self._thread
        if thread is None:
            return
        thread.join(self._grace + LAST_RESORT)
        if thread.is_alive() and self._answers():
            thread.join(max(self._grace, LAST_RESORT) + 2 * LAST_RESORT)
        if thread.is_alive():
            log.error("A coroutine of an outlet blocks the courier, which is left behind")

    def _answers(self) -> bool:
        """Return True if the loop runs what it is given."""
        answer = threading.Event()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(answer.set)
        return answer.wait(LAST_RESORT)

    @property
    def is_busy(self) -> bool:
        """True if a try runs."""
        return bool(self._running)

    def wake(self) -> None:
        """Look at the spool now: a message has come."""
        if self._awake:
            return
        self._awake = True
        try:
            # With one wake-up for this and for the results of the same commit.
            self.landing.call([(self._rouse, ())])
        except RuntimeError:
            # The loop has ended.
            pass

    def open_all(self) -> Future[None]:
        """Open the outlets of all routes; the future raises Misconfigured if one is."""
        return self._in_loop(self._open_all())

    def _in_loop(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        if self._stopping:
            coroutine.close()
            raise RuntimeError("the courier does not run")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    # In the thread.

    def _main(self) -> None:
        loop = self._loop
        try:
            self._until(loop.create_task(self._run()))
            if tasks := asyncio.all_tasks(loop):
                # Tasks that outlets have left.
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks, timeout=LAST_RESORT))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            # Worker threads that go on are not waited for: loop.close() lets them end.
            self._stopping = True
            self._started.set()
            loop.close()

    def _until(self, task: asyncio.Task[None]) -> None:
        """Run the loop until *task* ends: an outlet that wants to end the process does not end it.

        SystemExit in any task stops the loop, and the exception is not logged in a thread.
        """
        while True:
            try:
                return self._loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                log.critical("An outlet has raised %r, the courier goes on", error)

    async def _run(self) -> None:
        self._event = asyncio.Event()
        self._started.set()
        try:
            await self._work()
        except SpoolLost as error:
            cause = error.__cause__ or error
            log.critical("The spool has failed, nothing is delivered any more: %s", cause)
            if self._on_failure is not None:
                self._on_failure(cause)
        finally:
            self._stopping = True
            await self._end_tries()
            await self._close_outlets()

    def _rouse(self) -> None:
        self._awake = False
        if self._event is not None:
            self._event.set()

    async def _work(self) -> None:
        event, is_first = self._event or asyncio.Event(), True
        while not self._stopping:
            event.clear()
            try:
                if is_first:
                    await self._look_for_names()
                    is_first = False
                if self._must_look():
                    self._next_look = time.monotonic() + POLL
                    await self._look()
                self._take_fresh()
            except SpoolLost:
                raise
            except SpoolError as error:
                log.error("The spool cannot be used now, next try in %g s: %s", POLL, error)
                # It may be full. The messages in memory can be delivered, which makes room.
                self._take_fresh()
            except Exception:
                # Messages must not wait for the next start, whatever this is.
                log.exception("The courier has failed, and goes on")
            if self._spool.failed is not None:
                raise SpoolLost from self._spool.failed
            try:
                async with asyncio.timeout(self._next_look - time.monotonic()):
                    await event.wait()
            except TimeoutError:
                pass

    def _take_fresh(self) -> None:
        """Begin with messages that were put a moment ago: no row has to be read for them."""
        for route in self._routes.by_name.values():
            lane = self._lane(route)
            while lane.may_begin() and not self._stopping:
                job = self._spool.fresh.take(route.name)
                if job is None:
                    break
                self._take(job, self._clock())

    def _must_look(self) -> bool:
        """Return True if there may be rows of the spool to deliver now."""
        if self._spool.fresh.unread or time.monotonic() >= self._next_look:
            return True
        now = self._clock()
        return any(lane.due <= now and lane.may_begin() for lane in self._lanes.values())

    async def _look(self) -> None:
        """Read the rows that are due, and when the next ones are."""
        has_changed = await self._look_for_changes()
        await self._take_due(fresh=has_changed or self._is_fresh_late())
        dues = await self._asked(self._spool.dues(self._claimed()))
        now, clock = time.monotonic(), self._clock()
        pauses = [POLL]
        for name, lane in self._lanes.items():
            lane.due = dues.get(name, math.inf)
            pauses.append(lane.route.breaker.again - now)
            if lane.may_begin():
                pauses.append(lane.due - clock)
        self._next_look = now + min(pause for pause in pauses if pause > 0)

    def _claimed(self) -> frozenset[int]:
        return frozenset(self._running)

    async def _asked(self, outcome: Outcome[T]) -> T:
        """Wait for the spool; raises SpoolLost if it has failed for good, else SpoolError."""
        try:
            return await self.landing.wait(outcome)
        except Exception as error:
            if self._spool.failed is not None:
                raise SpoolLost from error
            raise

    def _is_fresh_late(self) -> bool:
        """Return True if fresh messages need rows: some are not in memory, or their route waits."""
        return self._spool.fresh.unread or any(
            name not in self._lanes or self._lanes[name].route.breaker.is_down
            for name in self._spool.fresh.routes()
        )

    async def _look_for_changes(self) -> bool:
        """Return True if the queue command has changed the spool."""
        now = time.monotonic()
        if now - self._looked < POLL:
            return False
        self._looked = now
        if not await self._asked(self._spool.changed()):
            return False
        for name in await self._asked(self._spool.retried()):
            if name in self._lanes:
                self._lanes[name].route.breaker.wake()
        return True

    async def _look_for_names(self) -> None:
        """Log the names of routes in the spool that no route has, before their messages are due."""
        for name in await self._asked(self._spool.routes()):
            if name not in self._routes.by_name:
                self._miss(name)

    async def _take_due(self, *, fresh: bool) -> None:
        now, taken = self._clock(), 1
        self._expiring.clear()
        while taken and not self._stopping:
            without = self._not_now(), self._claimed()
            down = {name for name, lane in self._lanes.items() if lane.route.breaker.is_down}
            due = self._spool.due(now, self._room(), *without, fresh, down)
            taken = sum([self._take(job, now) for job in await self._asked(due)])

    def _room(self) -> int:
        """Return how many tries may begin now: no more rows are read than that."""
        free = 0
        for route in self._routes.by_name.values():
            lane = self._lanes.get(route.name)
            free += max(0, lane.room) if lane is not None else route.concurrency
            free += ENDING if route.name in self._expiring else 0
        return max(1, min(free, MORE))

    def _not_now(self) -> set[str]:
        """Return the routes whose rows are not wanted: unknown, busy, or down."""
        names = set(self.missing)
        for name, lane in self._lanes.items():
            # More messages of a route that is down may have expired.
            is_expiring = name in self._expiring
            if lane.ending >= ENDING if is_expiring else not lane.may_begin():
                names.add(name)
        return names

    def _take(self, job: Job, now: float) -> bool:
        """Begin with a job; return False if it has to wait."""
        if job.number in self._running:
            return False
        route = self._routes.by_name.get(job.route)
        if route is None:
            self._miss(job.route)
            return False
        lane = self._lane(route)
        if route.breaker.is_down and now >= job.item.arrival.time + route.retry.give_up:
            # A route that is down for days lets its messages end all the same.
            self._expiring.add(route.name)
            lane.ending += 1
            self._begin(job, lane, self._expire(job, lane))
            return True
        if not lane.may_begin():
            return False
        route.breaker.begin()
        lane.running += 1
        self._begin(job, lane, self._deliver(job, lane))
        return True

    def _begin(self, job: Job, lane: Lane, work: Coroutine[Any, Any, None]) -> None:
        task = self._running[job.number] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda task: self._let_go(job, task))

    def _lane(self, route: Route) -> Lane:
        lane = self._lanes.get(route.name)
        if lane is None:
            lane = self._lanes[route.name] = Lane(route)
        return lane

    def _miss(self, name: str) -> None:
        if name in self.missing:
            return
        self.missing.add(name)
        log.error(
            "No route is called %r: its messages wait. Add the route again, or move them to one of "
            "%s: aiosmtpd queue retry --spool %s --route %s --to NAME",
            name,
            ", ".join(sorted(self._routes.by_name)),
            shlex.quote(self._spool.folder),
            shlex.quote(name),
        )

    def _let_go(self, job: Job, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            del self._running[job.number]
        elif not isinstance(error, SpoolLost):
            # Its row stays claimed, or it would be tried again at once, and without an end.
            text = "%s: internal error, it waits for the next start"
            log.critical(text, job.item.id, exc_info=error)
        self._rouse()

    async def _end_tries(self) -> None:
        """Let the running tries end; cancel those that take longer than the grace."""
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=self._grace)
            for task in late:
                task.cancel()
            if late:
                # A task that refuses to end is left behind: its row is still in the spool.
                await asyncio.wait(late, timeout=LAST_RESORT)

    async def _close_outlets(self) -> None:
        timeout = max(self._grace, LAST_RESORT)
        await asyncio.gather(*[lane.close(timeout) for lane in self._lanes.values()])

    # One try.

    async def _deliver(self, job: Job, lane: Lane) -> None:
        route, missing = lane.route, job.item.recipients
        is_running = True
        try:
            async with lane.turns:
                began = time.monotonic()
                if self._spool.is_suspect(job):
                    tried = await self._try_suspect(job, lane)
                else:
                    tried = await lane.deliver(job.item, route.timeout)
            missing = tuple(tried.failures)
            self._judge(lane, tried)
            is_running = False
            lane.has_tried()
            self._rouse()
            await self._ledger.conclude(job, route, tried.failures, time.monotonic() - began)
        except SpoolLost:
            raise
        except Exception:
            log.exception("%s: internal error, next try in an hour", job.item.id)
            await self._ledger.postpone(job, missing)
        except asyncio.CancelledError:
            route.breaker.abandon()
            raise
        finally:
            if is_running:
                lane.running -= 1
            else:
                lane.writing -= 1

    async def _try_suspect(self, job: Job, lane: Lane) -> Tried:
        """Try a message that may have ended the process before: count the try when it begins."""
        item, route, now = job.item, lane.route, self._clock()
        due = route.retry.next_due(item.attempts + 1, now, item.arrival.time)
        if due is None and job.error == DIED:
            return Tried(failed(item, Later(DIED)))
        await self._ledger.written(lambda: self._spool.begin(job, due=now if due is None else due))
        try:
            return await lane.deliver(item, route.timeout)
        except asyncio.CancelledError:
            self._spool.put_back(job)
            raise

    async def _expire(self, job: Job, lane: Lane) -> None:
        try:
            await self._ledger.conclude(job, lane.route, failed(job.item, lane.failure))
        finally:
            lane.ending -= 1

    async def _open_all(self) -> None:
        await asyncio.gather(*map(self._check, self._routes.by_name.values()))

    async def _check(self, route: Route) -> None:
        try:
            async with asyncio.timeout(CHECK):
                await self._lane(route).open()
        except Misconfigured:
            raise
        except Exception as error:
            log.warning("Route %s cannot be reached now: %s", route.name, line_of(error))

    def _judge(self, lane: Lane, tried: Tried) -> None:
        """Tell the breaker, and the log when the route goes down or comes back."""
        route, breaker = lane.route, lane.route.breaker
        if tried.is_down:
            lane.failure = next(iter(tried.failures.values()))
        if not tried.is_down:
            if breaker.is_down:
                log.warning("Route %s is up again", route.name)
                self._tell(Event(kind="up", route=route.name))
            breaker.succeed()
        elif breaker.fail(time.monotonic(), random.random()):  # noqa: S311 - jitter
            log.error("Route %s is down: %s", route.name, lane.error)
            self._tell(Event(kind="down", route=route.name, error=lane.error))

    def _tell(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("The function on_event has failed")

    async def try_directly(self, route: Route, item: Item, timeout: float) -> Tried:
        """Deliver a message that is not in the spool; raises RuntimeError if the courier ends."""
        if self._stopping:
            raise RuntimeError("the courier does not run")
        lane = self._lane(route)
        if not route.breaker.allows(time.monotonic()):
            failure = Later(lane.error, reply=UNREACHABLE)
            return Tried(failed(item, failure), is_down=True)
        if lane.turns.locked():
            try:
                async with asyncio.timeout(timeout):
                    await lane.turns.acquire()
            except TimeoutError:
                return Tried(failed(item, Later("the route is busy", reply=UNREACHABLE)))
        else:
            await lane.turns.acquire()
        try:
            route.breaker.begin()
            began = time.monotonic()
            tried = await lane.deliver(item, timeout)
            self._judge(lane, tried)
            self._tell(direct_event(route, item, tried.failures, time.monotonic() - began))
        except asyncio.CancelledError:
            route.breaker.abandon()
            raise
        finally:
            lane.turns.release()
        return tried
