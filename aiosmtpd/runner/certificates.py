"""Certificates as values: the contents of their files, and the facts in them.

The module ssl is not imported here: the master has none.
"""

from __future__ import annotations

from typing import Any, Self

import attrs

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.tables import Pair


@attrs.frozen
class Texts:
    """The contents of the two files of a certificate."""

    cert: str
    key: str = attrs.field(repr=False)


@attrs.frozen
class Facts:
    """The host names of a certificate, and its end in seconds since 1970."""

    names: tuple[str, ...]
    not_after: float


@attrs.frozen
class Checked:
    """A certificate that a server can use."""

    texts: Texts
    facts: Facts

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Return the certificate from a dict that ``attrs.asdict`` has made of it."""
        facts = values["facts"]
        return cls(Texts(**values["texts"]), Facts(tuple(facts["names"]), facts["not_after"]))


def read(pair: Pair) -> Texts:
    """Return the contents of the files; raises OSError, or ValueError for a name with a NUL."""
    # Comments beside the PEM blocks may be in any encoding.
    with open(pair.cert, encoding="latin-1") as cert, open(pair.key, encoding="latin-1") as key:
        return Texts(cert.read(), key.read())


def texts_of(pair: Pair) -> Texts:
    """Return the contents of the files; raises Failure."""
    try:
        return read(pair)
    except (OSError, ValueError) as error:
        raise Failure(f"{spelled(pair)}: {getattr(error, 'strerror', None) or error}") from error


def spelled(pair: Pair) -> str:
    """Return the names of the files as faults have them."""
    return f"tls: certificate {pair.cert} with key {pair.key}"
