"""HTTP Basic for the page and the API (RFC 7617), and keys for the images of a message.

The HTML of a message has an origin of its own, and browsers do not send a password for images to
another origin. The address of each of its images has a key, which opens that part alone.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Mapping
from secrets import token_bytes
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from aiosmtpd.inbox.answers import text
from aiosmtpd.inbox.paths import PROBES, path_of, refuse
from aiosmtpd.inbox.services import WebOptions

_SECRET = token_bytes(32)
_CHALLENGE = 'Basic realm="Login"'


class Auth:
    """Asks for a name and a password, but not for the probes and for images with their key.

    ``inbox.user`` is the name.
    """

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._users = options.users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._users is None or path_of(scope) in PROBES or _has_key(scope):
            await self._app(scope, receive, send)
            return
        user = user_of(Headers(scope=scope).get("authorization", ""), self._users)
        if user is not None:
            await self._app({**scope, "inbox.user": user}, receive, send)
            return
        answer = text("Unauthorized.\n", 401)
        answer.headers["www-authenticate"] = _CHALLENGE
        await refuse(scope, receive, send, answer)


def key_of(path: str) -> str:
    """Return the key that opens a path below the web root without a password."""
    return hmac.digest(_SECRET, path.encode(), "sha256").hex()[:40]


def _has_key(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    query = bytes(scope.get("query_string", b""))[:200].decode("latin-1")
    [key] = parse_qs(query).get("key", [""])[:1]
    return hmac.compare_digest(key.encode(), key_of(path_of(scope)).encode())


def user_of(value: str, users: Mapping[str, str]) -> str | None:
    """Return the user that the field Authorization proves to be, None without a proof.

    It takes the same time for a wrong name as for a wrong password.
    """
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = b64decode(credentials.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    known = users.get(name)
    is_right = hmac.compare_digest((known or "").encode(), password.encode())
    return name if is_right and known is not None else None
