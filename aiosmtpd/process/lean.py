"""Importing less, for a process whose memory counts."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def import_asyncio_without_tls() -> None:
    """Import asyncio, which speaks no TLS in this process then: that saves 4 MiB of memory.

    The module ssl can be imported later. If one of the two is imported already, nothing changes.
    """
    modules: dict[str, Any] = sys.modules
    if "ssl" in modules or "asyncio" in modules:
        return
    # An import of ssl fails then, as in a Python that was built without it.
    modules["ssl"] = None
    try:
        import_module("asyncio")
    finally:
        del modules["ssl"]
