"""LMTP: SMTP's sibling for final delivery, with one reply for each recipient (RFC 2033)."""

from __future__ import annotations

from typing import Any, ClassVar

from public import public

from aiosmtpd.engine.auth import syntax
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import Envelope
from aiosmtpd.smtp import ALLOWED_BEFORE_STARTTLS, SMTP


@public
class LMTP(SMTP):
    """An LMTP server's side of one connection: LHLO greets, HELO and EHLO are unknown."""

    show_smtp_greeting = False
    protocol_family = "LMTP"
    _before_tls: ClassVar[set[str]] = ALLOWED_BEFORE_STARTTLS | {"LHLO"}

    @syntax("LHLO hostname")
    async def smtp_LHLO(self, arg: str | None) -> None:
        """RFC 2033 section 4.1."""
        await super().smtp_EHLO(arg)

    async def smtp_HELO(self, hostname: str | None) -> None:
        """RFC 2033 section 4.1: not in LMTP."""
        raise Refused(replies.not_recognized("HELO"))

    async def smtp_EHLO(self, hostname: str | None) -> None:
        """RFC 2033 section 4.1: not in LMTP."""
        raise Refused(replies.not_recognized("EHLO"))

    async def _answer_data(self, status: Any, envelope: Envelope) -> None:
        """Send one reply for each recipient: RFC 2033 section 4.2.

        *status* is one for all, a list with one for each, or as many joined by CRLF. A number
        that does not match the recipients is a fault of the handler's.
        """
        for one in await self._replies_for(status, len(envelope.rcpt_tos)):
            await self._answer(one)

    async def _replies_for(self, status: Any, recipients: int) -> list[Reply]:
        try:
            return self._one_for_each(status, recipients)
        except ValueError as error:
            return [replies.from_hook(await self.handle_exception(error))] * recipients

    def _one_for_each(self, status: Any, recipients: int) -> list[Reply]:
        if isinstance(status, str):
            whole = replies.from_hook(status)
            # Several lines that are no single reply are several replies.
            many = "\r\n" in status.strip() and "\r\n" not in whole
            status = status.strip().split("\r\n") if many else [whole]
        statuses = list(status) if isinstance(status, list | tuple) else [status]
        if len(statuses) == 1:
            statuses *= recipients
        if len(statuses) != recipients:
            raise ValueError(f"{len(statuses)} replies to {recipients} recipients")
        return [replies.from_hook(one) for one in statuses]
