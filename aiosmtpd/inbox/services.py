"""The things that the routes of the web side share, and the options of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from attrs import Attribute, define, field, frozen
from public import public

from aiosmtpd.inbox.store import Store
from aiosmtpd.observers.faults import Faults

if TYPE_CHECKING:
    from aiosmtpd.inbox.relay import Relay

_ROOT = re.compile(r"[A-Za-z0-9/_.@-]*")


def _as_root(text: str) -> str:
    """Return a web root with one slash at both ends."""
    return "/".join(["", *filter(None, text.split("/")), ""])


@public
@frozen
class WebOptions:
    """The options of the page and the API. Raises ValueError for those that cannot be."""

    root: str = field(default="/", converter=_as_root)
    """The path under which all is served, such as ``/mail/``."""
    users: Mapping[str, str] | None = field(default=None, repr=False)
    """Passwords by user for HTTP Basic; None asks for no password."""
    hosts: Sequence[str] = ()
    """More names that may stand in Host: those of ``--allow-host`` and of the bound host. ``*``
    allows all."""
    origins: Sequence[str] = ()
    """Origins whose pages may use the API, such as ``http://shop.test:3000``; ``*`` for all."""
    trusted_proxies: Sequence[str] = ()
    """Networks of the proxies whose ``X-Forwarded-Prefix``, ``-Host`` and ``-For`` are believed."""
    delete_all: bool = True
    """False refuses to delete all messages at once."""
    remote_images: bool = False
    """True lets the HTML of messages load images from other hosts."""
    link_check: bool = False
    """True lets the link check of the API send requests to the links of a message."""
    metrics: bool = False
    """True serves numbers for Prometheus at ``/metrics``."""
    max_size: int = 50 << 20
    """Bytes of the largest message that the API accepts; 0 for any size."""
    max_body: int = 5 << 20
    """Bytes of the largest body of other requests."""
    label: str = ""
    """A word for the title of the page."""

    @root.validator
    def _check_root(self, _: Attribute[str], root: str) -> None:
        if not _ROOT.fullmatch(root) or {".", ".."} & set(root.split("/")):
            raise ValueError(f"the web root {root!r:.60} may have letters, digits and / - _ . @")


LARGE_MAIL = 1_000_000
"""Bytes above which a message waits for its turn to be read."""

LARGE_AT_ONCE = 2


@public
@define(eq=False)
class Services:
    """The things that routes need; made once for each application."""

    store: Store
    options: WebOptions = field(factory=WebOptions)
    faults: Faults | None = None
    """The faults of the SMTP server; None if it cannot fail on purpose."""
    smtp: dict[str, Any] = field(factory=dict)
    """The settings of the SMTP server that the API shows: host, port, tls, auth and size."""
    relay: Relay | None = None
    """The server to which messages are released; None releases none."""
    stopping: asyncio.Event = field(factory=asyncio.Event)
    """Set before the server stops: streams end, and requests that wait get 503."""
    _turns: asyncio.Semaphore = field(
        factory=lambda: asyncio.Semaphore(LARGE_AT_ONCE), init=False, repr=False
    )

    def turn(self, size: int) -> AbstractAsyncContextManager[None]:
        """Wait for a turn to read a message of so many bytes, so that threads are left for others.

        Reading a large one may take seconds.
        """
        return self._turns if size > LARGE_MAIL else nullcontext()
