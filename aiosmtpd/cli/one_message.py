"""A server that prints the first matching message and ends: ``aiosmtpd wait``."""

from __future__ import annotations

import asyncio
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import TextIO
from urllib.parse import quote

from aiosmtpd.cli.program import Program, set_up_logging
from aiosmtpd.mail.criteria import Wanted
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.printing import as_json, pretty, write
from aiosmtpd.mail.terminal import safe_line, terminal_of
from aiosmtpd.process.exit import flush_standard_streams
from aiosmtpd.process.failure import Failure
from aiosmtpd.smtp import SMTP, Envelope, Session

try:
    import pwd
except ImportError:  # pragma: no cover
    pwd = None  # type: ignore[assignment]

FAREWELL = 1.0
"""Seconds that the client of the message has to send QUIT."""

SHOWN = 3
"""How many of the other messages are named if none matched."""

log = logging.getLogger("mail.log")


class Waiter:
    """A handler that prints the first matching message and then calls :attr:`end`."""

    def __init__(self, settings: Namespace) -> None:
        self._settings = settings
        self._wanted = Wanted(settings.to, settings.sender, settings.subject, settings.text)
        self._session: Session | None = None
        self.end: Callable[[], None] = lambda: None
        self.code: int | None = None
        self.others: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Print the message if it matches; accept and drop all others."""
        mail = DecodedMail(session, envelope)
        if self.code is not None:
            return "250 OK"
        shown = self.shown(mail)
        if shown is None:
            return "250 OK"
        self._session = session
        server.loop.call_later(FAREWELL, self._finish)
        try:
            print_shown(shown)
        except OSError as error:
            log.error("The message cannot be printed: %s", error)
            self.code = 1
            return "451 4.3.0 Message cannot be written"
        self.code = 0
        return "250 OK"

    async def handle_DISCONNECT(
        self, server: SMTP, session: Session, envelope: Envelope, reason: str
    ) -> None:
        """End when the client of the message has gone."""
        if session is self._session:
            self._finish()

    def _finish(self) -> None:
        end, self.end = self.end, lambda: None
        end()

    def shown(self, mail: DecodedMail) -> str | bytes | None:
        """Return the text or bytes to print; None if the message does not match."""
        settings = self._settings
        reason = next(self._wanted.differences(mail), None)
        try:
            if reason is None and settings.link is not None:
                return _printable(mail.link(settings.link), sys.stdout) + "\n"
            if reason is None and settings.code is not None:
                return mail.code(settings.code) + "\n"
        except LookupError:
            reason = "no matching link" if settings.link is not None else "no matching code"
        if reason is not None:
            self.others.append(f"{mail.subject!r}: {reason}")
            return None
        if settings.json:
            return as_json(mail)
        return pretty(mail, terminal_of(sys.stdout)) if settings.pretty else mail.content

    @property
    def _wants_any(self) -> bool:
        """True if every message matches."""
        settings = self._settings
        return not str(self._wanted) and settings.link is None and settings.code is None

    def complaint(self) -> str:
        """Return one line about the message that did not come, and the others that did."""
        parts = [part for part in ("link", "code") if getattr(self._settings, part) is not None]
        text = f"no message {self._wanted}".rstrip()
        text += "".join(f" with a matching {part}" for part in parts)
        text += f" within {self._settings.patience:g} s"
        if not self.others:
            return safe_line(text if self._wants_any else f"{text}; no other message came")
        last = "; ".join(self.others[-SHOWN:])
        return safe_line(f"{text}; {len(self.others)} came: {last}")


def _printable(link: str, stream: TextIO) -> str:
    """Percent-encode the characters that *stream* cannot show or that may harm a terminal.

    The address stays the same, unlike with ``\\x1b``: RFC 3987 section 3.1.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"

    def shown(character: str) -> str:
        try:
            if character.isprintable() and character != " " and character.encode(encoding):
                return character
        except UnicodeEncodeError:
            pass
        return quote(character, errors="surrogatepass")

    return "".join(map(shown, link))


def print_shown(shown: str | bytes) -> None:
    """Print a message, or a part of it, to the standard output."""
    if isinstance(shown, str):
        write(shown, sys.stdout)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(shown)
    sys.stdout.buffer.flush()


class _Wait(Program):
    """A server that gives up after the time of ``--timeout``."""

    number: int | None = None
    late = False

    def _announce(self) -> None:
        super()._announce()
        if self._settings.patience is not None:
            asyncio.get_running_loop().call_later(self._settings.patience, self._give_up)

    def _give_up(self) -> None:
        if self._settings.handler.code is None:
            self.late = True
            self.end()

    def _reactions(self) -> dict[int, Callable[[], None]]:
        return {
            number: partial(self._on_signal_number, number, reaction)
            for number, reaction in super()._reactions().items()
        }

    def _on_signal_number(self, number: int, reaction: Callable[[], None]) -> None:
        self.number = number
        reaction()


def wait(parser: ArgumentParser, settings: Namespace) -> int:
    """Serve until the message or a signal arrives or the time is over; return the exit code."""
    if sys.stdout is None:
        parser.error("there is no standard output to print to")
    set_up_logging(settings)
    waiter = settings.handler
    try:
        program = _Wait(settings, pwd=pwd)
        waiter.end = program.end
        program.run()
    except Failure as failure:
        parser.exit(failure.code, f"{parser.prog}: error: {failure}\n")
    flush_standard_streams()
    if waiter.code is not None:
        return int(waiter.code)
    if program.late:
        parser.exit(1, f"{parser.prog}: {waiter.complaint()}\n")
    return 128 + (program.number or 0)
