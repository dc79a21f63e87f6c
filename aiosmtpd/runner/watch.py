"""The eyes of an operator in the master: numbers and events of workers, and answers to the desk."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from aiosmtpd._version import __version__
from aiosmtpd.listen.addresses import Address, spell
from aiosmtpd.observers.samples import PREFIX, Snapshot, sample
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.process.rights import Identity, identity_to_assume
from aiosmtpd.runner import logs, usage
from aiosmtpd.runner.doors import Doors
from aiosmtpd.runner.keeper import Keeper
from aiosmtpd.runner.shared import Table
from aiosmtpd.runner.tables import Admin
from aiosmtpd.runner.totals import Totals, is_snapshot
from aiosmtpd.runner.verbs import PATIENCE

if TYPE_CHECKING:
    from aiosmtpd.runner.config import Config
    from aiosmtpd.runner.master import Master

COLUMNS = 32
"""Columns of the table of connections, at least: a slot has up to four workers in reloads."""

QUEUE = struct.Struct("=24xI")
"""The part of Linux' ``struct tcp_info`` that ends with the queue of a listening socket."""

SESSIONS = 200
"""Sessions of each worker that are listed, at most."""

DESK_PAUSE = 2.0
"""Seconds that the first workers have, before the desk starts beside them."""

NO_RIGHTS = "nobody"
"""The user that the desk becomes if the workers keep the rights of root."""

log = logging.getLogger("mail.log")


class Watch:
    """Hears of a master's workers, and keeps a desk for the places of ``[admin]``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._master: Master | None = None
        self._totals = Totals()
        self._faults: dict[int, list[str]] = {}
        self._restarts = dict.fromkeys(("crash", "hang", "reload"), 0)
        self._reloaded: list[asyncio.Future[list[str]]] = []
        """The answers that wait for the end of the next reload, or of the one that runs."""
        self._reloaded_later: list[asyncio.Future[list[str]]] = []
        """Those that wait for the reload after the one that runs."""
        self._last_reload: tuple[bool, float, list[str]] = (True, time.time(), [])
        self._table = Table(max(COLUMNS, 4 * config.worker_count)) if _HAS_TABLE else None
        self._pending: dict[int, int] = {}
        self._columns: dict[int, int] = {}
        self._doors = Doors()
        self._address: Address | None = None
        """The address of the pages that the log has named."""
        self._served: dict[str, list[int]] = {}
        """The descriptors that the desk has, empty without a desk."""
        self._keeper: Keeper | None = None
        self._waiting: asyncio.TimerHandle | None = None
        """The timer of the first desk, until that starts."""
        self._first = set(range(config.worker_count))
        """The slots whose first worker is not ready so far."""
        self._verbs: Mapping[str, Callable[[Any], Awaitable[Any]]] = {
            "alive": self._alive,
            "ready": self._ready,
            "numbers": self._numbers,
            "status": self._status,
            "reload": self._reload,
            "drain": self._drain,
            "sessions": self._sessions,
            "log-level": self._log_level,
        }

    @property
    def master(self) -> Master:
        """The master, from :meth:`start` on."""
        if self._master is None:
            raise RuntimeError("the watch has not started")
        return self._master

    # Called by the master.

    async def start(self, master: Master) -> None:
        """Bind the places, and start the desk; raises Failure with one line."""
        self._master = master
        logs.set_up(self._config.log, key=self._key)
        await self.open(self._config)
        self._keeper = Keeper(self.answer, master.timing)
        # Workers first: requests wait in the sockets meanwhile.
        self._waiting = asyncio.get_running_loop().call_later(DESK_PAUSE, self._start_desk)

    async def open(self, config: Config) -> None:
        """Bind the places of another configuration too; raises Failure with one line."""
        await self._doors.open(config.admin)

    async def stop(self) -> None:
        """End the desk, and close the places."""
        if self._waiting is not None:
            self._waiting.cancel()
        for _ in range(2):
            self._answer_reloads(["the server ends"])
        if self._keeper is not None:
            await self._keeper.stop()
        self._doors.keep(Admin())

    @property
    def pids(self) -> set[int]:
        """The processes of the desk."""
        return self._keeper.pids if self._keeper is not None else set()

    def _start_desk(self) -> None:
        """Have a desk for the configuration of now, or none if it has no places."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        config, self._served = self._config, {}
        if self._keeper is None or config.admin == Admin():
            if self._keeper is not None:
                self._keeper.use(None)
            return
        address = self._doors.address(config.admin)
        if address is not None and address != self._address:
            log.info("Metrics and health are at http://%s", spell(address))
        self._address = address
        self._served = descriptors = self._doors.descriptors(config.admin)
        identity = self.master.identity
        without = _without_rights(identity)
        order = {
            **descriptors,
            "identity": without and {"user": without.user, "uid": without.uid, "gid": without.gid},
            "must": without is identity,
            "log": attrs.asdict(config.log),
            "log_key": self._key.hex(),
        }
        self._keeper.use(order, [*descriptors["http"], *descriptors["ctl"]])

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
        self._first.discard(slot)
        if self._waiting is not None and not self._first:
            self._start_desk()

    def beat(self, slot: int, pid: int, numbers: dict[str, Any]) -> None:
        """Keep the numbers of a heartbeat."""
        self._faults[pid] = numbers.get("faults", [])
        if is_snapshot(numbers):
            self._totals.update(slot, pid, numbers)

    def worker_exited(self, slot: int, pid: int, reason: str, code: int) -> int | None:
        """Hear of an end: its counters are kept, and its connections count no longer."""
        lost = None
        self._totals.ended(pid)
        self._faults.pop(pid, None)
        column = self._columns.pop(pid, None)
        if self._table is not None and column is not None:
            lost = self._table.release(column)
        counted = "crash" if reason == "start" else reason
        if counted in self._restarts and not self.master.is_draining:
            self._restarts[counted] += 1
        level = logging.INFO if reason in ("reload", "drain") else logging.ERROR
        how: dict[str, Any] = {"code": code} if code >= 0 else {"signal": -code}
        how["lost"] = lost if level == logging.ERROR else None
        logs.event("worker.exit", level, slot=slot, worker=pid, reason=reason, **how)
        return lost

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
            self._config = self.master.config
            logs.set_up(self._config.log, key=self._key)
            self._start_desk()
        elif self._served not in ({}, self._doors.descriptors(self._config.admin)):
            # The file of a socket was gone, and it is bound again.
            self._start_desk()
        # The desk before has copies of its sockets.
        self._doors.keep(self._config.admin)
        self._answer_reloads(faults)

    def _answer_reloads(self, faults: list[str]) -> None:
        waiting, self._reloaded = self._reloaded, self._reloaded_later
        self._reloaded_later = []
        for future in waiting:
            if not future.done():
                future.set_result(faults)

    @property
    def _key(self) -> bytes:
        return self._table.key if self._table is not None else b""

    # Answers to the desk.

    async def answer(self, verb: Any, about: Any) -> dict[str, Any]:
        """Answer a question. The desk is not trusted: both values may be anything of JSON."""
        found = self._verbs.get(verb) if isinstance(verb, str) else None
        if found is None:
            return {"error": "the master does not answer that"}
        try:
            async with asyncio.timeout(PATIENCE[verb]):
                return {"value": await found(about)}
        except TimeoutError:
            return {"error": "this takes too long, and goes on"}
        except ValueError as error:
            return {"error": str(error)}
        except Exception as error:
            return {"error": one_line(error)}

    async def _alive(self, about: Any) -> bool:
        return True

    async def _ready(self, about: Any) -> list[str]:
        return self.why_not_ready()

    async def _numbers(self, about: Any) -> Snapshot:
        return self.numbers()

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
        for name, value in (
            ("process_max_fds", usage.most_descriptors()),
            ("process_virtual_memory_bytes", usage.virtual_bytes()),
        ):
            if value is not None:
                gauges[name] = value
        return found

    async def _status(self, about: Any) -> dict[str, Any]:
        master = self.master
        ok, at, faults = self._last_reload
        why_not, keeper = self.why_not_ready(), self._keeper
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
            "desk": {"pid": keeper.pid, "restarts": keeper.restarts} if keeper else None,
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

    async def _reload(self, about: Any) -> dict[str, Any]:
        if self.master.is_draining or not self.master.is_ready:
            raise ValueError("the server starts or ends: no reload now")
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        # A reload that runs may have read the file before its last change.
        later = self.master.is_reloading
        (self._reloaded_later if later else self._reloaded).append(future)
        self.master.reload()
        faults = await future
        return {"ok": not faults, "faults": faults}

    async def _drain(self, about: Any) -> dict[str, Any]:
        drain, is_second = self._config.drain, self.master.is_draining
        self.master.drain()
        return {
            "ok": True,
            "now": is_second,
            "seconds": 0.0 if is_second else drain.delay + drain.linger + drain.grace,
        }

    async def _sessions(self, about: Any) -> dict[str, Any]:
        most = SESSIONS if about is None else about
        if not isinstance(most, int) or not 0 < most <= SESSIONS:
            raise ValueError(f"the limit is a number from 1 to {SESSIONS}")
        found: list[dict[str, Any]] = []
        faults: list[str] = []
        for slot, answer in await self._ask_all("sessions", most):
            found += [{"slot": slot, **one} for one in answer.get("value", ())]
            if "error" in answer:
                faults.append(f"worker {slot}: {answer['error']}")
        return {"sessions": found, "faults": faults}

    async def _log_level(self, about: Any) -> dict[str, Any]:
        level = logs.set_level(str(about))
        answers = await self._ask_all("log", level)
        faults = [f"worker {slot}: {one['error']}" for slot, one in answers if "error" in one]
        return {"level": level, "faults": faults}

    async def _ask_all(self, question: str, about: Any) -> list[tuple[int, dict[str, Any]]]:
        slots = [slot.slot for slot in self.master.slots]
        ask = self.master.request
        answers = await asyncio.gather(*(ask(slot, question, about) for slot in slots))
        return list(zip(slots, answers, strict=True))


def _without_rights(identity: Identity | None) -> Identity | None:
    """Return the user for the desk: that of the workers, unless it is root."""
    if identity is None or identity.uid != 0:
        return identity
    import pwd  # the master is root's, so this system has it

    try:
        return identity_to_assume(None, None, default=NO_RIGHTS, pwd=pwd)
    except Failure:
        return identity


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
