"""Post each new message to a web server: the row of the message, as lists have it.

The requests go to the URL of the options alone: no redirect is followed, no proxy is asked, and no
request is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import SplitResult, quote, unquote, urlsplit

from aiosmtpd._version import __version__
from aiosmtpd.inbox.records import Event
from aiosmtpd.inbox.store import Store
from aiosmtpd.mail.terminal import safe_line

SECONDS = 5.0
"""Seconds that one request may take."""

PER_SECOND = 1
"""Requests in a second, as with Mailpit."""

AT_ONCE = 50
"""Requests at the same time."""

FAREWELL = 0.3
"""Seconds that requests have at the end."""

LARGEST_HEADER = 1 << 14
"""Bytes of an answer that are read."""

_HARMFUL = frozenset(map(chr, [*range(33), 127]))

_ORDINARY = "/%:@!$&'()*+,;=~"
_PRINTED = "".join(map(chr, range(32, 127)))

log = logging.getLogger("mail.log")


class Webhook:
    """Sends the row of each new message to *url*; raises ValueError if it is not a URL of HTTP.

    *per_second* is the number of requests in a second, 0 for any. Messages that come too soon
    are left out, and a warning says how many. *label* is sent as ``Mailpit-Label``.
    """

    def __init__(self, url: str, per_second: int = PER_SECOND, label: str = "") -> None:
        parts, host = _parts_of(url)
        self._is_secure = parts.scheme == "https"
        self._host, self._port = host, parts.port or (443 if self._is_secure else 80)
        name = f"[{host}]" if ":" in host else host
        place = name if parts.port is None else f"{name}:{parts.port}"
        #: The URL without its user, its path and its query, which may be secret.
        self.name = f"{parts.scheme}://{place}/"
        self._head = [
            f"POST {_target(parts)} HTTP/1.1",
            f"Host: {place}",
            f"User-Agent: aiosmtpd/{__version__}",
            "Content-Type: application/json",
            "Connection: close",
        ]
        if label:
            self._head.append(f"Mailpit-Label: {quote(label, safe=_PRINTED)}")
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._head.append(f"Authorization: Basic {b64encode(pair.encode()).decode()}")
        self._pause = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._left_out = 0
        self._problem = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: Callable[[], None] | None = None
        self._context = ssl.create_default_context() if self._is_secure else None

    def start(self, store: Store) -> None:
        """Begin to post the messages that come into a store."""
        loop = asyncio.get_running_loop()

        def hear(event: Event) -> None:
            # In the writer's thread; the loop may be closed by now.
            if event.kind == "new":
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._hear, event.data)

        self._end = store.subscribe(hear)

    async def stop(self) -> None:
        """End; requests that still run have a moment, then they are cut off."""
        if self._end is not None:
            self._end()
            self._end = None
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FAREWELL)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._count_the_left_out()

    def _hear(self, row: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._end is None:
            return
        if now < self._next or len(self._tasks) >= AT_ONCE:
            self._left_out += 1
            return
        self._next = now + self._pause
        self._count_the_left_out()
        task = asyncio.create_task(self._send(row.encode("utf-8", "replace")))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_the_left_out(self) -> None:
        if self._left_out:
            count = f"{self._left_out} message{'s' * (self._left_out > 1)}"
            text = "the webhook %s left out %s that came too soon: see --webhook-limit"
            log.warning(text, self.name, count)
            self._left_out = 0

    async def _send(self, body: bytes) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                code = await self._post(body)
            problem = "" if 200 <= code < 300 else f"it answers {code}"
            if code in (301, 302, 303, 307, 308):
                problem += ", a redirect, which is not followed"
        except TimeoutError:
            problem = f"no answer within {SECONDS:g} seconds"
        except EOFError:
            problem = "the connection ended before an answer"
        except (OSError, ValueError) as error:
            problem = _explained(error)
        if problem and problem != self._problem:
            log.warning("the webhook %s has failed: %s", self.name, safe_line(problem))
        self._problem = problem

    async def _post(self, body: bytes) -> int:
        """Send a request and return the code of its answer."""
        reader, writer = await asyncio.open_connection(
            self._host,
            self._port,
            ssl=self._context,
            server_hostname=self._host if self._is_secure else None,
            limit=LARGEST_HEADER,
        )
        try:
            head = "\r\n".join([*self._head, f"Content-Length: {len(body)}", "", ""])
            writer.write(head.encode("ascii") + body)
            code = _code_of(await reader.readuntil(b"\n"))
        except asyncio.LimitOverrunError:
            writer.transport.abort()
            raise ValueError("the answer is not HTTP") from None
        except BaseException:
            writer.transport.abort()
            raise
        writer.close()
        return code


def _explained(error: Exception) -> str:
    # The text of asyncio for a refused connection repeats the address. The numbers of an unknown
    # host are not those of the system, although they are positive on macOS and Windows.
    number = getattr(error, "errno", None) or 0
    if number > 0 and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        return os.strerror(number).lower()
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _parts_of(url: str) -> tuple[SplitResult, str]:
    """Return the parts of a URL of HTTP and its host in ASCII; raises ValueError."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode("ascii")
        # The port is read here, because it may be wrong.
        is_whole = parts.scheme in ("http", "https") and host and parts.port != 0
        if is_whole and not parts.fragment and not _HARMFUL & set(url):
            return parts, host
    except ValueError:
        pass
    raise ValueError("write http://HOST:PORT/PATH")


def _target(parts: SplitResult) -> str:
    target = quote(parts.path or "/", safe=_ORDINARY)
    return f"{target}?{quote(parts.query, safe=_ORDINARY + '?')}" if parts.query else target


def _code_of(line: bytes) -> int:
    words = line.decode("latin-1").split()
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        raise ValueError("the answer is not HTTP")
    return int(words[1][:3])
