"""The master: binds the sockets, starts the workers, and replaces them. It serves no client.

It imports no handler, no outlet and nothing of SMTP but settings: code that may fail is the
workers'.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Set as AbstractSet
from contextlib import suppress
from typing import Any, Protocol

import attrs

from aiosmtpd.listen.addresses import spell
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.process.rights import Identity, identity_to_assume
from aiosmtpd.process.signals import signals_handled
from aiosmtpd.runner.child import Child, Timing, reap
from aiosmtpd.runner.config import HAS_WORKERS, Config
from aiosmtpd.runner.faults import WrongConfiguration
from aiosmtpd.runner.keyring import Keyring
from aiosmtpd.runner.logs import OWN, TOLD
from aiosmtpd.runner.slot import Slot, SlotState
from aiosmtpd.runner.slots import Sockets
from aiosmtpd.runner.systemd import notify, notify_of_reload, watchdog_pause

DEFAULT_USER = "nobody"

SPOOL_FAILED = 74
"""Exit code of a worker whose spool's disk has failed, and then of the master."""

ENDING = (
    "Ending: sessions may go on for %g s, and then transactions for %g s; a second signal ends "
    "the server at once"
)

FAILED = (
    "The start has failed: %s. Open sessions may go on for %g s, and then transactions for %g s; a "
    "signal ends the server at once"
)

IGNORED = ("SIGUSR1", "SIGUSR2", "SIGWINCH")

log = logging.getLogger("mail.log")


class Watch(Protocol):
    """An object that hears what the workers do, and shows it to an operator."""

    @property
    def pids(self) -> AbstractSet[int]:
        """Its own processes."""

    async def start(self, master: Master) -> None:
        """Begin; called once the sockets are bound, before the first worker starts."""

    async def open(self, config: Config) -> None:
        """Bind what a reload adds, before it replaces the workers; raises Failure."""

    async def stop(self) -> None:
        """End; called when no worker is left."""

    def lend(self, slot: int) -> tuple[dict[str, Any], list[int]]:
        """Return more for the order of a new worker, and descriptors; called before its start."""

    def worker_started(self, slot: int, pid: int) -> None:
        """Hear of a new process."""

    def worker_ready(self, slot: int, pid: int) -> None:
        """Hear that a worker serves."""

    def beat(self, slot: int, pid: int, numbers: dict[str, Any]) -> None:
        """Get the numbers of a heartbeat."""

    def worker_exited(self, slot: int, pid: int, reason: str, code: int) -> int | None:
        """Hear of an end: *reason* is ``reload``, ``drain``, ``crash`` or ``hang``.

        *code* is the exit code, or minus the number of a signal. Return how many connections were
        open, None if that is not known.
        """

    def reloaded(self, ok: bool, faults: list[str]) -> None:
        """Hear of a reload that is over."""


class Master:
    """Serves by workers until a signal. :meth:`run` returns the exit code.

    *reload* reads the configuration again; its exceptions are faults, one in each line of their
    text.
    """

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Awaitable[Config]],
        *,
        watch: Watch | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.config = config
        self.watch = watch
        self.timing = timing or Timing()
        self.is_ready = False
        """True from the first time that all workers serve to the beginning of the end."""
        self.is_draining = False
        self.is_reloading = False
        """True from the moment that a reload reads the configuration to its end."""
        self.sockets = Sockets()
        self._read_config = reload
        self._slots: dict[int, Slot] = {}
        self._retired: list[Slot] = []
        self._identity: Identity | None = None
        self.keys = Keyring(config.tls, config.certificates)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._end = asyncio.Event()
        self._now = asyncio.Event()
        self._code = 0

    # For others.

    @property
    def slots(self) -> list[SlotState]:
        """The state of each slot, in order."""
        return [self._slots[number].state() for number in sorted(self._slots)]

    @property
    def identity(self) -> Identity | None:
        """The user that workers become, None if they keep that of the master."""
        return self._identity

    def run(self) -> int:
        """Serve until a signal; return the exit code, after one line if it cannot start."""
        try:
            if not HAS_WORKERS:
                from aiosmtpd.runner.alone import run_alone

                return run_alone(self.config, self.timing.certificates)
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except Failure as failure:
            print(failure, file=sys.stderr)
            return failure.code
        return self._code

    def reload(self) -> None:
        """Read the configuration again and replace the workers; once more if that runs now."""
        if self.is_draining:
            return
        if not self.is_ready or (self._reloading is not None and not self._reloading.done()):
            # The workers that start now may have read what has changed since.
            self._reload_again = True
            return
        self._reloading = self._start_task(self._reload())

    def drain(self) -> None:
        """End gracefully; a second call ends now."""
        if self._end.is_set():
            self._now.set()
        self._end.set()

    async def request(self, slot: int, question: str, about: Any = None) -> dict[str, Any]:
        """Ask the worker of a slot; return ``{"value": ...}`` or ``{"error": text}``."""
        found = self._slots.get(slot)
        if found is None or found.child is None:
            return {"error": f"slot {slot} has no worker now"}
        return await found.child.ask(question, about)

    # The life of the master.

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        with signals_handled(loop, self._reactions()):
            try:
                await self._start()
                await self._serve()
            except Failure as failure:
                self._failed(failure)
                raise
            finally:
                await self._stop()

    def _reactions(self) -> dict[int, Callable[[], None]]:
        reactions: dict[str, Callable[[], None]] = dict.fromkeys(IGNORED, lambda: None)
        reactions |= {"SIGINT": self.drain, "SIGTERM": self.drain, "SIGHUP": self.reload}
        return {
            getattr(signal, name): reaction
            for name, reaction in reactions.items()
            if hasattr(signal, name)
        }

    async def _start(self) -> None:
        config = self.config
        self._identity = _identity(config)
        await _check(self.keys)
        await self.sockets.bind(config.listen, config.worker_count)
        self._look_at_spool(config)
        if self.watch is not None:
            await self.watch.start(self)
        for number in range(config.worker_count):
            self._slots[number] = Slot(number, config, self)
        starting = asyncio.ensure_future(self._start_slots())
        ending = asyncio.ensure_future(self._end.wait())
        both: list[asyncio.Future[Any]] = [starting, ending]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return
        starting.result()
        for slot in self._slots.values():
            self._start_task(slot.keep())

    async def _start_slots(self) -> None:
        """Start the first worker of each slot; raises the first Failure, and ends the others."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots.values():
                    group.create_task(slot.start())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _serve(self) -> None:
        if self._end.is_set():
            return
        self.is_ready = True
        where = " and ".join(spell(address) for address in self.sockets.addresses)
        log.info("Server is listening on %s", where, extra=OWN)
        notify("READY=1", self._status())
        self._start_task(self._look_at_certificates())
        if os.getpid() == 1 and hasattr(os, "waitid"):
            self._start_task(self._reap_orphans())
        if (pause := watchdog_pause()) is not None:
            self._start_task(_feed_watchdog(pause))
        if self._reload_again:
            self.reload()
        await self._end.wait()

    def _failed(self, failure: Failure) -> None:
        """Make the next signal the end; tell the reason now if some workers serve already."""
        self._end.set()
        if any(slot.state == "ready" for slot in self.slots):
            log.info(FAILED, failure, self.config.drain.linger, self.config.drain.grace)

    async def _stop(self) -> None:
        """Let the workers end, and end what is left."""
        self.is_draining, was_ready = True, self.is_ready
        if was_ready:
            log.info(ENDING, self.config.drain.linger, self.config.drain.grace)
        notify("STOPPING=1", "STATUS=Ending")
        if was_ready and self.config.drain.delay:
            # Balancers see it in /readyz, and send no client any more.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.drain.delay):
                    await self._now.wait()
        self.is_ready = False
        await _cancel(self._tasks)
        # The workers alone have the sockets now, and serve those who wait there.
        self.sockets.close()
        drain = self.config.drain
        slots = [*self._slots.values(), *self._retired]
        children = [child for slot in slots for child in slot.children]
        hurrying = asyncio.ensure_future(self._hurry(children))
        for child in children:
            # Also after a start that has failed: a worker may have clients.
            child.drain(drain.linger, drain.grace, self.timing, is_last=True)
        for slot in slots:
            await slot.ended()
        hurrying.cancel()
        if self.watch is not None:
            await self.watch.stop()

    async def _hurry(self, children: Iterable[Child]) -> None:
        await self._now.wait()
        for child in children:
            child.drain(0.0, 0.0, self.timing, is_last=True)

    # For the slots.

    def order(self, slot: int, config: Config) -> tuple[dict[str, Any], list[int]]:
        """Return what a new worker has to know, and the descriptors that it gets."""
        passed = self.sockets.of_slot(config.listen, slot, config.worker_count)
        identity = self._identity
        order: dict[str, Any] = {
            "config": attrs.evolve(config, certificates=()).to_json(),
            "slot": slot,
            "workers": config.worker_count,
            "patience": self.timing.start + self.timing.abort,
            "sockets": [(one.fd, one.scheme) for one in passed],
            "tls": [(one.cert, one.key) for one in self.keys.texts],
            "identity": None
            if identity is None
            else {"user": identity.user, "uid": identity.uid, "gid": identity.gid},
        }
        descriptors = {one.fd for one in passed}
        if self.watch is not None:
            more, lent = self.watch.lend(slot)
            order |= more
            descriptors.update(lent)
        return order, sorted(descriptors)

    def tell(self, event: str, *args: Any) -> Any:
        """Call a method of the watch, if there is one; its errors must not end a worker."""
        if self.watch is not None:
            try:
                return getattr(self.watch, event)(*args)
            except Exception:
                log.exception("The watch has failed")
        return None

    def hear_of_end(self, child: Child, why: str) -> int | None:
        """Hear that a worker has ended; return how many connections were open, if that is known."""
        lost: int | None = self.tell("worker_exited", child.slot, child.pid, why, child.code)
        if child.code == SPOOL_FAILED and not self._end.is_set():
            log.critical("The disk of the spool has failed: stopping")
            self._code = SPOOL_FAILED
            self._end.set()
        return lost

    # Reloading.

    async def _reload(self) -> None:
        try:
            await self._reload_each()
        finally:
            self.is_reloading = False

    async def _reload_each(self) -> None:
        """Reload until no other reload was asked for meanwhile."""
        while True:
            self.is_reloading, self._reload_again = True, False
            notify_of_reload()
            faults: list[str] = []
            try:
                await self._replace_all(await self._read_config())
            except Exception as error:
                faults = _faults_of(error)
                for fault in faults:
                    log.error("Not reloaded: %s", fault, extra=TOLD)
            else:
                log.info("Reloaded: all workers are new", extra=TOLD)
            self.tell("reloaded", not faults, faults)
            notify("READY=1", self._status("the last reload failed" if faults else ""))
            if not self._reload_again:
                return

    async def _replace_all(self, config: Config) -> None:
        """Replace each worker by a new one that is ready first; the first failure ends this."""
        keys, identity = Keyring(config.tls, config.certificates), _identity(config)
        await _check(keys)
        await self.sockets.bind(config.listen, config.worker_count)
        before = self.keys, self._identity
        self.keys, self._identity = keys, identity
        replaced = 0
        try:
            self._look_at_spool(config)
            if self.watch is not None:
                await self.watch.open(config)
            # New slots first: until they serve, old workers may have their sockets.
            for number in sorted(range(config.worker_count), key=self._slots.__contains__):
                if number not in self._slots:
                    slot = Slot(number, config, self)
                    # If this is cancelled, its worker may serve already, and has to be drained.
                    self._retired.append(slot)
                    await slot.start()
                    self._retired.remove(slot)
                    self._slots[number] = slot
                    self._start_task(slot.keep())
                else:
                    await self._slots[number].replace(config)
                replaced += 1
        except BaseException as error:
            if not replaced:
                self.keys, self._identity = before
                self.sockets.keep(self.config.listen)
            elif isinstance(error, Exception):
                text = "%d of %d workers have the new configuration, the others the old one"
                log.warning(text, replaced, config.worker_count)
            raise
        self.config = config
        self._retired = [slot for slot in self._retired if any(slot.children)]
        for number in [one for one in self._slots if one >= config.worker_count]:
            slot = self._slots.pop(number)
            slot.retire()
            self._retired.append(slot)
        self.sockets.keep(config.listen)

    def _look_at_spool(self, config: Config) -> None:
        """Make the folder of the spool for the workers, if this is root's process."""
        old, new = self.config.spool, config.spool
        if old is not None and (new is None or new.path != old.path):
            log.warning("Messages that wait in the spool %s stay there", old.path)
        if self._identity is not None and new is not None:
            _make_folder(new.path, self._identity.uid, self._identity.gid)

    async def _look_at_certificates(self) -> None:
        """Read the files again and again, and give the workers what has changed."""
        told = ""
        while True:
            await asyncio.sleep(self.timing.certificates)
            try:
                if await self.keys.read():
                    log.info("Certificates loaded again")
                    texts = [(one.cert, one.key) for one in self.keys.texts]
                    for slot in [*self._slots.values(), *self._retired]:
                        slot.use_certificates(texts)
                told = ""
            except Failure as failure:
                if str(failure) != told:
                    log.error("%s; the old certificate stays", failure)
                told = str(failure)

    async def _reap_orphans(self) -> None:
        """Reap processes of handlers that have lost their parent: the first one of a container."""
        while True:
            await asyncio.sleep(self.timing.orphans)
            is_reloading = self._reloading is not None and not self._reloading.done()
            if is_reloading or self.keys.is_checking:
                # Leave the process that reads the configuration or the certificates alone.
                continue
            slots = [*self._slots.values(), *self._retired]
            ours = {child.pid for slot in slots for child in slot.children}
            reap(ours | (self.watch.pids if self.watch is not None else set()))

    def _start_task(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("A part of the master has failed: restart it soon", exc_info=error)

    def _status(self, more: str = "") -> str:
        count = len(self._slots)
        text = f"Serving with {count} worker{'s' if count != 1 else ''}"
        return f"STATUS={text}; {more}" if more else f"STATUS={text}"


def _identity(config: Config) -> Identity | None:
    """Return the user that workers become, None if they keep ours; raises Failure."""
    try:
        import pwd
    except ImportError:
        return None
    if os.geteuid() != 0 and config.user is None and config.group is None:
        return None
    return identity_to_assume(config.user, config.group, default=DEFAULT_USER, pwd=pwd)


def _make_folder(path: str, uid: int, gid: int) -> None:
    """Make the folder of the spools for a user, if there is none; raises Failure."""
    try:
        os.mkdir(path, 0o700)
        # The owner of the folder above may have put a link there since.
        os.chown(path, uid, gid, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        step = "; make the folder above it (mkdir), or mount its disk" if missing else ""
        raise Failure(f"Cannot make the spool {path}: {error.strerror}{step}", 1) from error


def _faults_of(error: Exception) -> list[str]:
    if isinstance(error, Failure | WrongConfiguration):
        return str(error).splitlines()
    return [one_line(error)]


async def _check(keys: Keyring) -> None:
    """Check the certificates, unless the process that read the configuration has done it."""
    if not keys.texts:
        await keys.read()


async def _feed_watchdog(pause: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(pause)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    if left := list(tasks):
        for task in left:
            task.cancel()
        await asyncio.wait(left)
