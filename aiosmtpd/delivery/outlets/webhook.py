"""Deliver to a webhook: ``https://shop.example.com/mail``; needs the extra ``webhook``."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import json
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, BinaryIO, Literal

import attrs
import httpx2
from public import public

from aiosmtpd._version import __version__
from aiosmtpd.delivery.item import (
    Full,
    Item,
    Later,
    Misconfigured,
    Never,
    Results,
    in_private,
)
from aiosmtpd.delivery.outlets import has_secret, shown
from aiosmtpd.delivery.outlets.workers import Workers

Format = Literal["raw", "json"]

_PIECE = 65536

# The slowest upload, in bytes a second, that a try waits for.
_SLOWEST = 65536

# Seconds to wait for the body of a response: it is only for the log.
_BODY = 2.0

# Bytes of the response that are read; of them, the characters that go to the log.
_LONGEST_RESPONSE = 4096
_QUOTED = 200

# Seconds: a longer Retry-After is cut to this.
_LONGEST_PAUSE = 86400.0

# Seconds an idle connection is kept: shorter than servers do, which close it without a word.
_IDLE = 2.0

_TRY_AGAIN = {408, 425, 429}

log = logging.getLogger("mail.log")


def _without_secrets(record: logging.LogRecord) -> bool:
    """Mask the secrets of a URL that httpx logs for each request."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            shown(str(value)) if isinstance(value, httpx2.URL) else value for value in record.args
        )
    return True


logging.getLogger("httpx2").addFilter(_without_secrets)


def from_url(
    url: str,
    *,
    format: Format = "raw",
    secret: str | Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    verify: bool = True,
    cafile: str | os.PathLike[str] | None = None,
    reply_timeout: float = 30.0,
) -> WebhookOutlet:
    """Return the outlet of an ``http:`` or ``https:`` URL."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        # Without the part that is wrong: it may be of a password.
        raise ValueError(str(error).partition(": ")[0]) from None
    if not parsed.host:
        raise ValueError("a URL with a host is needed")
    if format not in {"raw", "json"}:
        raise ValueError(f"format is raw or json, not {format!r}")
    if reply_timeout <= 0:
        raise ValueError("a timeout is more than 0 seconds")
    given = httpx2.Headers(dict(headers or {}))
    for name, value in given.items():
        if not (name.isascii() and value.isascii() and (name + value).isprintable()):
            raise ValueError(f"header {name!r} has characters that HTTP does not allow")
    secrets = (secret,) if isinstance(secret, str) else tuple(secret)
    keys = tuple(_key(one) for one in secrets)
    return WebhookOutlet(url, format, keys, given, verify, cafile, reply_timeout)


def _key(secret: str) -> bytes:
    """Return the key in a ``whsec_`` secret; raises ValueError, without the secret in it."""
    text = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if text == secret or len(key) < 16:
        raise ValueError("secret: write whsec_ and at least 16 bytes in base64")
    return key


@public
@attrs.define(eq=False)
class WebhookOutlet:
    """Posts each message to *url*, signed as Standard Webhooks says if there are *keys*.

    2xx means delivered. 408, 425, 429, 5xx, a redirect, no reply in *reply_timeout* seconds and
    trouble with the connection are Later, not before the time in Retry-After; other replies are
    Never.
    """

    url: str = attrs.field(repr=shown)
    format: Format = "raw"
    keys: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    verify: bool = True
    cafile: str | os.PathLike[str] | None = None
    reply_timeout: float = 30.0
    _client: httpx2.AsyncClient | None = attrs.field(default=None, init=False, repr=False)
    _workers: Workers = attrs.field(factory=lambda: Workers("webhook"), init=False, repr=False)

    async def open(self) -> None:
        """Make the client, and warn of a URL that gives secrets away.

        The server is first reached with a message.
        """
        if self._client is not None:
            return
        try:
            client = await self._workers.run(self._make)
        except OSError as error:
            line = f"{shown(self.url)}: cafile: {self.cafile}: {error.strerror or error}"
            raise Misconfigured(line) from None
        await self._warn()
        # Several put() may have come here; from here on there is no other await.
        if self._client is None:
            self._client = client

    async def put(self, item: Item) -> Results:
        """Post the message."""
        await self.open()
        request = await self._workers.run(_Request, self, item)
        seconds = self.reply_timeout + item.size / _SLOWEST
        try:
            async with asyncio.timeout(seconds) as limit:
                await self._post(request, limit)
        except TimeoutError:
            line = f"{shown(self.url)}: no reply in {seconds:.1f} seconds"
            raise in_private(Later(), line) from None
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            said = _one_line(str(error)) or type(error).__name__
            raise in_private(Later(), f"{shown(self.url)}: {said}") from error
        return None

    async def close(self) -> None:
        """Close the connections and end the threads."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        self._workers.close()

    async def _post(self, request: _Request, limit: asyncio.Timeout) -> None:
        if self._client is None:
            raise Later("the outlet is closed")
        async with self._client.stream(
            "POST", self.url, headers=request.headers, content=request.pieces()
        ) as response:
            # The status is the answer; a body that never ends does not change it.
            limit.reschedule(None)
            text = await _begin_of(response)
            if not response.is_success:
                raise self._failure(response, text)

    def _failure(self, response: httpx2.Response, text: bytes) -> Later | Never:
        code = response.status_code
        line = f"HTTP {code} {response.reason_phrase}"
        if code < 400 and (location := response.headers.get("location")):
            line += f", redirects are not followed: {shown(location)}"
        elif text:
            line += ": " + text[:_LONGEST_RESPONSE].decode("utf-8", "replace")
        line = _one_line(line)
        if code == 431:
            line += " (with format=json, the envelope is in the body)"
        if code in _TRY_AGAIN or code >= 500 or code < 400:
            kind = Full if code == 507 else Later
            pause = _pause(response.headers.get("retry-after"))
            # An error page may show what the application is made of.
            return in_private(kind(after=pause), f"{shown(self.url)}: {line}")
        return Never(f"552 5.3.4 {line}" if code == 413 else f"554 5.3.0 {line}")

    def _make(self) -> httpx2.AsyncClient:
        # In a thread: to read the authorities of the system takes a while.
        verify: ssl.SSLContext | bool = self.verify
        if self.verify and self.cafile is not None:
            verify = ssl.create_default_context(cafile=self.cafile)
        return httpx2.AsyncClient(
            verify=verify,
            timeout=self.reply_timeout,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=_IDLE),
        )

    async def _warn(self) -> None:
        if has_secret(self.url):
            log.warning(
                "%s: a secret in a URL comes into logs and proxies: sign with secret=, or use "
                "headers=",
                shown(self.url),
            )
        url = httpx2.URL(self.url)
        if url.scheme == "http" and await _is_public(url.host):
            log.warning("%s: mail goes unencrypted to a public address", shown(self.url))


class _Request:
    """The body of a request in a file, and its headers; made in a worker thread."""

    def __init__(self, outlet: WebhookOutlet, item: Item) -> None:
        self._item = item
        self._json = as_json(item) if outlet.format == "json" else None
        now = str(int(time.time()))
        json_format = self._json is not None
        size = item.size if self._json is None else len(self._json)
        self.headers = httpx2.Headers({"User-Agent": f"aiosmtpd/{__version__}"})
        self.headers.update(outlet.headers)
        self.headers.update(
            {
                "Accept-Encoding": "identity",
                "Content-Type": "application/json" if json_format else "message/rfc822",
                "Content-Length": str(size),
                "webhook-id": item.id,
                "webhook-timestamp": now,
            }
        )
        if not json_format:
            self.headers["Aiosmtpd-Envelope"] = _envelope(item)
        if outlet.keys:
            begin = f"{item.id}.{now}.".encode()
            signatures = (self._signature(key, begin) for key in outlet.keys)
            self.headers["webhook-signature"] = " ".join(signatures)

    async def pieces(self) -> AsyncIterator[bytes]:
        with self._open() as file:
            while piece := file.read(_PIECE):
                yield piece

    def _open(self) -> BinaryIO:
        return self._item.open() if self._json is None else BytesIO(self._json)

    def _signature(self, key: bytes, begin: bytes) -> str:
        mac = hmac.new(key, begin, "sha256")
        with self._open() as file:
            while piece := file.read(_PIECE):
                mac.update(piece)
        return "v1," + base64.b64encode(mac.digest()).decode()


async def _begin_of(response: httpx2.Response) -> bytes:
    text = b""
    with contextlib.suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(_BODY):
            # As sent: a compressed body could grow without end.
            async for piece in response.aiter_raw():
                text += piece
                if len(text) >= _LONGEST_RESPONSE:
                    break
    return text


def _envelope(item: Item) -> str:
    envelope = {
        "sender": item.sender,
        "recipients": item.recipients,
        "arrival": attrs.asdict(item.arrival),
    }
    # DEL is the one control character that JSON does not escape.
    return json.dumps(envelope, separators=(",", ":")).replace("\x7f", "\\u007f")


def as_json(item: Item) -> bytes:
    """Return a message as JSON, with the keys that ``aiosmtpd --json`` has."""
    from datetime import UTC, datetime

    from aiosmtpd.mail import bodies
    from aiosmtpd.mail.source import InMemory
    from aiosmtpd.mail.tree import read

    with item.open() as file:
        root = read(InMemory(file.read()))
    found = bodies.of(root)
    arrival = item.arrival
    mail: dict[str, Any] = {
        "id": item.id,
        "attempts": item.attempts,
        "received": datetime.fromtimestamp(arrival.time, UTC).isoformat(timespec="milliseconds"),
        "client_address": arrival.client,
        "client_port": arrival.port,
        "client_name": arrival.helo,
        "tls": arrival.tls or None,
        "user": arrival.user or None,
        "sender": item.sender,
        "recipients": item.recipients,
        "mail_options": arrival.mail_options,
        "rcpt_options": arrival.rcpt_options,
        "headers": root.headers.fields,
        "subject": root.headers.get("Subject", ""),
        "text": bodies.text_of(found.shown, "text/plain"),
        "html": bodies.text_of(found.shown, "text/html"),
        "attachments": [
            {"name": part.name, "type": part.type, "size": len(part.content)}
            | {"base64": base64.b64encode(part.content).decode()}
            for part in found.attached
        ],
        "size": item.size,
    }
    return json.dumps(mail).encode()


def _pause(text: str | None) -> float | None:
    """Return the seconds of a Retry-After field, a number or a date: RFC 9110 section 10.2.3."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        seconds = float(text[:10])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


async def _is_public(host: str) -> bool:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    return any(ipaddress.ip_address(address).is_global for address in addresses)


def _one_line(text: str) -> str:
    line = " ".join(text[:_LONGEST_RESPONSE].split())[:_QUOTED]
    return "".join(c if c.isprintable() else "?" for c in line)
