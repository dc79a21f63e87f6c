"""A mail transaction: its paths, and the message from DATA or BDAT to the handler's reply."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from aiosmtpd.engine import diagnostics, hooks
from aiosmtpd.engine.body import BodyStream, ChunkSource, DotSource, GivenUp, IncompleteBody, Source
from aiosmtpd.engine.connection import Disconnected, log
from aiosmtpd.engine.wire import acknowledge
from aiosmtpd.protocol import replies, trace
from aiosmtpd.protocol.maildata import MailData
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import MISSING, Envelope, Session

if TYPE_CHECKING:
    from tempfile import SpooledTemporaryFile

    from aiosmtpd.engine.observer import Deliver, Watch
    from aiosmtpd.engine.roles import ServerSide

CHUNK_SYNTAX = "BDAT <octets> [LAST]"

DRIBBLE_GRACE = 60.0
"""Seconds of waiting for mail data before its rate is checked; less if ``timeout`` is less."""

FIRST_PIECES = 65_536
"""Bytes of a message whose pieces are acknowledged at once, for clients that write the header, or a
BDAT, alone. For all pieces this would take 4 % of the CPU of a message of 1 MB."""

_CHUNK = r"(?ai)([0-9]{1,18})( +LAST)?"


class Verdict:
    """The observers' answer to one recipient of a message in LMTP."""

    def __init__(self, refusal: Reply | None, deliver: Deliver | None) -> None:
        self.refusal = refusal
        self.deliver = deliver


class Transaction:
    """The mail transactions of one connection, one after another.

    The envelope of the connection keeps the paths and the mail data. This object has the code that
    reads them, and the counters that go on for the whole session.
    """

    __slots__ = ("_count", "_domains", "_server", "verdicts")

    def __init__(self, server: ServerSide) -> None:
        self._server = server
        self._count = 0
        self._domains: set[str] | None = None
        self.verdicts: list[Verdict] = []
        """The answers of the observers in LMTP, by recipient, until the replies are sent."""

    # MAIL and RCPT.

    async def begin(self, address: str, options: list[str], meanings: dict[str, Any]) -> None:
        """Run a MAIL whose arguments were checked: call the hook, keep the reverse-path, reply."""
        server = self._server
        server.envelope.mail_params = meanings
        if server._watch is not None:
            await server._before("mail", address)
        status = await server._call_handler_hook("MAIL", address, options)
        envelope = server.envelope
        if status is MISSING:
            envelope._begin(address, options)
            status = replies.SENDER_OK
        elif envelope.mail_from is None:
            envelope.smtp_utf8 = False
            line = "envelope.mail_from = address"
            diagnostics.warn_of_lacking(type(server.event_handler), "handle_MAIL", status, line)
        await server._answer(status)

    async def begin_plain(self, mailbox: str) -> None:
        """Take the reverse-path of a MAIL without parameters."""
        await self.begin(mailbox, [], {})

    async def add_plain_recipient(self, mailbox: str) -> None:
        """Take the forward-path of a RCPT without parameters."""
        await self.add_recipient(mailbox, [], {})

    async def add_recipient(
        self, address: str, options: list[str], meanings: dict[str, Any]
    ) -> None:
        """Run a RCPT whose arguments were checked: call the hook, keep the forward-path, reply."""
        server = self._server
        before = len(server.envelope.rcpt_tos)
        if server._watch is not None:
            await server._before("rcpt", address)
        status = await server._call_handler_hook("RCPT", address, options)
        envelope = server.envelope
        if status is MISSING:
            envelope._add_recipients([address], meanings)
            envelope.rcpt_options.extend(options)
            status = replies.RECIPIENT_OK
        elif len(envelope.rcpt_tos) > before:
            envelope._recipients.append((address, meanings) if meanings else address)
        else:
            line = "envelope.rcpt_tos.append(address)"
            diagnostics.warn_of_lacking(type(server.event_handler), "handle_RCPT", status, line)
        await server._answer(status)

    def count_transaction(self) -> None:
        """Count a transaction; raise Refused if there are too many: RFC 9422."""
        limit = self._server.limits.max_transactions
        if limit:
            if self._count >= limit:
                raise Refused(replies.TOO_MANY_TRANSACTIONS)
            self._count += 1

    def count_recipient(self, address: str) -> None:
        """Count a recipient and its domain; raise Refused if there are too many: RFC 9422."""
        limits, recipients = self._server.limits, self._server.envelope.rcpt_tos
        if limits.max_recipients and len(recipients) >= limits.max_recipients:
            raise Refused(replies.TOO_MANY_RECIPIENTS)
        if limits.max_recipient_domains:
            domain = address.rpartition("@")[2].lower()
            if self._domains is None:
                self._domains = set()
            if domain not in self._domains and len(self._domains) >= limits.max_recipient_domains:
                raise Refused(replies.TOO_MANY_DOMAINS)
            self._domains.add(domain)

    # The message.

    @property
    def expected(self) -> int:
        """The number of replies to a message."""
        return 1

    async def receive_data(self, asked: float | None = None) -> None:
        """Take the message after the 354 to DATA, sent at the time *asked*, or just now if None."""
        server = self._server
        data = MailData(
            server._receiver,
            server.line_length_limit,
            server.settings.data_size_limit,
            server.settings.bare_newline,
        )
        waited = 0.0 if asked is None else monotonic() - asked
        await self._receive(DotSource(self, data), waited)

    async def _receive(self, source: Source, waited: float = 0.0) -> None:
        """Take a message, hand it over and send the reply; this ends the transaction.

        *waited* is the number of seconds that the server has waited for the first byte so far.
        """
        server = self._server
        envelope = server.envelope
        server._meter.begin_message(waited)
        if server._watch is not None:
            server._watch.message_begins(waited)
        try:
            if waited > DRIBBLE_GRACE:
                self._keep_pace(0.0, 0)
            if hooks.find(server.event_handler, "handle_BODY") is not None:
                status = await self._stream(source)
            else:
                await self._keep(envelope, source)
                if server._watch is not None:
                    await self._before_handler(server._watch)
                status = await self._hand_over()
        except Refused as refused:
            status = refused.reply
        except GivenUp:
            return
        except Disconnected:
            raise
        except Exception as error:
            status = await server.handle_exception(error)
        finally:
            # Whatever happened, the next transaction inherits nothing.
            server._set_post_data_state()
        self._conclude(source, envelope, status)
        if server._watch is not None:
            await self._tell_and_answer(server._watch, source, envelope, status)
        elif source.last:
            await server._answer_data(status, envelope)
        else:
            # The message ended before its last chunk: one reply, in LMTP too.
            await server._answer(status)

    async def _before_handler(self, watch: Watch) -> None:
        """Ask the observers before the handler gets a message."""
        await self._server._before_message(self._server.envelope)
        watch.handed_over()

    async def _tell_and_answer(
        self, watch: Watch, source: Source, envelope: Envelope, status: Any
    ) -> None:
        """Tell the observers of a message and of its replies, then send the replies."""
        server = self._server
        verdicts, self.verdicts = self.verdicts, []
        if not source.last:
            verdicts = []
        each = await server._replies_for(status, self.expected if source.last else 1)
        if verdicts:
            of_handler = iter(each)
            each = [one.refusal or next(of_handler) for one in verdicts]
        watch.taken(envelope, source.size, each)
        await self.answer_each(each, verdicts)

    async def answer_each(self, each: Sequence[Reply], verdicts: Sequence[Verdict] = ()) -> None:
        """Send the replies to a message.

        A 421 ends the connection. It is sent once if no other reply follows; before other replies
        it does not keep them back.
        """
        server = self._server
        for number, reply in enumerate(each):
            if verdicts and server._watch is not None:
                server._watch.deliver = verdicts[number].deliver
            if reply.code == 421 and all(one.code == 421 for one in each[number:]):
                await server._answer(reply)
                return
            if not server._closing:
                await server.push(reply)
        for reply in each:
            if reply.code == 421:
                server._end_with(reply)

    def _conclude(self, source: Source, envelope: Envelope, status: Any) -> None:
        server = self._server
        if log.isEnabledFor(logging.INFO):
            text = "%r sent a message of %d bytes from %r to %d recipients: %.60r"
            what = source.size, envelope.mail_from, len(envelope.rcpt_tos), status
            server._log(logging.INFO, text, server._client, *what)
        if not _is_refusal(status):
            server._meter.message_accepted()

    async def _hand_over(self) -> Any:
        """Give the message to the handler; return its answer."""
        server = self._server
        # As in 1.4, an override of _call_handler_hook() sees DATA only if there is a hook.
        if (
            hooks.find(server.event_handler, "handle_DATA") is None
            or (status := await server._call_handler_hook("DATA")) is MISSING
        ):
            status = await server._process_message()
        return replies.OK if status is MISSING else status

    async def _keep(self, envelope: Envelope, source: Source) -> None:
        """Read a message into its envelope, or into a file that the envelope reads."""
        limit = self._server.settings.spill_size
        try:
            if limit is None:
                self._keep_in_memory(envelope, await source.read_all())
            else:
                await self._keep_or_spill(envelope, source, limit)
        finally:
            if self._server._watch is not None:
                self._server._watch.data_ended(source.size)

    def _keep_in_memory(self, envelope: Envelope, message: bytes) -> None:
        self._refuse_loops(message)
        envelope.original_content = message
        envelope.content = self._decode(message) if self._server.settings.decode_data else message

    async def _keep_or_spill(self, envelope: Envelope, source: Source, limit: int) -> None:
        """Keep a message of up to *limit* bytes in memory, and a larger one in a file."""
        from tempfile import SpooledTemporaryFile  # 3 ms, seldom needed

        # The Spill closes the file, or the code below. Here 0 would mean: never use the disk.
        file = SpooledTemporaryFile(limit or 1)  # noqa: SIM115
        size = 0
        try:
            while piece := await source.read():
                size += len(piece)
                if size > limit:
                    await _write(file, piece)
                else:
                    file.write(piece)
            file.seek(0)
            if size <= limit:
                self._keep_in_memory(envelope, file.read())
                file.close()
            else:
                self._refuse_loops(file.read(limit))
                from aiosmtpd.engine.spill import Spill  # seldom needed

                envelope._keep(Spill(file, size), self._decode)
        except BaseException as error:
            file.close()
            # The rest of the message must not be read as commands; finish() also raises the reason
            # if the body is not complete.
            await source.finish(False)
            if not isinstance(error, OSError):
                raise
            server = self._server
            server._log(logging.ERROR, "%r message not kept: %s", server._client, error)
            raise Refused(replies.NO_STORAGE) from error

    def _refuse_loops(self, message: bytes) -> None:
        limit = self._server.settings.limits.max_hops
        if limit and trace.is_looping(message, limit):
            raise Refused(replies.TOO_MANY_HOPS)

    async def _stream(self, source: Source) -> Any:
        """Give the message to ``handle_BODY`` while it arrives; return the answer."""
        wanted, status, watch = False, MISSING, self._server._watch
        body = BodyStream(source, self._server.loop)
        try:
            if watch is not None:
                await self._before_handler(watch)
            status = await self._server._call_new_hook("BODY", body)
            wanted = not _is_refusal(status)
        except IncompleteBody:
            # source.finish(), called by _finish() below, raises the reason.
            pass
        except Exception:
            await body.end()
            await self._finish(source, False, watch)
            raise
        await body.end()
        # A cancelled hook does not come here: the server stops, and waits for no mail data.
        await self._finish(source, wanted, watch)
        return replies.OK if status is MISSING else status

    async def _finish(self, source: Source, wanted: bool, watch: Watch | None) -> None:
        """Drop the unread rest of a message; tell the observers that its data has ended."""
        try:
            await source.finish(wanted)
        finally:
            if watch is not None:
                watch.data_ended(source.size)

    def _decode(self, message: bytes) -> str | bytes:
        settings = self._server.settings
        if not settings.decode_data:
            return message
        if settings.enable_SMTPUTF8:
            return message.decode("utf-8", "surrogateescape")
        try:
            return message.decode("ascii")
        except UnicodeDecodeError:
            raise Refused(replies.NOT_ASCII) from None

    # BDAT: RFC 3030 section 2.

    async def receive_chunk(self, arg: str | None) -> None:
        """Run BDAT; the first BDAT of a message runs until the message has ended."""
        server = self._server
        octets, last = self._parse_chunk(arg)
        limit = server.settings.data_size_limit or 0
        if 0 < 2 * limit < octets + (server._chunks.size if server._chunks is not None else 0):
            server.disconnect(replies.TOO_MUCH_MAIL_DATA)
            raise Disconnected
        if server._chunks is not None:
            server._chunks.go_on(octets, last)
            server._interrupted = True
            return
        if await server.check_helo_needed("EHLO") or await server.check_auth_needed("BDAT"):
            await self.drop_body(octets)
            return
        if not server.envelope.rcpt_tos:
            await self.drop_body(octets)
            raise Refused(replies.NEED_RCPT)
        server._chunks = ChunkSource(self, limit, octets, last)
        try:
            await self._receive(server._chunks)
        finally:
            server._chunks = None

    def _parse_chunk(self, arg: str | None) -> tuple[int, bool]:
        """Return a chunk's size and whether it is the last.

        If *arg* is malformed, close the connection and raise Disconnected.
        """
        if not (found := re.fullmatch(_CHUNK, arg or "")):
            # The size of the chunk is unknown, so the next command cannot be found.
            self._server.disconnect(replies.syntax_of(CHUNK_SYNTAX))
            raise Disconnected
        return int(found[1]), bool(found[2])

    # For the sources of mail data.

    def take_body(self, size: int) -> bytes:
        """Take at most *size* bytes of those that have arrived."""
        return self._server._receiver.take(size)

    async def more_of_message(self, size: int) -> None:
        """Wait for more of a message after its first *size* bytes; raise Disconnected.

        Disconnected means that the client has gone, or was too slow and got ``421 4.4.2``.
        """
        server = self._server
        if 0 <= size <= FIRST_PIECES:
            acknowledge(server._raw)
        began = monotonic()
        server._client_is_active = False
        server._reset_timeout(self.data_patience())
        await server._more()
        server._client_is_active = True
        self._keep_pace(monotonic() - began, size)

    def data_patience(self) -> float:
        """Return the seconds for which the server waits for mail data."""
        settings = self._server.settings
        return min(settings.timeout, settings.limits.data_timeout or inf)

    def _keep_pace(self, seconds: float, size: int) -> None:
        grace = min(self._server.settings.timeout, DRIBBLE_GRACE)
        if self._server._meter.is_dribble(seconds, size, grace):
            self._server.disconnect(replies.TIMED_OUT)
            raise Disconnected

    async def push(self, reply: str) -> None:
        """Send the reply to a chunk."""
        await self._server.push(reply)

    def give_up(self, reply: str) -> None:
        """Send a reply and close the connection."""
        self._server.disconnect(reply)

    async def drop_body(self, size: int) -> None:
        """Read and drop *size* bytes; raise Disconnected if the client goes."""
        self._server._meter.begin_message()
        left = size
        while left:
            if piece := self._server._receiver.take(left):
                left -= len(piece)
            else:
                await self.more_of_message(size - left)

    async def run_between_chunks(self, size: int, waiting: Callable[[], bool]) -> None:
        """Run commands while *waiting* returns True; raise Disconnected if the connection ends.

        *size* bytes of the message have come. The time counts for the rate of the mail data, so a
        client cannot spread a message over hours.
        """
        server = self._server
        began = monotonic()
        while waiting():
            if server._closing:
                raise Disconnected
            if await server._run_commands():
                await server._more()
            server._interrupted = False
        self._keep_pace(monotonic() - began, size)


def trace_fields(server: ServerSide, session: Session, envelope: Envelope) -> bytes:
    """Return Return-Path and Received for a message, with CRLFs: RFC 5321 section 4.4."""
    return trace.fields(
        envelope.mail_from,
        envelope.rcpt_tos,
        client=session.host_name,
        address=session.client_address[0].partition("%")[0],
        server=server.hostname,
        protocol=trace.protocol_of(
            server.protocol_family,
            extended=session.extended_smtp,
            utf8=envelope.smtp_utf8,
            tls=session.ssl is not None,
            authenticated=bool(session.authenticated),
        ),
        identifier=envelope.received_id or server.session_id,
        date=_date(int(time())),
    )


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """Return the date of RFC 5322 for a time since 1970. All messages of a second have the same."""
    from email.utils import formatdate  # seldom needed

    return formatdate(second, localtime=True)


def _is_refusal(status: Any) -> bool:
    text = status.decode("latin-1") if isinstance(status, bytes) else str(status)
    return text[:1] in ("4", "5")


async def _write(file: SpooledTemporaryFile[bytes], piece: bytes) -> None:
    """Write in a worker thread; if the await is cancelled, close *file* when the thread is done.

    The caller cannot: a write that goes on may replace the memory of *file* by an open file.
    """

    def close(writing: asyncio.Future[int]) -> None:
        writing.exception()
        file.close()

    writing = asyncio.ensure_future(hooks.in_worker(file.write, piece))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        writing.add_done_callback(close)
        raise
