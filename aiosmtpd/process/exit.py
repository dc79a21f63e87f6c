"""How a process ends: its standard streams, and the threads that do not."""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
from contextlib import suppress
from typing import Any

SETTLE = 1.0
"""Seconds that tasks and worker threads have to end after the last connection has."""


LAST_STANDARD = 2
"""The descriptor of the standard error."""


def pipe_of(stream: Any) -> int | None:
    """Return the descriptor of a stream that is a pipe, whose reader may go; else None."""
    try:
        number: int = stream.fileno()
        return number if os.name == "posix" and stat.S_ISFIFO(os.fstat(number).st_mode) else None
    except (AttributeError, OSError, ValueError):
        return None


def open_standard_streams() -> None:
    """Open ``/dev/null`` for each standard descriptor that is closed.

    Otherwise a socket would get its number, and the next ``print()`` would write to that socket.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def flush_standard_streams() -> bool:
    """Flush them; point one that fails at ``/dev/null``, so that Python exits with our code.

    Return False if one has failed: its reader may have gone.
    """
    works = True
    for stream in sys.stdout, sys.stderr:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            works = False
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return works


def exit_despite_threads(before: set[threading.Thread], code: int) -> None:
    """End the process with *code* if a thread that is not in *before* does not end in time."""
    # Python itself would wait for worker threads, for ever if a handler blocks in one.
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(SETTLE)
            if thread.is_alive():
                logging.shutdown()
                flush_standard_streams()
                os._exit(code)
