"""LMTP, for final delivery: like SMTP, with one reply for each recipient (RFC 2033)."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar

from public import public

from aiosmtpd.engine.commands import syntax
from aiosmtpd.engine.connection import OnDemand
from aiosmtpd.engine.transaction import Transaction, Verdict
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import Envelope
from aiosmtpd.smtp import ALLOWED_BEFORE_STARTTLS, SMTP

if TYPE_CHECKING:
    from aiosmtpd.engine.body import Source
    from aiosmtpd.engine.observer import Watch
    from aiosmtpd.engine.roles import ServerSide


class _Transaction(Transaction):
    """Transactions that have one reply for each RCPT that was accepted."""

    __slots__ = ("_expected",)

    def __init__(self, server: ServerSide) -> None:
        super().__init__(server)
        self._expected = 0

    @property
    def expected(self) -> int:
        """The number of replies to a message that has not been refused for some recipients."""
        return self._expected

    def spare(self, number: int) -> None:
        """Expect the handler to reply for so many of the recipients only."""
        self._expected = number

    async def add_recipient(
        self, address: str, options: list[str], meanings: dict[str, Any]
    ) -> None:
        """Take a forward-path; note how many entries the hook has kept, and what it answered."""
        server = self._server
        before = len(server.envelope.rcpt_tos)
        accepted = False
        try:
            await super().add_recipient(address, options, meanings)
            accepted = str(server._last_status).startswith("2")
        finally:
            envelope = server.envelope
            envelope._unlisted += accepted - (len(envelope.rcpt_tos) - before)

    async def _receive(self, source: Source, waited: float = 0.0) -> None:
        # Count now: a handler may change the list of recipients.
        envelope = self._server.envelope
        self._expected = max(1, len(envelope.rcpt_tos) + envelope._unlisted)
        await super()._receive(source, waited)


@public
class LMTP(SMTP):
    """The server side of one LMTP connection: LHLO instead of HELO and EHLO."""

    show_smtp_greeting = False
    protocol_family = "LMTP"
    transaction: _Transaction = OnDemand(_Transaction)  # type: ignore[assignment]
    _before_tls: ClassVar[set[str]] = ALLOWED_BEFORE_STARTTLS | {"LHLO"}

    @syntax("LHLO hostname")
    async def smtp_LHLO(self, arg: str | None) -> None:
        """Greet the client: RFC 2033 section 4.1."""
        await super().smtp_EHLO(arg)

    async def smtp_HELO(self, hostname: str | None) -> None:
        """Refuse HELO: RFC 2033 section 4.1."""
        raise Refused(replies.not_recognized("HELO"))

    async def smtp_EHLO(self, hostname: str | None) -> None:
        """Refuse EHLO: RFC 2033 section 4.1."""
        raise Refused(replies.not_recognized("EHLO"))

    async def _before_message(self, envelope: Envelope) -> None:
        """Ask the observers about each recipient: each has a reply of its own.

        If a hook has merged or expanded recipients, no entry belongs to one RCPT alone: then one
        question is about all.
        """
        if self._watch is None or not self._watch.methods.before:
            return
        if envelope._unlisted:
            await super()._before_message(envelope)
            return
        verdicts = self.transaction.verdicts = [
            await self._verdict(self._watch, recipient) for recipient in envelope.rcpt_tos
        ]
        spared = [verdict.refusal is None for verdict in verdicts]
        envelope._recipients[:] = compress(envelope._recipients, spared)
        envelope.rcpt_tos[:] = compress(envelope.rcpt_tos, spared)
        self.transaction.spare(sum(spared))
        if not any(spared):
            raise Refused(verdicts[0].refusal or replies.OK)

    async def _verdict(self, watch: Watch, recipient: str) -> Verdict:
        refusal = None
        try:
            await self._before("end-of-data", recipient)
        except Refused as refused:
            refusal = refused.reply
        deliver, watch.deliver = watch.deliver, None
        return Verdict(refusal, deliver)

    async def _answer_data(self, status: Any, envelope: Envelope) -> None:
        """Send one reply for each recipient: RFC 2033 section 4.2.

        *status* is one reply for all recipients, a list with one for each, or one for each joined
        by CRLF. A wrong number of replies is handled like an exception in the handler.
        """
        each = await self._replies_for(status, self.transaction.expected)
        await self.transaction.answer_each(each)

    async def _replies_for(self, status: Any, recipients: int) -> list[Reply]:
        try:
            return self._one_for_each(status, recipients)
        except ValueError as error:
            return [replies.from_hook(await self.handle_exception(error))] * recipients

    def _one_for_each(self, status: Any, recipients: int) -> list[Reply]:
        if isinstance(status, str):
            whole = replies.from_hook(status)
            # Lines that do not form one reply are several replies.
            many = "\r\n" in status.strip() and "\r\n" not in whole
            status = status.strip().split("\r\n") if many else [whole]
        statuses = list(status) if isinstance(status, list | tuple) else [status]
        if len(statuses) == 1:
            statuses *= recipients
        if len(statuses) != recipients:
            raise ValueError(f"{len(statuses)} replies for {recipients} recipients")
        return [replies.from_hook(one) for one in statuses]
