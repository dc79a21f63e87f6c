"""The numbers of one worker: sessions, deliveries, its spool, its event loop and its process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from aiosmtpd.observers.metrics import Metrics
from aiosmtpd.observers.samples import PREFIX, SECONDS, Histogram, Snapshot, sample
from aiosmtpd.runner import usage
from aiosmtpd.runner.exposition import BATCHES, LAGS

if TYPE_CHECKING:
    from aiosmtpd.delivery import Delivery
    from aiosmtpd.delivery.events import Event

LAG_PAUSE = 0.5
"""Seconds between two looks at the delay of the event loop."""

SPOOL_PAUSE = 5.0
"""Seconds between two counts of the messages in the spool: a count reads all its rows."""

log = logging.getLogger("mail.log")


class Beat(Snapshot):
    """The numbers of a heartbeat, and the reasons why this worker takes no mail now."""

    faults: list[str]


class Numbers:
    """Counts in the worker of *slot*; :attr:`observer` is for its server.

    :meth:`on_event` is for ``Delivery``. :meth:`snapshot` is for the heartbeat; :meth:`start` and
    :meth:`stop` begin and end the looks at the loop and the spool.
    """

    def __init__(self, slot: int) -> None:
        self.observer = Metrics()
        self.deliveries: Callable[[], Sequence[Delivery]] = tuple
        """Returns the handlers with a spool, this worker's own first."""
        self._slot = str(slot)
        self._lag = Histogram(SECONDS)
        self._commits = Histogram(SECONDS)
        self._tries: dict[str, Histogram] = {}
        self._lags: dict[str, Histogram] = {}
        self._results: dict[tuple[str, str], int] = {}
        self._spool: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin the looks; call it in the event loop."""
        self._tasks = [
            asyncio.create_task(self._watch_loop()),
            asyncio.create_task(self._watch_spool()),
        ]

    async def stop(self) -> None:
        """End the looks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def on_event(self, event: Event) -> None:
        """Count an event of a delivery; called in the courier's thread, but stored in the loop."""
        if event.kind == "stored":
            self._commits.observe(event.seconds)
        elif event.kind in ("delivered", "deferred", "dead"):
            key = event.route, event.kind
            self._results[key] = self._results.get(key, 0) + 1
            if event.kind == "delivered":
                self._lags.setdefault(event.route, Histogram(LAGS)).observe(event.lag)
            self._tries.setdefault(event.route, Histogram(SECONDS)).observe(event.seconds)

    def snapshot(self) -> Beat:
        """Return all numbers as they are now."""
        found = self.observer.snapshot()
        counters, gauges, histograms = found["counters"], found["gauges"], found["histograms"]
        counters[sample("worker_cpu_seconds_total", slot=self._slot)] = usage.cpu_seconds()
        gauges |= usage.gauges(f"{PREFIX}worker_")
        histograms[sample("event_loop_lag_seconds", slot=self._slot)] = self._lag.snapshot()
        deliveries = self.deliveries()
        if deliveries:
            self._add_deliveries(found, deliveries[0])
        return {**found, "faults": _faults_of(deliveries[0]) if deliveries else []}

    def _add_deliveries(self, found: Snapshot, delivery: Delivery) -> None:
        counters, gauges, histograms = found["counters"], found["gauges"], found["histograms"]
        for route, is_up in delivery.routes_up.items():
            gauges[sample("route_up", route=route)] = int(is_up)
            for result in "delivered", "deferred", "dead":
                # From the start: a rate needs the value before the first one.
                counters[sample("deliveries_total", route=route, result=result)] = 0
        # Copies: the courier's thread may add a route meanwhile.
        for (route, result), number in dict(self._results).items():
            counters[sample("deliveries_total", route=route, result=result)] = number
        for name, by_route in (
            ("delivery_seconds", self._tries),
            ("delivery_lag_seconds", self._lags),
        ):
            for route, histogram in dict(by_route).items():
                histograms[sample(name, route=route)] = histogram.snapshot()
        counters[sample("spool_commits_total")] = delivery.commits
        histograms[sample("commit_seconds")] = self._commits.snapshot()
        batches = Histogram(BATCHES)
        for messages, number in delivery.batches.items():
            batches.observe(messages, number)
        histograms[sample("spool_batch_messages")] = batches.snapshot()
        gauges |= self._spool

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PAUSE
            await asyncio.sleep(LAG_PAUSE)
            self._lag.observe(max(0.0, loop.time() - due))

    async def _watch_spool(self) -> None:
        while True:
            # The faults name a spool that cannot be read.
            with suppress(Exception):
                await self.look_at_spool()
            await asyncio.sleep(SPOOL_PAUSE)

    async def look_at_spool(self) -> None:
        """Count the messages in the spools, if there are any."""
        found = []
        for delivery in self.deliveries():
            # Counting opens a spool that is closed: at the end of a worker, it would stay open.
            if delivery.is_open:
                found.append(await delivery.counts())
        if not found:
            return
        arrived = [counts.oldest for counts in found if counts.oldest is not None]
        self._spool = {
            sample("spool_messages"): sum(counts.messages for counts in found),
            sample("spool_bytes"): sum(counts.bytes for counts in found),
            sample("spool_oldest_seconds"): max(0.0, time.time() - min(arrived, default=inf)),
            sample("spool_dead_messages"): sum(counts.dead for counts in found),
        }


def _faults_of(delivery: Delivery) -> list[str]:
    if delivery.failed is not None:
        return [f"the spool has failed: {delivery.failed}"]
    try:
        return [] if delivery.has_room else ["the spool has no room"]
    except OSError as error:
        return [f"the spool cannot be used: {error}"]
