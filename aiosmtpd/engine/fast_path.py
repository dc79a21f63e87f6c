"""MAIL, RCPT and DATA as nearly all clients write them, where no subclass has a part in them.

The one short cut of the house. Such a command needs no line of text and no parser and, where it
has no hook, no task: it is taken from the receiver in the call in which it arrives. A hook is run
by the driver, as all are. Whatever is unusual in any way is left to the driver as it came: what is
done here, ``smtp_MAIL``, ``smtp_RCPT`` and ``smtp_DATA`` say.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from operator import attrgetter
from typing import Any, ClassVar

from aiosmtpd.engine import hooks
from aiosmtpd.engine.connection import log
from aiosmtpd.engine.transaction import MailTransfer
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Reply
from aiosmtpd.protocol.session import Envelope

BURST = 1000
"""Commands that one connection may have at once, or recipients in a row: 2 ms. Then others have
their turn."""

_ATEXT = rb"[!#-'*+\--9=?A-Z^-~]"
_LABEL = rb"[0-9A-Za-z_-]++"
_MAILBOX = rb"%s{1,64}+@(?=[^>]{1,255}>)%s(?:\.%s)*+" % (_ATEXT, _LABEL, _LABEL)
_USUAL = re.compile(
    rb"MAIL FROM:<(?P<MAIL>%s)>\r\n|RCPT TO:<(?P<RCPT>%s)>\r\n|(?P<DATA>DATA)\r\n"
    % (_MAILBOX, _MAILBOX),
    re.IGNORECASE,
)
"""No longer than usual limits of a command line, no parameter, nothing that paths would rewrite."""

_MORE = re.compile(rb"(?:RCPT TO:<%s>\r\n)++" % _MAILBOX)
_BETWEEN = ">\r\nRCPT TO:<"
"""Recipients behind one that was taken, and what parts one from the other."""

LONGEST = 340
"""Octets of the longest line that is usual."""

_HOOKS = {"MAIL": "handle_MAIL", "RCPT": "handle_RCPT", "DATA": "handle_BODY"}
"""Which hook a command has; handle_DATA is called for the message."""

_PARTS = (
    "smtp_MAIL", "smtp_RCPT", "smtp_DATA", "check_helo_needed", "check_auth_needed", "push",
    "_call_handler_hook", "_getaddr", "_strip_command_keyword",
)  # fmt: skip
_functions_of = attrgetter(*(f"{name}.__func__" for name in _PARTS))


def parts_of(server: type[UsualCommands]) -> tuple[Any, ...]:
    """Return what must be unchanged for the short cut: the methods that such a command runs."""
    return tuple(getattr(server, name) for name in _PARTS)


class UsualCommands(MailTransfer):
    """A connection that runs the usual commands where they arrive."""

    __slots__ = ("_asked",)

    _asked: tuple[str, bytes] | None
    """A usual command that has a hook, for the driver."""

    _usual_parts: ClassVar[tuple[Any, ...]] = ()

    def connection_lost(self, error: Exception | None) -> None:
        """Leave no transaction that waits for its message: limits.md L22."""
        if self._data_begun:
            self._set_post_data_state()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Run what is usual, and leave the rest to the driver."""
        if self._between_commands:
            data = self._run_usual(data)
        if data or self._asked is not None:
            self._between_commands = False
            super().data_received(data)

    def _run_usual(self, data: bytes) -> bytes:
        """Run the usual commands that *data* begins with; return the rest of it.

        A message in lockstep: 4,480 to 2,320 bytecodes.
        """
        if (found := _USUAL.match(data)) is None or not self._goes_as_usual():
            return data
        envelope, end, position = self.envelope, len(data), 0
        answers: list[bytes] = []
        last, has_hook = "", False
        for _ in range(BURST):
            verb = found.lastgroup or ""
            if verb != last:
                last, has_hook = verb, hooks.find(self.event_handler, _HOOKS[verb]) is not None
            answer = self._take_usual(envelope, verb, found[verb], has_hook)
            if answer is None:
                if self._asked is not None:
                    position = found.end()
                break
            if self._with_codes:
                answer = replies.with_code(answer)
            answers.append(answer.octets)
            position = found.end()
            if verb == "RCPT" and position < end:
                position = self._take_more(envelope, data, position, answers)
            if position == end or self._data_begun:
                break
            if (found := _USUAL.match(data, position)) is None:
                break
        if answers:
            octets = answers[0] if len(answers) == 1 else b"".join(answers)
            if position < end or self._asked is not None:
                # The driver goes on, and sends it when it comes to rest.
                self._hold(octets)
            else:
                self._send_now(octets)
                self._reset_timeout(self._data_patience() if self._data_begun else None)
        return data[position:]

    def _next(self) -> Awaitable[None] | None:
        if self._asked is not None:
            (verb, word), self._asked = self._asked, None
            self._client_is_active = True
            take = self._begin_transaction if verb == "MAIL" else self._add_recipient
            return take(word.decode(), [], {})
        if self._data_begun:
            self._data_begun = False
            self._client_is_active = True
            return self._receive_data()
        return super()._next()

    def _rest(self) -> Awaitable[None]:
        self._between_commands = not len(self._receiver)
        return super()._rest()

    def _take_usual(
        self, envelope: Envelope, verb: str, word: bytes, has_hook: bool
    ) -> Reply | None:
        """Do what a usual command says and return its reply, or keep it for its hook.

        None without either where it is the driver's: it is not its turn, most often.
        """
        if verb == "RCPT":
            recipients, most = envelope.rcpt_tos, self.limits.max_recipients
            if envelope.mail_from is None or (most and len(recipients) >= most):
                return None
            if has_hook:
                self._asked = verb, word
                return None
            recipients.append(mailbox := word.decode())
            envelope._recipients.append(mailbox)
            return replies.RECIPIENT_OK
        if verb == "MAIL":
            if envelope.mail_from is not None:
                return None
            if has_hook:
                self._asked = verb, word
                return None
            envelope.mail_params = {}
            envelope.mail_from = word.decode()
            return replies.SENDER_OK
        if has_hook or not envelope.rcpt_tos or envelope.mail_params.get("BODY") == "BINARYMIME":
            return None
        self._data_begun = True
        self._between_commands = False
        return replies.START_MAIL_INPUT

    def _take_more(
        self, envelope: Envelope, data: bytes, position: int, answers: list[bytes]
    ) -> int:
        """Take the recipients that follow one without a hook; return where they end.

        One match and one split for all of them: 100 recipients and a message, 150 to 85 µs.
        """
        if (found := _MORE.match(data, position)) is None:
            return position
        mailboxes = found[0].decode()[len(_BETWEEN) - 3 : -3].split(_BETWEEN)
        recipients, most = envelope.rcpt_tos, self.limits.max_recipients
        if most and len(recipients) + len(mailboxes) > most:
            return position
        recipients += mailboxes
        envelope._recipients += mailboxes
        answers.append(answers[-1] * len(mailboxes))
        return found.end()

    def _goes_as_usual(self) -> bool:
        """Tell whether nobody would notice that the driver does not run a usual command.

        Asked anew for each read, as methods and hooks may be replaced at any time.
        """
        limits = self.limits
        if (
            not self._wakeup.waiting
            or not self.session.host_name
            or (self._auth_required and not self.session.authenticated)
            or (self.require_starttls and not self._tls_protocol)
            or not self._tls_handshake_okay
            or self._drained is not None
            or self._masked
            or self._meter.farewell is not None
            or self._call_limits is not None
            or self.command_size_limits
            or self.command_size_limit < LONGEST
            or 0 < (self.line_length_limit or 0) < LONGEST
            or self.local_part_limit
            or limits.max_transactions
            or limits.max_recipient_domains
            or log.isEnabledFor(logging.DEBUG)
        ):
            return False
        try:
            return bool(_functions_of(self) == self._usual_parts)
        except AttributeError:
            # Something that is no method was put in the place of one.
            return False
