"""Who may send by the command line: ``--auth``, ``--auth-file``, ``--auth-any``."""

from __future__ import annotations

import hmac
import secrets
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiosmtpd.cli.options import user_and_password
from aiosmtpd.protocol.session import AuthResult, LoginPassword

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP


class Users:
    """Passwords by user name; without any, every user and password is right.

    ``require`` tells whether mail is refused without AUTH.
    """

    def __init__(self, pairs: list[tuple[str, str]] | None, *, require: bool) -> None:
        self._passwords: dict[bytes, bytes] | None = None
        if pairs is not None:
            self._passwords = {
                user.encode("utf-8", "surrogateescape"): secret.encode("utf-8", "surrogateescape")
                for user, secret in pairs
            }
        self.require = require

    @property
    def about(self) -> str:
        """What the banner says of them."""
        if self._passwords is None:
            return "any password"
        count = len(self._passwords)
        return f"{count} user{'s' if count > 1 else ''}"

    @property
    def example(self) -> str:
        """A user for an example."""
        return next(iter(self._passwords or [b"me"])).decode("utf-8", "backslashreplace")

    def guard(self, server: SMTP, *, tls: bool) -> None:
        """Let a new connection know these users; *tls* keeps passwords out of the clear."""
        # Not by keywords: their advice is for programs, and comes at each connection.
        server._authenticator = self
        server._auth_required = self.require
        server._auth_require_tls = tls

    def __call__(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        """Check what a client says, as ``SMTP``'s ``authenticator`` does."""
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        right = self._passwords is None
        if self._passwords is not None:
            # An unknown user takes as long as a wrong password.
            known = self._passwords.get(data.login, secrets.token_bytes())
            right = hmac.compare_digest(known, data.password)
        return AuthResult(success=right, handled=False, auth_data=data if right else None)


def users_of(parser: ArgumentParser, settings: Namespace) -> Users | None:
    """Return the users that the options name, None without any; a usage error if they are wrong."""
    pairs = list(settings.auth or ())
    if settings.auth_file:
        if settings.auth_any:
            parser.error("argument --auth-any: not allowed with argument --auth-file")
        pairs += _read(parser, settings.auth_file)
    if settings.auth_any:
        return Users(None, require=settings.require_auth)
    return Users(pairs, require=settings.require_auth) if pairs else None


def _read(parser: ArgumentParser, path: str) -> list[tuple[str, str]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        parser.error(f"Users file {path}: {reason.lower()}")
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                pairs.append(user_and_password(line))
            except ArgumentTypeError as error:
                parser.error(f"Users file {path}, line {number}: {error}")
    if not pairs:
        parser.error(f"Users file {path} has no user: write USER:PASSWORD in a line")
    return pairs
