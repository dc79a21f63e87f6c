"""The checks before all routes: which hosts and which pages may ask, and the headers of answers."""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiosmtpd.inbox.answers import text
from aiosmtpd.inbox.paths import PROBES, path_of, refuse
from aiosmtpd.inbox.services import WebOptions
from aiosmtpd.protocol import networks

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'self';"
    " frame-ancestors 'none'"
)
"""The Content-Security-Policy of all answers that have none of their own."""

PERMISSIONS = "camera=(), microphone=(), geolocation=(), clipboard-read=()"

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_LOCAL = (".localhost", ".local", ".internal", ".test", ".lan", ".home.arpa")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_@~-][A-Za-z0-9_.@~-]*)*/?")
_PART = re.compile(r"/api/v1/message/[0-9A-Za-z]{22}/part/[0-9.]+")
_METHODS = "GET, POST, DELETE, PUT, OPTIONS"
_PORTS = {"http": ":80", "https": ":443"}


class SafeHeaders:
    """Adds the headers of the wall to each answer."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", PAGE_POLICY)
                headers.setdefault("cache-control", "no-store")
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers["cross-origin-opener-policy"] = "same-origin"
                headers["permissions-policy"] = PERMISSIONS
                # Links in a message would make lookups otherwise.
                headers["x-dns-prefetch-control"] = "off"
            await send(message)

        await self._app(scope, receive, send_safely)


class Proxies:
    """Believes what trusted proxies say of the client, the host and the path before the root."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._trusted = networks.parse(options.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if self._trusted and client and self._is_trusted(client[0]):
            scope = self._as_seen_outside(scope)
        await self._app(scope, receive, send)

    def _is_trusted(self, host: str) -> bool:
        try:
            return networks.holds(self._trusted, (host, 0))
        except ValueError:
            return False

    def _as_seen_outside(self, scope: Scope) -> Scope:
        headers = MutableHeaders(raw=list(scope["headers"]))
        scope = {**scope, "headers": headers.raw}
        prefix = headers.get("x-forwarded-prefix", "").partition(",")[0].strip()
        if len(prefix) < 200 and _PREFIX.fullmatch(prefix):
            scope["inbox.prefix"] = prefix.rstrip("/")
        if host := headers.get("x-forwarded-host", "").partition(",")[0].strip():
            headers["host"] = host
        for address in reversed(headers.get("x-forwarded-for", "").split(",")):
            host = address.strip()
            if not _is_address(host):
                break
            scope["client"] = (host, 0)
            if not self._is_trusted(host):
                break
        return scope


class HostCheck:
    """Refuses names in Host that another site could have pointed to this server."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._allowed = frozenset(name.lower().rstrip(".") for name in options.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = Headers(scope=scope).getlist("host")
        if path_of(scope) in PROBES or (len(hosts) < 2 and self._allows("".join(hosts))):
            await self._app(scope, receive, send)
            return
        advice = "This host name is not served here. To allow it, start with --allow-host NAME\n"
        await refuse(scope, receive, send, text(advice, 421))

    def _allows(self, host: str) -> bool:
        if "*" in self._allowed or not host:
            # All browsers send a host.
            return True
        name = _name_of(host)
        if name is None:
            return False
        if name in self._allowed or host.lower() in self._allowed or _is_address(name):
            return True
        # A name without a dot is that of a service in a network of containers.
        return "." not in name or name.endswith(_LOCAL)


def _name_of(host: str) -> str | None:
    """Return the name or address in a Host field, in lower case; None if it cannot be."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().rstrip(".") if found else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OriginCheck:
    """Refuses requests of other sites' pages, and answers OPTIONS for those that are allowed."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._all = "*" in options.origins
        self._allowed = frozenset(map(_authority, options.origins)) - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        may = self._may(scope, headers)
        if not (may or _is_image(scope, headers)):
            await refuse(scope, receive, send, text("Pages of other origins may not do this", 403))
            return
        if scope["type"] == "websocket" or not path_of(scope).startswith("/api/"):
            await self._app(scope, receive, send)
            return

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.add_vary_header("Origin")
                if may and "origin" in headers:
                    answer["access-control-allow-origin"] = headers["origin"]
                    answer["access-control-allow-methods"] = _METHODS
                    answer["access-control-allow-headers"] = "*"
            await send(message)

        if scope["method"] == "OPTIONS":
            await text("")(scope, receive, send_with_origin)
            return
        await self._app(scope, receive, send_with_origin)

    def _may(self, scope: Scope, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if origins:
            return self._all or all(self._is_allowed(one, headers) for one in origins)
        # Images of another site's page have no origin, and links that a person follows neither.
        if headers.get("sec-fetch-site") == "cross-site":
            navigates = headers.get("sec-fetch-mode") == "navigate"
            return navigates and scope.get("method") in ("GET", "HEAD")
        return True

    def _is_allowed(self, origin: str, headers: Headers) -> bool:
        authority = _authority(origin)
        own = _without_usual_port(headers.get("host", ""), origin)
        return bool(authority) and (authority == own or authority in self._allowed)


def _is_image(scope: Scope, headers: Headers) -> bool:
    """Return True for an image in the HTML of a message: that page has no origin."""
    return (
        scope.get("method") in ("GET", "HEAD")
        and headers.get("sec-fetch-dest") == "image"
        and headers.get("origin", "null") == "null"
        and _PART.fullmatch(path_of(scope)) is not None
    )


def _authority(origin: str) -> str:
    """Return host and port of an origin in lower case, ``""`` if it has none."""
    scheme, colon, rest = origin.partition("://")
    if not colon or scheme.lower() not in _PORTS:
        return ""
    return _without_usual_port(rest.removesuffix("/"), origin)


def _without_usual_port(host: str, origin: str) -> str:
    """Return a host with its port, without that of the origin's scheme."""
    return host.lower().removesuffix(_PORTS.get(origin.partition("://")[0].lower(), ""))
