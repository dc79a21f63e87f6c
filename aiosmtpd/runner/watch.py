"""The eyes of an operator in the master: metrics, health, commands and events of workers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiosmtpd._version import __version__
from aiosmtpd.engine.registry import descriptors
from aiosmtpd.listen.addresses import parse_listen, spell
from aiosmtpd.observers.metrics import PREFIX, Snapshot, sample
from aiosmtpd.process.failure import Failure
from aiosmtpd.runner import logs, usage
from aiosmtpd.runner.ctl import Ctl
from aiosmtpd.runner.exposition import CONTENT_TYPE, render
from aiosmtpd.runner.health import Answer, Health
from aiosmtpd.runner.tally import Table
from aiosmtpd.runner.totals import Totals, is_snapshot

if TYPE_CHECKING:
    from aiosmtpd.runner.config import Config
    from aiosmtpd.runner.master import Master

COLUMNS = 32
"""Columns of the table of connections, at least: a slot has up to four workers in reloads."""

QUEUE = struct.Struct("=24xI")
"""The part of Linux' ``struct tcp_info`` that ends with the queue of a listening socket."""

RELOAD_PATIENCE = 600.0
"""Seconds for which ``aiosmtpd ctl reload`` waits for the end of the reload."""

log = logging.getLogger("mail.log")


class Watch:
    """Hears of a master's workers. :meth:`start` opens the doors that *config* names."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._master: Master | None = None
        self._totals = Totals()
        self._faults: dict[int, list[str]] = {}
        self._restarts = dict.fromkeys(("crash", "hang", "reload"), 0)
        self._reloaded: list[asyncio.Future[list[str]]] = []
        self._last_reload: tuple[bool, float, list[str]] = (True, time.time(), [])
        self._table = Table(max(COLUMNS, 4 * config.worker_count)) if _HAS_TABLE else None
        self._pending: dict[int, int] = {}
        self._columns: dict[int, int] = {}
        pages = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        self._health = Health(pages)
        self._ctl = Ctl(
            {
                "status": self._status,
                "reload": self._reload,
                "drain": self._drain,
                "sessions": self._sessions,
                "log-level": self._log_level,
            }
        )
        self.http_address: tuple[str, int] | None = None
        """The address of the metrics, once started."""

    @property
    def master(self) -> Master:
        """The master, from :meth:`start` on."""
        if self._master is None:
            raise RuntimeError("the watch has not started")
        return self._master

    # Called by the master.

    async def start(self, master: Master) -> None:
        """Open the doors; raises Failure with one line."""
        self._master = master
        logs.set_up(self._config.log, key=self._key)
        admin = self._config.admin
        try:
            if admin.http is not None:
                place = parse_listen(admin.http)
                address = await self._health.start(place.host or "", place.port or 0)
                self.http_address = address
                log.info("Metrics and health are at http://%s", spell(address))
            if admin.socket is not None:
                await self._ctl.start(admin.socket)
        except OSError as error:
            door = admin.http if self.http_address is None and admin.http else admin.socket
            await self.stop()
            raise Failure(f"Cannot listen at {door}: {error.strerror or error}", 1) from error

    async def stop(self) -> None:
        """Close the doors."""
        await self._health.stop()
        await self._ctl.stop()

    def lend(self, slot: int) -> tuple[dict[str, Any], list[int]]:
        """Return what a worker that is about to start has to know, and a descriptor for it."""
        order: dict[str, Any] = {"log_key": self._key.hex()}
        if self._table is None:
            return order, []
        column = self._pending.pop(slot, None)
        if column is None:
            column = self._table.take()
        if column is None:
            log.warning("Too many workers end at once: a new one counts connections for itself")
            return order, []
        self._pending[slot] = column
        return {**order, "tally": [self._table.fd, column]}, [self._table.fd]

    def worker_started(self, slot: int, pid: int) -> None:
        """Hear of a new process."""
        if (column := self._pending.pop(slot, None)) is not None:
            self._columns[pid] = column
        logs.event("worker.start", slot=slot, worker=pid)

    def worker_ready(self, slot: int, pid: int) -> None:
        """Hear that a worker serves."""
        logs.event("worker.ready", slot=slot, worker=pid)

    def beat(self, slot: int, pid: int, numbers: dict[str, Any]) -> None:
        """Keep the numbers of a heartbeat."""
        self._faults[pid] = numbers.get("faults", [])
        if is_snapshot(numbers):
            self._totals.update(slot, pid, numbers)

    def worker_exited(self, slot: int, pid: int, reason: str, code: int) -> None:
        """Hear of an end: its counters are kept, and its connections count no longer."""
        self._totals.ended(pid)
        self._faults.pop(pid, None)
        column = self._columns.pop(pid, None)
        if self._table is not None and column is not None:
            self._table.release(column)
        counted = "crash" if reason == "start" else reason
        if counted in self._restarts and not self.master.is_draining:
            self._restarts[counted] += 1
        level = logging.INFO if reason in ("reload", "drain") else logging.ERROR
        how: dict[str, Any] = {"code": code} if code >= 0 else {"signal": -code}
        logs.event("worker.exit", level, slot=slot, worker=pid, reason=reason, **how)

    def reloaded(self, ok: bool, faults: list[str]) -> None:
        """Hear of a reload that is over."""
        _, at, _ = self._last_reload
        self._last_reload = ok, time.time() if ok else at, faults
        logs.event(
            "config.reload",
            logging.INFO if ok else logging.ERROR,
            result="ok" if ok else "failed",
            faults=faults or None,
        )
        if ok:
            self._use(self.master.config)
        waiting, self._reloaded = self._reloaded, []
        for future in waiting:
            if not future.done():
                future.set_result(faults)

    def _use(self, config: Config) -> None:
        """Use the log of another configuration; its doors are those of the start."""
        before, self._config = self._config, config
        logs.set_up(config.log, key=self._key)
        if config.admin != before.admin:
            log.warning("[admin] has changed: restart the server to use it")

    @property
    def _key(self) -> bytes:
        return self._table.key if self._table is not None else b""

    # Pages.

    def _metrics(self, query: str) -> Answer:
        return Answer(200, render(self.numbers()), CONTENT_TYPE)

    def _healthz(self, query: str) -> Answer:
        return Answer(200, "ok\n")

    def _readyz(self, query: str) -> Answer:
        why_not = self.why_not_ready()
        text = "not ready" if why_not else "ready"
        lines = [text, *why_not] if query == "verbose" else [text]
        return Answer(503 if why_not else 200, "".join(f"{line}\n" for line in lines))

    def why_not_ready(self) -> list[str]:
        """Return why a balancer is to send no client, in lines; empty if it may."""
        master = self.master
        if master.is_draining:
            return ["the server ends"]
        found = [] if master.is_ready else ["the server starts"]
        for slot in master.slots:
            if slot.state != "ready":
                found.append(f"worker {slot.slot}: not ready")
            for fault in self._faults.get(slot.pid or 0, ()):
                found.append(f"worker {slot.slot}: {fault}")
        return found

    def numbers(self) -> Snapshot:
        """Return the numbers of all workers and of the master."""
        found = self._totals.snapshot()
        counters, gauges = found["counters"], found["gauges"]
        ok, at, _ = self._last_reload
        python = ".".join(map(str, sys.version_info[:3]))
        gauges[sample("build_info", version=__version__, python=python)] = 1
        gauges[sample("workers")] = self._config.worker_count
        gauges[sample("config_last_reload_successful")] = int(ok)
        gauges[sample("config_last_reload_timestamp_seconds")] = at
        for slot in self.master.slots:
            gauges[sample("worker_ready", slot=str(slot.slot))] = int(slot.state == "ready")
        for reason, number in self._restarts.items():
            counters[sample("worker_restarts_total", reason=reason)] = number
        for path, facts in self.master.keys.facts.items():
            name = sample("tls_certificate_not_after_timestamp_seconds", name=path)
            gauges[name] = facts.not_after
        for listener, length in _queues(self.master).items():
            gauges[sample("listen_queue_length", listener=listener)] = length
        counters["process_cpu_seconds_total"] = usage.cpu_seconds()
        gauges["process_start_time_seconds"] = usage.BEGAN
        gauges |= usage.gauges("process_")
        if (most := descriptors()) is not None:
            gauges["process_max_fds"] = most
        return found

    # Commands.

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        master = self.master
        ok, at, faults = self._last_reload
        why_not = self.why_not_ready()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(time.time() - usage.BEGAN, 1),
            "state": "draining" if master.is_draining else "not ready" if why_not else "ready",
            "why_not": why_not,
            "file": self._config.source,
            "addresses": master.sockets.addresses,
            "reload": {"ok": ok, "at": round(at, 3), "faults": faults},
            "certificates": {path: facts.not_after for path, facts in master.keys.facts.items()},
            "workers": [self._of_worker(slot) for slot in master.slots],
        }

    def _of_worker(self, slot: Any) -> dict[str, Any]:
        numbers = self._totals.latest(slot.pid or 0)
        counters: dict[str, float] = numbers["counters"] if numbers else {}
        gauges: dict[str, float] = numbers["gauges"] if numbers else {}
        return {
            "slot": slot.slot,
            "pid": slot.pid,
            "state": slot.state,
            "seconds": None if slot.ready_for is None else round(slot.ready_for, 1),
            "restarts": slot.restarts,
            "leaving": slot.leaving,
            "connections": gauges.get(sample("connections")),
            "messages": counters.get(sample("messages_total", result="accepted")),
            "spool": gauges.get(sample("spool_messages")),
            "memory": gauges.get(f"{PREFIX}worker_resident_memory_bytes"),
        }

    async def _reload(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.master.is_draining or not self.master.is_ready:
            raise ValueError("the server starts or ends: no reload now")
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._reloaded.append(future)
        self.master.reload()
        try:
            async with asyncio.timeout(RELOAD_PATIENCE):
                faults = await future
        except TimeoutError:
            raise ValueError("the reload has not ended so far") from None
        return {"ok": not faults, "faults": faults}

    async def _drain(self, request: dict[str, Any]) -> dict[str, Any]:
        self.master.drain()
        return {"ok": True}

    async def _sessions(self, request: dict[str, Any]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        faults: list[str] = []
        for slot, answer in await self._ask_all("sessions", request.get("limit", 200)):
            found += [{"slot": slot, **one} for one in answer.get("value", ())]
            if "error" in answer:
                faults.append(f"worker {slot}: {answer['error']}")
        return {"sessions": found, "faults": faults}

    async def _log_level(self, request: dict[str, Any]) -> dict[str, Any]:
        level = logs.set_level(str(request.get("level")))
        answers = await self._ask_all("log", level)
        faults = [f"worker {slot}: {one['error']}" for slot, one in answers if "error" in one]
        return {"level": level, "faults": faults}

    async def _ask_all(self, question: str, about: Any) -> list[tuple[int, dict[str, Any]]]:
        slots = [slot.slot for slot in self.master.slots]
        ask = self.master.request
        answers = await asyncio.gather(*(ask(slot, question, about) for slot in slots))
        return list(zip(slots, answers, strict=True))


_HAS_TABLE = sys.platform != "win32"


def _queues(master: Master) -> dict[str, int]:
    """Return how many connections wait at each listener, on Linux."""
    found: dict[str, int] = {}
    if sys.platform == "linux":
        for scheme, sock in master.sockets.listening(master.config.listen):
            # A Unix socket does not tell.
            with suppress(OSError):
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, QUEUE.size)
                name = f"{'lmtp' if scheme == 'lmtp' else 'smtp'}:{sock.getsockname()[1]}"
                found[name] = found.get(name, 0) + QUEUE.unpack(info)[0]
    return found
