"""A timer that costs the event loop nothing while it waits.

With a timer of its own, asyncio computes in every turn how long it may wait, and the kernel sets a
timer for each wait. If one client waits for each reply, this takes 1 µs of the 17 for a command.
A timer of Linux (timerfd) is a descriptor like that of a socket, and is read when its time comes.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import Callable
from typing import Protocol

CLOCK_MONOTONIC = 1
"""The clock of :func:`time.monotonic`, by its number in Linux."""

FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

HAS_DESCRIPTORS = sys.platform == "linux" and struct.calcsize("l") == 8
"""True if the system is a Linux whose times have 64 bits."""


class Cancellable(Protocol):
    """A timer."""

    def cancel(self) -> None:
        """Let it not go off."""


class Alarm:
    """A descriptor that becomes readable once, and the function that is called then."""

    __slots__ = ("__weakref__", "_callback", "_descriptor", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, callback: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._callback = callback
        loop.add_reader(descriptor, self._go_off)

    def cancel(self) -> None:
        """Let it not go off."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def __del__(self) -> None:
        # Only the event loop keeps it, until it goes off or the loop is closed.
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _go_off(self) -> None:
        self.cancel()
        self._callback()


def call_after(
    loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
) -> Cancellable:
    """Call *callback* once, after *seconds*, which are more than 0.

    Only asyncio's own loops get a descriptor: uvloop's timers cost less. Keep no more than a weak
    reference to the timer, or its descriptor may outlive a loop that is closed.
    """
    if HAS_DESCRIPTORS and isinstance(loop, asyncio.SelectorEventLoop):
        try:
            descriptor = _descriptor(seconds)
        except (OSError, ImportError, AttributeError):
            # No descriptor is left, this Python has no _ctypes, or a sandbox is around it.
            pass
        else:
            return Alarm(loop, descriptor, callback)
    return loop.call_later(seconds, callback)


def _descriptor(seconds: float) -> int:
    """Return a timer as a descriptor. Raises OSError, ImportError or AttributeError."""
    if sys.version_info >= (3, 13):  # pragma: no cover - in the tests on 3.13
        descriptor = os.timerfd_create(CLOCK_MONOTONIC, flags=FLAGS)
        os.timerfd_settime(descriptor, initial=seconds)
        return descriptor
    import ctypes  # only for the first connection

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.timerfd_create(CLOCK_MONOTONIC, FLAGS))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "no timer")
    # Seconds and nanoseconds, of the interval and of the first time. These are always valid.
    when = struct.pack("4l", 0, 0, *divmod(int(seconds * 1e9), 10**9))
    libc.timerfd_settime(descriptor, 0, when, None)
    return descriptor
