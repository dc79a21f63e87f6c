"""The hooks that a handler may have, with their types."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from public import public

if TYPE_CHECKING:
    from aiosmtpd.protocol.session import Envelope, Session, _Missing
    from aiosmtpd.proxy_protocol import ProxyData
    from aiosmtpd.smtp import SMTP, BodyStream

Status: TypeAlias = "str | _Missing | Awaitable[str | _Missing]"
"""The reply to send, or MISSING for the server's own; the hook may be ``async def`` or ``def``."""


@public
class Handler(Protocol):
    """The hooks of a handler. All are optional: any object with some of them is a handler.

    Inherit from this class, which is empty at run time, to let a type checker compare your hooks
    with these. An ``async def`` hook runs in the event loop. A ``def`` hook runs in a worker
    thread, except ``handle_STARTTLS``, which runs in the event loop, as all do with
    ``sync_in_loop = True``.
    """

    if TYPE_CHECKING:

        def handle_CONNECT(
            self, server: SMTP, session: Session, envelope: Envelope, hostname: str, port: int
        ) -> Status:
            """Return the greeting (220) or a refusal, which closes the connection."""
            raise RuntimeError

        def handle_PROXY(
            self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
        ) -> bool | Awaitable[bool]:
            """Return True to accept a client with this PROXY header."""
            raise RuntimeError

        def handle_HELO(
            self, server: SMTP, session: Session, envelope: Envelope, hostname: str
        ) -> Status:
            """Set ``session.host_name`` and return the reply to HELO."""
            raise RuntimeError

        def handle_EHLO(
            self,
            server: SMTP,
            session: Session,
            envelope: Envelope,
            hostname: str,
            responses: list[str],
        ) -> list[str] | Awaitable[list[str]]:
            """Set ``session.host_name`` and return the lines of the reply to EHLO or LHLO."""
            raise RuntimeError

        def handle_STARTTLS(self, server: SMTP, session: Session, envelope: Envelope) -> bool:
            """Return True to accept the client's TLS settings; must not be a coroutine."""
            raise RuntimeError

        def handle_AUTH(
            self, server: SMTP, session: Session, envelope: Envelope, args: list[str]
        ) -> Status:
            """Return the reply to AUTH with these arguments; MISSING lets the mechanism run."""
            raise RuntimeError

        def handle_MAIL(
            self,
            server: SMTP,
            session: Session,
            envelope: Envelope,
            address: str,
            mail_options: list[str],
        ) -> Status:
            """Set ``envelope.mail_from`` and return the reply to MAIL."""
            raise RuntimeError

        def handle_RCPT(
            self,
            server: SMTP,
            session: Session,
            envelope: Envelope,
            address: str,
            rcpt_options: list[str],
        ) -> Status:
            """Append to ``envelope.rcpt_tos`` and return the reply to RCPT."""
            raise RuntimeError

        def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> Any:
            """Take the message and return the reply; LMTP also accepts a list of replies."""
            raise RuntimeError

        def handle_BODY(
            self, server: SMTP, session: Session, envelope: Envelope, body: BodyStream
        ) -> Awaitable[Any]:
            """Read the message as it arrives and return the reply; replaces ``handle_DATA``."""
            raise RuntimeError

        def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> Status:
            """Return the reply to RSET; *envelope* is already the new one."""
            raise RuntimeError

        def handle_NOOP(
            self, server: SMTP, session: Session, envelope: Envelope, arg: str | None
        ) -> Status:
            """Return the reply to NOOP."""
            raise RuntimeError

        def handle_VRFY(
            self, server: SMTP, session: Session, envelope: Envelope, address: str
        ) -> Status:
            """Return the reply to VRFY."""
            raise RuntimeError

        def handle_EXPN(
            self, server: SMTP, session: Session, envelope: Envelope, arg: str | None
        ) -> Status:
            """Return the reply to EXPN."""
            raise RuntimeError

        def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> Status:
            """Return the reply to QUIT, after which the connection closes."""
            raise RuntimeError

        def handle_DISCONNECT(
            self, server: SMTP, session: Session, envelope: Envelope, reason: str
        ) -> Awaitable[None] | None:
            """Called once for each connection, after it has ended."""
            raise RuntimeError

        def handle_exception(self, error: Exception) -> str | Awaitable[str]:
            """Return the reply to a command that raised *error*."""
            raise RuntimeError
