"""The built-in extensions as values, to choose some of them: ``extensions=[*CLASSIC, DSN]``."""

from __future__ import annotations

from aiosmtpd.protocol.extensions import CLASSIC, Extension
from aiosmtpd.protocol.modern import (
    ALL,
    BINARYMIME,
    CHUNKING,
    DELIVERBY,
    DSN,
    ENHANCEDSTATUSCODES,
    FUTURERELEASE,
    LIMITS,
    MODERN,
    MT_PRIORITY,
    PIPELINING,
    REQUIRETLS,
    RRVS,
)
from aiosmtpd.protocol.xclient import xclient, xforward

__all__ = [
    "ALL",
    "BINARYMIME",
    "CHUNKING",
    "CLASSIC",
    "DELIVERBY",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "FUTURERELEASE",
    "LIMITS",
    "MODERN",
    "MT_PRIORITY",
    "PIPELINING",
    "REQUIRETLS",
    "RRVS",
    "Extension",
    "xclient",
    "xforward",
]
