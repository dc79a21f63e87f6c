"""The server of an inbox, in a thread of its own."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.observers.faults import Faults
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from aiosmtpd.testing.transcript import Kept

PROTOCOLS: dict[str, type[SMTP]] = {"smtp": SMTP, "lmtp": LMTP}


class Catcher:
    """A handler that accepts each message and passes it to :attr:`take`, a function or None."""

    def __init__(self) -> None:
        self.take: Callable[[DecodedMail], None] | None = None

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Pass the message on before the reply is sent."""
        if self.take is not None:
            self.take(DecodedMail(session, envelope))
        return "250 OK"


class InboxServer(Controller):
    """A server with the options of an inbox, which records a transcript."""

    def __init__(
        self,
        hostname: str,
        port: int,
        *,
        protocol: str,
        context: ssl.SSLContext | None,
        starttls: bool,
        users: Mapping[str, str],
        parameters: dict[str, Any],
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is smtp or lmtp, not {protocol!r}")
        self.catcher = Catcher()
        self.transcript = Kept()
        parameters = {"extensions": "modern", **parameters}
        if starttls:
            parameters = {"require_starttls": True, "tls_context": context, **parameters}
        # Without a name, the server would look its own up in the DNS, which may be slow.
        parameters.setdefault("server_hostname", parameters.pop("hostname", "localhost"))
        super().__init__(
            self.catcher,
            hostname,
            port,
            ssl_context=None if starttls else context,
            shutdown_timeout=0.5,
            **parameters,
        )
        self._encrypted = context is not None
        self._authenticator = _authenticator(users) if users else None
        self.faults = Faults()
        self._protocol = faulty(shown(PROTOCOLS[protocol], self.transcript), self.faults)

    def factory(self) -> SMTP:
        """Make the object for a connection."""
        server = self._protocol(self.handler, **self.SMTP_kwargs)
        if self._authenticator is not None:
            # Not as keywords, which warn about passwords without TLS: harmless in a test.
            server._authenticator = self._authenticator
            server._auth_required = True
            server._auth_require_tls = self._encrypted
        return server


def _authenticator(users: Mapping[str, str]) -> Callable[..., AuthResult]:
    passwords = {user.encode(): password.encode() for user, password in users.items()}

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        known = passwords.get(data.login) if isinstance(data, LoginPassword) else None
        right = known is not None and hmac.compare_digest(known, data.password)
        return AuthResult(success=right, handled=False, auth_data=data if right else None)

    return check
