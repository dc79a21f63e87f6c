"""Users and their passwords, checked as an ``authenticator``."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from typing import Any

from aiosmtpd.protocol.session import AuthResult, LoginPassword


class Users:
    """An ``authenticator`` that knows users; with *pairs* of None it accepts any user.

    *pairs* are user names and passwords. :attr:`names` are the users, None if any is accepted.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] | None) -> None:
        self._passwords: dict[bytes, bytes] = {}
        self.names: list[str] | None = None
        if pairs is not None:
            known = dict(pairs)
            self.names = list(known)
            self._passwords = {_encoded(user): _encoded(known[user]) for user in known}

    def __call__(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        """Check a user's password; ``SMTP`` calls its ``authenticator`` so."""
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        right = self.names is None
        if not right:
            # An unknown user takes as long as a wrong password.
            known = self._passwords.get(data.login, secrets.token_bytes())
            right = hmac.compare_digest(known, data.password)
        return AuthResult(success=right, handled=False, auth_data=data if right else None)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
