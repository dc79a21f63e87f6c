"""Receive messages into the store: a handler and an observer of the server."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterable
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

from public import public

from aiosmtpd.inbox import wire
from aiosmtpd.inbox.store import (
    LARGE,
    Attempt,
    Event,
    Line,
    Received,
    SessionLog,
    Store,
    StoreError,
)
from aiosmtpd.mail.terminal import safe_line
from aiosmtpd.observers.transcript import Dialogue, Transcript
from aiosmtpd.protocol.replies import Reply
from aiosmtpd.protocol.trace import protocol_of

LONGEST = 64 << 10
"""Characters of the dialogue that is kept of a session."""

LONGEST_TRANSACTION = 16 << 10
"""Characters of the dialogue that is kept of each message."""

LONGEST_LINE = 2000
"""Characters of a line that are kept."""

MOST_ATTEMPTS = 100
"""Refused attempts of one session that are kept."""

MOST_NAMED = 10
"""Recipients that a refused attempt at DATA names."""

PIPELINED = "pipelined"
"""The note after a command that came before the reply to the last one."""

_CUT = f"the dialogue is cut here: it has more than {LONGEST >> 10} KiB"
_WRITTEN = 1 << 18
"""Bytes of a large message that are written at once."""

_FAILED = "451 4.3.0 The inbox cannot store the message, try again later"
_STAGES = {
    "HELO": "EHLO",
    "EHLO": "EHLO",
    "LHLO": "EHLO",
    "STARTTLS": "STARTTLS",
    "AUTH": "AUTH",
    "MAIL": "MAIL",
    "RCPT": "RCPT",
    "DATA": "DATA",
    "BDAT": "DATA",
}
_ENDS = frozenset({"RSET", "EHLO", "HELO", "LHLO"})
_PATH = re.compile(r"(?i)[^:]*:\s*(?:<([^>]*)>?|(\S*))")

log = logging.getLogger("mail.log")


@public
class Intake(Dialogue):
    """Handler and observer in one: give the same object as both.

    ``SMTP(intake, observers=[..., intake])``. It stores each message before its 250, and keeps for
    each session its dialogue. Refused MAIL, RCPT, DATA, AUTH, EHLO and STARTTLS, failed handshakes
    and refused connections become attempts. A session without a message and without a refusal is
    not stored. If the store fails, the client gets 451 4.3.0.
    """

    _sessions: dict[Any, Log]  # type: ignore[assignment]

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    # The handler.

    async def handle_BODY(self, server: Any, session: Any, envelope: Any, body: Any) -> Any:
        """Store a message as it arrives; reply with its id, as ``250 2.0.0 Ok: queued as ID``."""
        kept = self._sessions.get(server)
        try:
            content, size = await _collected(self._store, body)
            received = _received(server, session, envelope, content, kept, size)
            if kept is not None:
                kept.matters(self._store)
            taken = self._store.take(received)
            id = taken.result() if taken.done() else await asyncio.wrap_future(taken)
            reply = f"250 2.0.0 Ok: queued as {id}"
        except StoreError as error:
            log.error("%r the inbox cannot store a message: %s", session.peer, error)
            reply = _FAILED
        return [reply] * len(envelope.rcpt_tos) if server.protocol_family == "LMTP" else reply

    # For the faults and the API.

    def fault(self, server: Any, rule: str) -> None:
        """Note that a fault strikes in the connection *server*, before the refusal it makes."""
        if (kept := self._sessions.get(server)) is not None:
            kept.fault = rule
            kept.note(f"fault: {rule}")
            number = kept.session.number
            self._store.publish(Event("fault", wire.dump({"session": number, "rule": rule})))

    def log_of(self, server: Any) -> SessionLog | None:
        """Return the log of a connection that is open."""
        kept = self._sessions.get(server)
        return kept.session if kept else None

    # The observer.

    def session(self) -> Log:
        """Return the transcript of a new session."""
        return Log(self, SessionLog(self._store.new_session(), began=_now()))

    def write(self, start: str, text: str, *, aside: bool) -> None:
        """Write nothing: each session keeps its lines."""

    def began(self, server: Any) -> None:
        """See Observer."""
        kept = self._sessions[server] = self.session()
        kept.session.client = spelt = _spelt(server.session.client_address)
        kept.note(f"connection from {spelt or 'a Unix socket'}")

    def tls(self, server: Any, result: str, version: str | None) -> None:
        """See Observer."""
        super().tls(server, result, version)
        kept = self._sessions[server]
        if version is not None:
            kept.session.tls = version, server.session.ssl["cipher"][0]
        else:
            kept.note(f"TLS handshake failed: {result}")
            self._refuse(server, "TLS", result)

    def line(self, server: Any, line: bytes, secret: bool) -> None:
        """See Observer."""
        self._sessions[server].command(line, secret=secret)

    def reply(self, server: Any, verb: str, reply: Reply) -> None:
        """See Observer."""
        kept = self._sessions[server]
        if reply.code >= 400:
            stage = _STAGES.get(verb, "" if kept.greeted or verb else "CONNECT")
            if stage:
                self._refuse(server, stage, _first_line(reply))
        elif verb == "MAIL":
            kept.begin(kept.path)
        elif verb == "RCPT":
            kept.count += 1
            if len(kept.recipients) < MOST_NAMED:
                kept.recipients.append(kept.path)
        elif verb in _ENDS:
            kept.over = True
        kept.greeted = True
        kept.is_behind = server.has_more

    def taken(self, server: Any, message: Any) -> None:
        """See Observer."""
        # Its replies come next, and may be refusals: its paths stay until the next command.
        self._sessions[server].over = True

    def auth(self, server: Any, mechanism: str, success: bool) -> None:
        """See Observer."""
        if success:
            self._sessions[server].session.user = user_of(server.session)

    def ended(self, server: Any, reason: str) -> None:
        """See Observer."""
        kept = self._sessions.pop(server)
        kept.end(reason)
        kept.session.ended = _now()
        if kept.is_watched:
            self._store.save_session(kept.session)

    def _refuse(self, server: Any, stage: str, reply: str) -> None:
        kept = self._sessions[server]
        kept.attempts += 1
        if kept.attempts > MOST_ATTEMPTS:
            return
        kept.matters(self._store)
        sender, recipient, count = kept.sender, ", ".join(kept.recipients), kept.count
        if stage == "MAIL":
            sender, recipient, count = kept.path, "", 0
        elif stage == "RCPT":
            recipient, count = kept.path, 1
        elif stage != "DATA":
            sender, recipient, count = "", "", 0
        self._store.add_attempt(
            Attempt(
                kept.session.number,
                stage,
                sender=sender,
                recipient=recipient,
                reply=reply,
                fault=kept.fault,
                client=server.session.client_address[0],
                tls=kept.session.tls[0] if kept.session.tls else "",
                user=kept.session.user,
                line=len(kept.session.lines),
                recipients=count,
            )
        )


class Log(Transcript):
    """The dialogue of one session while it grows."""

    def __init__(self, intake: Intake, session: SessionLog) -> None:
        super().__init__(intake, session.number)
        self.session = session
        self.path = ""
        """The path in the last MAIL or RCPT."""
        self.sender = ""
        self.recipients: list[str] = []
        self.count = 0
        """The number of all recipients of the transaction."""
        self.transaction: list[Line] = []
        """The lines since the last MAIL."""
        self.fault = ""
        self.attempts = 0
        self.greeted = self.over = False
        self.is_behind = False
        """True if the client sent its next command before it got the reply to the last one.

        The server knows it if an observer has ``before``, as faults have: other servers take
        several commands at once."""
        self.is_watched = False
        self._start = monotonic()
        self._room, self._transaction_room = LONGEST, LONGEST_TRANSACTION

    def matters(self, store: Store) -> None:
        """Let the store know the session from now on: it has a message or a refusal."""
        if not self.is_watched:
            self.is_watched = True
            store.watch_session(self.session)

    def begin(self, sender: str) -> None:
        """Begin a transaction without a recipient."""
        self.sender, self.recipients, self.count = sender, [], 0

    def command(self, line: bytes, *, secret: bool) -> None:
        """Add a line of the client."""
        self.fault = ""
        verb = line[:5].upper()
        if self.over:
            self.begin("")
            self.over = False
        if verb == b"MAIL ":
            self.transaction = []
            self._transaction_room = LONGEST_TRANSACTION
        if verb in (b"MAIL ", b"RCPT ") and not secret:
            found = _PATH.match(line[:LONGEST_LINE].decode("utf-8", "replace"))
            self.path = (found[1] or found[2] or "") if found else ""
        self.client(line, secret=secret)
        if self.is_behind:
            self.note(PIPELINED)

    def later(self) -> float:
        """Return the seconds since the session began."""
        return monotonic() - self._start

    def _write(self, who: str, text: str) -> None:
        text = safe_line(text[:LONGEST_LINE])
        line = Line(self.later(), "C" if who == "C:" else "S" if who == "S:" else "-", text)
        if self._transaction_room > 0:
            self._transaction_room -= len(text) + 10
            self.transaction.append(line)
        session = self.session
        if self._room > 0:
            self._room -= len(text) + 10
            session.lines.append(line)
        elif not session.cut:
            session.cut = True
            session.lines.append(Line(line.at, "-", _CUT))


async def _collected(store: Store, body: AsyncIterable[bytes]) -> tuple[bytes | Path, int]:
    """Return the mail data, a large message as a file, and its size."""
    size = 0
    pieces: list[bytes] = []
    waiting = 0
    file: BinaryIO | None = None
    try:
        async for piece in body:
            size += len(piece)
            waiting += len(piece)
            pieces.append(piece)
            if waiting > (_WRITTEN if file else LARGE):
                if file is None:
                    file = await _new_file(store)
                await asyncio.to_thread(file.writelines, pieces)
                pieces, waiting = [], 0
        if file is None:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces), size
        await asyncio.to_thread(_finish, file, pieces)
        return Path(file.name), size
    except BaseException as error:
        if file is not None:
            _remove(file)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write a file: {error}") from error
        raise


async def _new_file(store: Store) -> BinaryIO:
    """Make a file in a thread; if the client goes meanwhile, remove it."""
    making = asyncio.ensure_future(asyncio.to_thread(store.new_file))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_give_up)
        raise


def _give_up(made: asyncio.Future[BinaryIO]) -> None:
    if not made.cancelled() and made.exception() is None:
        _remove(made.result())


def _finish(file: BinaryIO, pieces: list[bytes]) -> None:
    file.writelines(pieces)
    file.close()


def _remove(file: BinaryIO) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)


def _received(
    server: Any, session: Any, envelope: Any, content: bytes | Path, kept: Log | None, size: int
) -> Received:
    lines: list[Line] = []
    if kept is not None:
        note = Line(kept.later(), "-", f"{size:,} bytes of mail data")
        lines = [*kept.transaction, note]
    sender = envelope.mail_from or ""
    return Received(
        content,
        "" if sender == "<>" else sender,
        tuple(envelope.rcpt_tos),
        session=kept.session.number if kept else 0,
        host_name=session.host_name or "",
        client=session.client_address[0].partition("%")[0],
        protocol=protocol_of(
            server.protocol_family,
            extended=session.extended_smtp,
            utf8=envelope.smtp_utf8,
            tls=session.ssl is not None,
            authenticated=bool(session.authenticated),
        ),
        username=user_of(session) if session.authenticated else "",
        tls=kept.session.tls[0] if kept and kept.session.tls else "",
        created=_now(),
        transaction=lines,
    )


def user_of(session: Any) -> str:
    """Return the name of the authenticated user, ``""`` if it is not known."""
    name = getattr(session.auth_data, "login", session.auth_data)
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    return name if isinstance(name, str) else ""


def _first_line(reply: Reply) -> str:
    text = reply.octets.decode("utf-8", "replace")
    return safe_line(text.partition("\r\n")[0][:LONGEST_LINE])


def _spelt(address: tuple[str, int]) -> str:
    host, port = address
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _now() -> datetime:
    return datetime.now().astimezone()
