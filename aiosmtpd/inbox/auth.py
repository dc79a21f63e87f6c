"""HTTP Basic for the page and the API: RFC 7617."""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from aiosmtpd.inbox.answers import text
from aiosmtpd.inbox.paths import PROBES, path_of, refuse
from aiosmtpd.inbox.services import WebOptions

_CHALLENGE = 'Basic realm="Login"'


class Auth:
    """Asks for a name and a password, but not for the probes. ``inbox.user`` is the name."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._users = options.users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._users is None or path_of(scope) in PROBES:
            await self._app(scope, receive, send)
            return
        user = user_of(Headers(scope=scope).get("authorization", ""), self._users)
        if user is not None:
            await self._app({**scope, "inbox.user": user}, receive, send)
            return
        answer = text("Unauthorized.\n", 401)
        answer.headers["www-authenticate"] = _CHALLENGE
        await refuse(scope, receive, send, answer)


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
