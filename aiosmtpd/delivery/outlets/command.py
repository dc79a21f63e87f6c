"""Deliver to a shell command: ``command:cat >> messages``."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
from collections.abc import Callable
from typing import IO

from public import public

from aiosmtpd.delivery.command import LAST, LINE_END, TEMPORARY, kill, output, without_nul
from aiosmtpd.delivery.item import Item, Later, Never, Results
from aiosmtpd.delivery.outlets.wire import with_line_end
from aiosmtpd.delivery.outlets.workers import Workers


def from_url(url: str) -> CommandOutlet:
    """Return the outlet of a ``command:`` URL; raises ValueError without a command."""
    command = url.partition(":")[2].strip()
    if not command or "\0" in command:
        raise ValueError("write command:COMMAND")
    return CommandOutlet(command)


@public
class CommandOutlet:
    """Runs *command* with the shell for each message, as ``--on-message`` does.

    The command reads the message, with the system's line ends, from its standard input and the
    envelope from its environment. The exit code 0 means delivered; 75, 126, 127 and the end by a
    signal are Later, other codes are Never. The command is killed when the route's timeout ends.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self._running: set[_Run] = set()
        self._workers = Workers("command")

    async def open(self) -> None:
        """Do nothing: the shell finds the command at each message."""

    async def put(self, item: Item) -> Results:
        """Run the command, fed and awaited by a worker thread."""
        run = _Run(self.command, item)
        self._running.add(run)
        try:
            code = await self._workers.run(run.result)
        except asyncio.CancelledError:
            run.kill()
            raise
        except OSError as error:
            raise Later(f"cannot run the command: {error}") from error
        finally:
            self._running.discard(run)
        if code == 0:
            return None
        if code in TEMPORARY or not 0 <= code <= LAST:
            raise Later(f"the command ended with exit code {code}")
        raise Never(f"554 5.3.0 The command ended with exit code {code}")

    async def close(self) -> None:
        """Kill the commands that run, and end the threads."""
        for run in self._running:
            run.kill()
        self._workers.close()


class _Run:
    """One run of a command; :meth:`kill` ends it, from another thread.

    A thread waits for it, because asyncio cannot cancel the start of a process safely.
    """

    def __init__(self, command: str, item: Item) -> None:
        self._command = command
        self._item = item
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def result(self) -> int:
        """Run the command and return its exit code."""
        target = output()
        with self._lock:
            if self._killed:
                return -1
            self._process = process = subprocess.Popen(  # noqa: S602 - the operator's command
                self._command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=target,
                stderr=target,
                env={**os.environ, **environment(self._item)},
                # A group of its own: kill() ends its children too, Ctrl-C ends only us.
                start_new_session=os.name == "posix",
            )
        try:
            if process.stdin is not None:
                self._feed(process.stdin)
        finally:
            process.wait()
        return process.returncode

    def kill(self) -> None:
        """End the command and its children."""
        with self._lock:
            self._killed = True
            # If the shell has ended, a child of it may still have the pipe: as long as nothing has
            # waited for the shell, the number of the group is theirs.
            if self._process is not None and self._process.returncode is None:
                kill(self._process)

    def _feed(self, stdin: IO[bytes]) -> None:
        try:
            with self._item.open() as file:
                # Filters expect the line ends of the system.
                for piece in with_line_end(file, LINE_END):
                    if not _is_read(stdin.write, piece):
                        break
        except BaseException:
            # Before the pipe is closed: the command must not take a part for the whole.
            self.kill()
            raise
        finally:
            _is_read(stdin.close)


def _is_read(step: Callable[..., object], *args: bytes) -> bool:
    """Write to a pipe, or close it; return False if the command has stopped reading.

    Windows may call a pipe that has no reader an invalid argument.
    """
    try:
        step(*args)
    except (BrokenPipeError, ConnectionResetError):
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def environment(item: Item) -> dict[str, str]:
    """Return the environment variables that describe a message to the command."""
    arrival = item.arrival
    values = {
        "SMTP_QUEUE_ID": item.id,
        "SMTP_MAIL_FROM": "" if item.sender == "<>" else item.sender,
        "SMTP_RCPT_TO": "\n".join(item.recipients),
        "SMTP_HELO": arrival.helo,
        "SMTP_PEER": arrival.client,
        "SMTP_PEER_PORT": str(arrival.port),
        "SMTP_USER": arrival.user,
        "SMTP_TLS": arrival.tls.partition(" ")[0],
        "SMTP_SIZE": str(item.size),
    }
    return without_nul(values)
