"""The event loop of a thread that runs none yet."""

from __future__ import annotations

import asyncio
import warnings


def current_or_new_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop set in this thread; make and set one if there is none to use."""
    with warnings.catch_warnings():
        # Versions before 3.14 make one on their own and may complain about it.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = None
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop
