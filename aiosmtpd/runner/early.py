"""Signals to a server whose event loop does not run: it starts still, or has ended."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.runner.master import Master


class Ended(BaseException):
    """A signal has ended the server before it served."""


class Early:
    """Takes signals until the event loop does; only in the main thread.

    Their defaults would end the process, or do nothing if this is the first process of a container.
    """

    def __init__(self) -> None:
        self._master: Master | None = None
        self._has_ended = self._wants_reload = False
        self._before: dict[int, object] = {}
        if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._end)
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._reload)
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                # Not SIG_IGN, which other processes would inherit.
                self._before[number] = signal.signal(number, lambda *_: None)

    def hand_over(self, master: Master) -> None:
        """Let the master react; raises Ended if it is to end already."""
        self._master = master
        if self._has_ended:
            raise Ended
        if self._wants_reload:
            master.reload()

    def close(self) -> None:
        """Give the signals back, for a program that goes on."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def ignore(self) -> None:
        """Ignore the signals from now on: another one is not to change the exit code."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _end(self, *_: object) -> None:
        if self._master is not None:
            self._master.drain()
        elif not self._has_ended:
            self._has_ended = True
            raise Ended

    def _reload(self, *_: object) -> None:
        if self._master is None:
            self._wants_reload = True
        else:
            self._master.reload()
