"""A mail transaction: its paths, and the message from DATA or BDAT to the handler's reply."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import Any

from aiosmtpd.engine import diagnostics as advice, hooks
from aiosmtpd.engine.arguments import MailArguments
from aiosmtpd.engine.body import BodyStream, ChunkSource, DotSource, GivenUp, IncompleteBody, Source
from aiosmtpd.engine.connection import Disconnected, log
from aiosmtpd.engine.spill import Spill
from aiosmtpd.engine.worker import in_worker
from aiosmtpd.legacy import forms as _legacy
from aiosmtpd.protocol import replies, trace
from aiosmtpd.protocol.maildata import MailData
from aiosmtpd.protocol.replies import Refused
from aiosmtpd.protocol.session import MISSING, Envelope, Session

CHUNK_SYNTAX = "BDAT <octets> [LAST]"

DRIBBLE_GRACE = 60.0
"""Seconds of mail data before its rate is looked at; less where ``timeout`` is."""

_CHUNK = re.compile(r"([0-9]{1,18})( +LAST)?", re.ASCII | re.IGNORECASE)


class MailTransfer(MailArguments):
    """A connection that takes messages."""

    __slots__ = ("_bare_newline", "_decode_data", "_legacy", "data_size_limit", "spill_size")

    protocol_family = "SMTP"

    _bare_newline: str
    _decode_data: bool
    _legacy: _legacy.Legacy
    data_size_limit: int | None
    spill_size: int | None

    async def _begin_transaction(
        self, address: str, options: list[str], meanings: dict[str, Any]
    ) -> None:
        """Take the reverse-path of a MAIL that is in order, if the hook wants it."""
        self.envelope.mail_params = meanings
        status = await self._call_handler_hook("MAIL", address, options)
        envelope = self.envelope
        if status is MISSING:
            envelope.mail_from = address
            envelope.mail_options.extend(options)
            status = replies.SENDER_OK
        elif envelope.mail_from is None:
            line = "envelope.mail_from = address"
            advice.warn_of_lacking(type(self.event_handler), "handle_MAIL", status, line)
        await self._answer(status)

    async def _add_recipient(
        self, address: str, options: list[str], meanings: dict[str, Any]
    ) -> None:
        """Take the forward-path of a RCPT that is in order, if the hook wants it."""
        before = len(self.envelope.rcpt_tos)
        status = await self._call_handler_hook("RCPT", address, options)
        envelope = self.envelope
        if status is MISSING:
            envelope.rcpt_tos.append(address)
            envelope.rcpt_options.extend(options)
            status = replies.RECIPIENT_OK
        if len(envelope.rcpt_tos) > before:
            envelope._recipients.append((address, meanings) if meanings else address)
        else:
            line = "envelope.rcpt_tos.append(address)"
            advice.warn_of_lacking(type(self.event_handler), "handle_RCPT", status, line)
        await self._answer(status)

    def _receive_data(self) -> Awaitable[None]:
        """Take the message behind a DATA that has been answered."""
        data = MailData(
            self._receiver, self.line_length_limit, self.data_size_limit, self._bare_newline
        )
        return self._transfer(DotSource(self, data))

    async def _transfer(self, source: Source) -> None:
        """Take the message of a transaction and answer it; the transaction is over then."""
        envelope = self.envelope
        self._meter.begin_message()
        try:
            status = await self._take_message(source, envelope)
        except Refused as refused:
            status = refused.reply
        except GivenUp:
            return
        except Disconnected:
            raise
        except Exception as error:
            status = await self.handle_exception(error)
        finally:
            # Whatever happened, the next transaction inherits nothing: limits.md L22.
            self._set_post_data_state()
        if log.isEnabledFor(logging.INFO):
            text = "%r sent a message of %d octets from %r to %d recipients: %.60r"
            what = source.size, envelope.mail_from, len(envelope.rcpt_tos), status
            self._log(logging.INFO, text, self.session.peer, *what)
        if not _is_refusal(status):
            self._meter.message_accepted()
        if source.last:
            await self._answer_data(status, envelope)
        else:
            # A chunk that is not the last one has one reply in LMTP too.
            await self._answer(status)

    async def _take_message(self, source: Source, envelope: Envelope) -> Any:
        """Hand the message over; return the answer."""
        if hooks.find(self.event_handler, "handle_BODY") is not None:
            return await self._stream_message(source)
        if self.spill_size is None:
            self._keep(envelope, await source.read_all())
        else:
            await self._keep_or_spill(envelope, source, self.spill_size)
        status = await self._call_handler_hook("DATA")
        if status is MISSING:
            status = await self._legacy.process_message(self)  # type: ignore[arg-type]
        return replies.OK if status is MISSING else status

    def _keep(self, envelope: Envelope, message: bytes) -> None:
        self._refuse_circles(message)
        envelope.original_content = message
        envelope.content = self._decode(message)

    async def _keep_or_spill(self, envelope: Envelope, source: Source, limit: int) -> None:
        """Keep a message of up to *limit* octets in memory, and a larger one in a file."""
        from tempfile import SpooledTemporaryFile  # 3 ms, seldom needed

        # Closed by the Spill, or below.
        file = SpooledTemporaryFile(limit or 1)  # noqa: SIM115 - 0 would mean: never to the disk
        size = 0
        try:
            while piece := await source.read():
                size += len(piece)
                if size > limit:
                    await in_worker(file.write, piece)
                else:
                    file.write(piece)
            file.seek(0)
            if size <= limit:
                self._keep(envelope, file.read())
                file.close()
            else:
                self._refuse_circles(file.read(limit))
                envelope._keep(Spill(file, size), self._decode)
        except BaseException as error:
            file.close()
            # What is left is no command; why the body is not complete, this tells.
            await source.finish(False)
            if not isinstance(error, OSError):
                raise
            self._log(logging.ERROR, "%r message not kept: %s", self.session.peer, error)
            raise Refused(replies.NO_STORAGE) from error

    def _refuse_circles(self, message: bytes) -> None:
        if self.limits.max_hops and trace.hops(message) > self.limits.max_hops:
            raise Refused(replies.TOO_MANY_HOPS)

    async def _stream_message(self, source: Source) -> Any:
        wanted, status = False, MISSING
        try:
            status = await self._call_handler_hook("BODY", BodyStream(source))
            wanted = not _is_refusal(status)
        except IncompleteBody:
            # What is wrong with it, finish() tells.
            pass
        finally:
            await source.finish(wanted)
        return replies.OK if status is MISSING else status

    def trace_fields(self, session: Session, envelope: Envelope) -> bytes:
        """Return Return-Path and Received for a message, with CRLFs: RFC 5321 section 4.4."""
        from email.utils import formatdate  # seldom needed

        return trace.fields(
            envelope.mail_from,
            envelope.rcpt_tos,
            client=session.host_name,
            address=session.client_address[0].partition("%")[0],
            server=self.hostname,
            protocol=trace.protocol_of(
                self.protocol_family,
                extended=session.extended_smtp,
                utf8=envelope.smtp_utf8,
                tls=session.ssl is not None,
                authenticated=bool(session.authenticated),
            ),
            identifier=self.session_id,
            date=formatdate(localtime=True),
        )

    def _decode(self, message: bytes) -> str | bytes:
        if not self._decode_data:
            return message
        if self.enable_SMTPUTF8:
            return message.decode("utf-8", "surrogateescape")
        try:
            return message.decode("ascii")
        except UnicodeDecodeError:
            raise Refused(replies.NOT_ASCII) from None

    def _answer_data(self, status: Any, envelope: Envelope) -> Awaitable[None]:
        """Send the reply to a whole transaction."""
        return self._answer(status)

    def _set_post_data_state(self) -> None:
        """Forget the transaction that has ended."""
        self._renew_envelope()

    def _set_rset_state(self) -> None:
        """Forget the transaction that the client gave up."""
        self._renew_envelope()
        if self._chunks is not None:
            self._chunks.give_up()
            self._interrupted = True

    # BDAT: RFC 3030 section 2.

    async def receive_chunk(self, arg: str | None) -> None:
        """Take a chunk; the first one runs until the message has come to its end."""
        octets, last = self._parse_chunk(arg)
        limit = self.data_size_limit or 0
        if 0 < 2 * limit < octets + (self._chunks.size if self._chunks is not None else 0):
            self.disconnect(replies.TOO_MUCH_MAIL_DATA)
            raise Disconnected
        if self._chunks is not None:
            self._chunks.go_on(octets, last)
            self._interrupted = True
            return
        if await self.check_helo_needed("EHLO") or await self.check_auth_needed("BDAT"):
            await self.drop_body(octets)
            return
        if not self.envelope.rcpt_tos:
            await self.drop_body(octets)
            raise Refused(replies.NEED_RCPT)
        self._chunks = ChunkSource(self, limit, octets, last)
        try:
            await self._transfer(self._chunks)
        finally:
            self._chunks = None

    def _parse_chunk(self, arg: str | None) -> tuple[int, bool]:
        """Return a chunk's size and whether it is the last; raises Disconnected for neither."""
        if not (found := _CHUNK.fullmatch(arg or "")):
            # Nobody knows how many octets follow that are no commands.
            self.disconnect(replies.syntax_of(CHUNK_SYNTAX))
            raise Disconnected
        return int(found[1]), bool(found[2])

    # What sources ask of their connection.

    def take_body(self, octets: int) -> bytes:
        """Take at most *octets* octets of what has arrived."""
        return self._receiver.take(octets)

    async def more_of_message(self, octets: int) -> None:
        """Wait for more of a message of which *octets* have come; raises Disconnected.

        A client that is too slow is answered ``421 4.4.2``: limits.md L2.
        """
        began = monotonic()
        self._client_is_active = False
        self._reset_timeout(self._data_patience())
        await self._more()
        self._client_is_active = True
        self._keep_pace(monotonic() - began, octets)

    def _data_patience(self) -> float:
        """Return for how many seconds mail data is waited for."""
        return min(self._timeout_duration, self.limits.data_timeout or inf)

    def _keep_pace(self, seconds: float, octets: int) -> None:
        grace = min(self._timeout_duration, DRIBBLE_GRACE)
        if self._meter.is_dribble(seconds, octets, grace):
            self.disconnect(replies.TIMED_OUT)
            raise Disconnected

    async def drop_body(self, octets: int) -> None:
        """Read octets and forget them; raises Disconnected."""
        self._meter.begin_message()
        left = octets
        while left:
            if piece := self._receiver.take(left):
                left -= len(piece)
            else:
                await self.more_of_message(octets - left)

    async def run_between_chunks(self, octets: int, waiting: Callable[[], bool]) -> None:
        """Run commands until nobody waits for a chunk any more; raises Disconnected.

        Of a message of which *octets* have come: a client cannot make it last by many chunks.
        """
        began = monotonic()
        while waiting():
            if self._closing:
                raise Disconnected
            if await self._run_commands():
                await self._more()
            self._interrupted = False
        self._keep_pace(monotonic() - began, octets)


def _is_refusal(status: Any) -> bool:
    text = status.decode("latin-1") if isinstance(status, bytes) else str(status)
    return text[:1] in ("4", "5")
