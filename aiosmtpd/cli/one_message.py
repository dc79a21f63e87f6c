"""What ``aiosmtpd wait`` does once its options are read."""

from __future__ import annotations

import asyncio
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial

from aiosmtpd.cli.program import Program, set_up_logging
from aiosmtpd.mail.criteria import Wanted
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.printing import as_json, pretty, write
from aiosmtpd.mail.terminal import safe_line, terminal_of
from aiosmtpd.process.whole import Failure, forget_what_cannot_be_written
from aiosmtpd.smtp import SMTP, Envelope, Session

try:
    import pwd
except ImportError:  # pragma: no cover
    pwd = None  # type: ignore[assignment]

FAREWELL = 1.0
"""Seconds in which the client of the message may say QUIT."""

SHOWN = 3
"""Messages that are named when none was the one."""

log = logging.getLogger("mail.log")


class Waiter:
    """A handler that prints the first message that is wanted, and then calls :attr:`end`."""

    def __init__(self, settings: Namespace) -> None:
        self._settings = settings
        self._wanted = Wanted(settings.to, settings.sender, settings.subject, settings.text)
        self._session: Session | None = None
        self.end: Callable[[], None] = lambda: None
        self.code: int | None = None
        self.others: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Print the message if it is the one; whatever else comes is accepted and dropped."""
        mail = DecodedMail(session, envelope)
        if self.code is not None:
            return "250 OK"
        shown = self._shown(mail)
        if shown is None:
            return "250 OK"
        self._session = session
        server.loop.call_later(FAREWELL, self._finish)
        try:
            _print(shown)
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

    def _shown(self, mail: DecodedMail) -> str | bytes | None:
        """Return what is to be printed; None if this is not the message."""
        settings = self._settings
        reason = next(self._wanted.differences(mail), None)
        try:
            if reason is None and settings.link is not None:
                return safe_line(mail.link(settings.link)) + "\n"
            if reason is None and settings.code is not None:
                return mail.code(settings.code) + "\n"
        except LookupError:
            reason = "no such link" if settings.link is not None else "no such code"
        if reason is not None:
            self.others.append(f"{mail.subject!r}: {reason}")
            return None
        if settings.json:
            return as_json(mail)
        return pretty(mail, terminal_of(sys.stdout)) if settings.pretty else mail.content

    def complaint(self) -> str:
        """Say in one line what did not come, and what did."""
        named = [what for what in ("link", "code") if getattr(self._settings, what) is not None]
        with_what = "".join(f" with such a {what}" for what in named)
        text = f"no message {self._wanted}".rstrip() + with_what
        text += f" within {self._settings.patience:g} s"
        if not self.others:
            return safe_line(text + "; none came at all")
        last = "; ".join(self.others[-SHOWN:])
        return safe_line(f"{text}; {len(self.others)} came: {last}")


def _print(shown: str | bytes) -> None:
    if isinstance(shown, str):
        write(shown, sys.stdout)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(shown)
    sys.stdout.buffer.flush()


class _Wait(Program):
    """The server, which gives up after some time."""

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
            number: partial(self._on_number, number, reaction)
            for number, reaction in super()._reactions().items()
        }

    def _on_number(self, number: int, reaction: Callable[[], None]) -> None:
        self.number = number
        reaction()


def wait(parser: ArgumentParser, settings: Namespace) -> int:
    """Serve until the message, the end of the time or a signal comes; return the exit code."""
    if sys.stdout is None:
        parser.error("there is no standard output to print to")
    set_up_logging(settings)
    waiter = settings.handler
    try:
        program = _Wait(settings, users=pwd)
        waiter.end = program.end
        program.run()
    except Failure as failure:
        parser.exit(failure.code, f"{parser.prog}: error: {failure}\n")
    forget_what_cannot_be_written()
    if waiter.code is not None:
        return int(waiter.code)
    if program.late:
        parser.exit(1, f"{parser.prog}: {waiter.complaint()}\n")
    return 128 + (program.number or 0)
