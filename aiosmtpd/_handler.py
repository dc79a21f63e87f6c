"""Every hook that a handler may have, with its types."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from public import public

if TYPE_CHECKING:
    from aiosmtpd.protocol.session import Envelope, Session, _Missing
    from aiosmtpd.proxy_protocol import ProxyData
    from aiosmtpd.smtp import SMTP, BodyStream

Status: TypeAlias = "str | _Missing | Awaitable[str | _Missing]"
"""The reply to send, or MISSING for the server's own; ``async def`` or ``def``."""


@public
class Handler(Protocol):
    """The hooks, all optional: a handler is any object with some of them.

    Inherit from this to have a type checker compare your hooks with these; there is nothing in
    it when the program runs. An ``async def`` hook runs in the event loop, a ``def`` in a worker
    thread (but ``handle_STARTTLS``; and in the loop with ``sync_in_loop = True``).
    """

    if TYPE_CHECKING:

        def handle_CONNECT(
            self, server: SMTP, session: Session, envelope: Envelope, hostname: str, port: int
        ) -> Status:
            """Return the greeting (220), or a refusal, which closes the connection."""
            raise RuntimeError

        def handle_PROXY(
            self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
        ) -> bool | Awaitable[bool]:
            """Say whether a client with this PROXY header is let in."""
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
            """Say whether the TLS that has been set up is good enough; never a coroutine."""
            raise RuntimeError

        def handle_AUTH(
            self, server: SMTP, session: Session, envelope: Envelope, args: list[str]
        ) -> Status:
            """Return the reply to AUTH with these words; MISSING lets the mechanism go on."""
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
            """Take the message and return the reply; in LMTP maybe a list, one per recipient."""
            raise RuntimeError

        def handle_BODY(
            self, server: SMTP, session: Session, envelope: Envelope, body: BodyStream
        ) -> Awaitable[Any]:
            """Read the message while it arrives and return the reply; in place of handle_DATA."""
            raise RuntimeError

        def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> Status:
            """Return the reply to RSET; the envelope is new already."""
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
            """Return the reply to QUIT, behind which the connection closes."""
            raise RuntimeError

        def handle_DISCONNECT(
            self, server: SMTP, session: Session, envelope: Envelope, reason: str
        ) -> Awaitable[None] | None:
            """Take note that the connection has ended; called once for each connection."""
            raise RuntimeError

        def handle_exception(self, error: Exception) -> str | Awaitable[str]:
            """Return the reply to a command that raised this."""
            raise RuntimeError
