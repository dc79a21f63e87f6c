"""Fast path for the greeting and the common forms of EHLO, STARTTLS, QUIT, MAIL, RCPT and DATA.

One regular expression finds such a command in the bytes that have arrived. If the command has no
hook, or one that accepts it without waiting, it is done at once, without the driver. If it has
another hook, the driver gets it already parsed. Everything else goes to the driver unchanged.
``smtp_EHLO`` and the other methods of the verbs define the behaviour; this module must match them,
and tests/dialogue compares the two.
"""

from __future__ import annotations

import logging
import re
from operator import attrgetter
from string import ascii_letters, digits
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosmtpd.engine.auth import known_offer, mechanisms_of
from aiosmtpd.engine.hooks import find
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.quick import CHECKS
from aiosmtpd.protocol.replies import Refused

if TYPE_CHECKING:
    from aiosmtpd.engine.roles import ServerSide
    from aiosmtpd.protocol.replies import Reply
    from aiosmtpd.protocol.session import Envelope

log = logging.getLogger("mail.log")

BURST = 1000
"""How many commands one connection may run at once: 2 ms. Then the others have their turn. A row
of recipients counts as one command."""

_ATEXT = rb"[!#-'*+\--9=?A-Z^-~]"
_LABEL = rb"[0-9A-Za-z_-]++"
_MAILBOX = rb"%s{1,64}+@(?=[^>]{1,255}>)%s(?:\.%s)*+" % (_ATEXT, _LABEL, _LABEL)
_COMMAND = re.compile(
    rb"[Mm](?i:AIL FROM):<(?P<MAIL>%s)>\r\n|[Rr](?i:CPT TO):<(?P<RCPT>%s)>\r\n"
    rb"|(?P<DATA>[Dd](?i:ATA))\r\n" % (_MAILBOX, _MAILBOX)
)
"""Matches a command without parameters, within the default line limit, if ``paths.parse`` would
return its path unchanged."""

_MORE = re.compile(rb"(?:RCPT TO:<%s>\r\n)++" % _MAILBOX)
_BETWEEN = ">\r\nRCPT TO:<"
"""The text between two recipients in a row."""

_OF_NAMES = b"%s%s.-_:[]" % (ascii_letters.encode(), digits.encode())
"""The characters of a client's name."""

LONGEST = 340
"""Bytes of the longest line that matches."""

_METHODS = (
    "smtp_MAIL", "smtp_RCPT", "smtp_DATA", "check_helo_needed", "check_auth_needed", "push",
    "_call_handler_hook", "_getaddr", "_strip_command_keyword",
)  # fmt: skip
_functions_of = attrgetter(*_METHODS)


_OF_LONE_COMMANDS = (
    "smtp_EHLO", "smtp_STARTTLS", "smtp_QUIT", "push", "_call_handler_hook", "_set_rset_state",
    "_create_envelope", "_create_session", "connection_made", "hostname", "data_size_limit",
    "decode_data", "enable_SMTPUTF8", "starttls_offered", "offer_of_auth",
)  # fmt: skip
_lone_commands_of = attrgetter(*_OF_LONE_COMMANDS)

_OF_GREETING = (
    "connection_made", "welcome", "push", "hostname", "_handle_client",
)  # fmt: skip
_greeting_of = attrgetter(*_OF_GREETING)

_EVERY = frozenset((*_METHODS, *_OF_LONE_COMMANDS, *_OF_GREETING))
"""A program may set these on an instance, too; those of a class are compared with Unchanged."""

_limits_of = attrgetter(
    "command_size_limits", "command_size_limit", "line_length_limit", "local_part_limit"
)
USUAL_LIMITS: tuple[dict[str, int], int, int | None, int] = {}, 512, 1001, 0
"""The limits of nearly all servers: one comparison in place of four."""

MOST_OF_NAME = 256
"""A client's name of so many bytes or more goes to the driver."""

MOST_GREETINGS = 64
"""Replies to EHLO that are kept, at most: few servers have more than two."""


class Unchanged(NamedTuple):
    """The methods that the fast path replaces: it runs only if none of them is overridden.

    The mechanisms of AUTH may be: they are then looked for at each EHLO.
    """

    of_transactions: tuple[Any, ...] = ()
    of_lone_commands: tuple[Any, ...] = ()
    of_greeting: tuple[Any, ...] = ()
    of_auth: tuple[Any, ...] = ()

    @classmethod
    def of(cls, server: type) -> Unchanged:
        """Return the methods of a class."""
        return cls(
            _functions_of(server),
            _lone_commands_of(server),
            _greeting_of(server),
            mechanisms_of(server),
        )


unchanged = Unchanged()
"""The methods of ``SMTP``; smtp.py sets them."""


def greet(server: ServerSide) -> bool:
    """Send the greeting of a new connection, or its refusal; return False if the driver must.

    It leaves a turn before that of the driver, and the client's answer may come in that turn.
    """
    settings, registry = server.settings, server.registry
    try:
        if (
            settings.proxy_protocol_timeout is not None
            or server.tls_from_start is not None
            or (server._hostname is None and not server._knows_its_name())
            or server._watch is not None
            or find(server.event_handler, "handle_CONNECT") is not None
            or _greeting_of(type(server)) != unchanged.of_greeting
            or not _EVERY.isdisjoint(server.__dict__)
            or log.isEnabledFor(logging.DEBUG)
        ):
            return False
        if registry is not None:
            server._ask_for_admission(registry)
        server._last_status = banner = replies.known(f"220 {server._hostname} {settings.ident}")
        server._send_now(banner.octets)
    except Refused as refused:
        server.disconnect(refused.reply)
        return True
    except Exception:
        # As in take_alone().
        return False
    # On uvloop the first command may come before the driver begins. It is not kept for the driver,
    # which takes longer for an EHLO: 8 % of a connection.
    server._at_rest = server._wakeup.waiting = True
    return True


def take(server: ServerSide, data: bytes) -> bytes | None:
    """Run the fast path, unless a setting or the state of the session forbids it.

    Returns the bytes that are left for the driver, or None. Checked for each read, because a
    program may change any of this at any time.
    """
    settings = server.settings
    if (
        not server._tls_handshake_okay
        or server._masked
        or server._meter.farewell is not None
        or ((limits := _limits_of(server)) != USUAL_LIMITS and not _are_wide(limits))
        or (server._watch is not None and server._watch.methods.before)
        or log.isEnabledFor(logging.DEBUG)
    ):
        return data
    if (
        settings.takes_plain
        and server.session.host_name
        and not (settings.require_starttls and not server._tls_protocol)
        and (rest := run(server, data)) is not data
    ):
        return rest
    return take_alone(server, data)


def _are_wide(limits: tuple[dict[str, int], int, int | None, int]) -> bool:
    """Return True if no command that the fast path takes is over these limits."""
    by_verb, command, line, local_part = limits
    return not by_verb and command >= LONGEST and not 0 < (line or 0) < LONGEST and not local_part


def take_alone(server: ServerSide, data: bytes) -> bytes | None:
    """Answer an EHLO or a QUIT, or begin the handshake of a STARTTLS, that comes alone.

    A client waits for the reply to each before it goes on. Returns *data* if it is something
    else, or if the driver must run it; else None.
    """
    try:
        if (
            server._watch is not None
            # The transaction ends here, and then a connection that is to stop does.
            or server._stopping is not None
            or server.settings.command_call_limit is not None
            or _lone_commands_of(type(server)) != unchanged.of_lone_commands
            or not _EVERY.isdisjoint(server.__dict__)
            or hasattr(server.event_handler, "__getattr__")
        ):
            return data
        if data == b"STARTTLS\r\n":
            if (
                not server._tls_protocol
                # Once it has begun, the driver waits for the end of the handshake too.
                and server._wakeup.is_used
                and getattr(server.event_handler, "handle_STARTTLS", None) is None
                and server._switch_to_tls()
            ):
                return None
        elif data[:5] == b"EHLO " and data[-2:] == b"\r\n":
            name = data[5:-2]
            if 0 < len(name) < MOST_OF_NAME and not name.translate(None, _OF_NAMES):
                return _greet(server, data, name.decode())
        elif data == b"QUIT\r\n" and getattr(server.event_handler, "handle_QUIT", None) is None:
            server._reason = "QUIT"
            server._hold(server._octets(replies.BYE))
            server.disconnect()
            return None
    except Exception:
        # The class has lost a method, or an attribute of the program's raises an error. Nothing
        # was sent: the driver replies to that.
        return data
    return data


def _greet(server: ServerSide, data: bytes, hostname: str) -> bytes | None:
    """Answer an EHLO; return *data* if the driver must."""
    if (
        getattr(server.event_handler, "handle_EHLO", None) is not None
        or hasattr(server, "ehlo_hook")
        or not server.settings.extensions.is_classic
    ):
        return data
    greeting = _greeting(server)
    if server.settings.limits.max_junk_commands is not None:
        server._meter.count_junk()
        if (farewell := server._meter.farewell) is not None:
            server.disconnect(farewell)
            return None
    vars(server).pop("envelope", None)
    session = server.session
    session.extended_smtp, session.host_name, server._with_codes = True, hostname, False
    server._send_now(greeting)
    server._reset_timeout()
    return None


def _greeting(server: ServerSide) -> bytes:
    """Return the reply to EHLO, with the classic extensions."""
    # All else that it depends on is in the settings.
    key = server._hostname, bool(server._tls_protocol), known_offer(server, unchanged.of_auth)
    greetings = server.settings.ehlo_replies
    if (known := greetings.get(key)) is None:
        if len(greetings) >= MOST_GREETINGS:
            greetings.clear()
        lines = [f"250-{line}" for line in server.settings.extensions.lines(server)]
        text = "\r\n".join([f"250-{server.hostname}", *lines, "250 HELP"])
        known = greetings[key] = replies.octets(text)
    return known


def run(server: ServerSide, data: bytes) -> bytes | None:
    """Run the common commands that *data* begins with; return the rest of it, for the driver.

    Returns None if nothing is left for the driver to do now. If a client waits for each reply, a
    message takes 2,200 bytecodes this way, and 4,170 without it.
    """
    try:
        if (
            (found := _COMMAND.match(data)) is None
            or _functions_of(type(server)) != unchanged.of_transactions
            or not _EVERY.isdisjoint(server.__dict__)
            # It may answer to every name, as mocks do: the driver looks for its hooks.
            or hasattr(server.event_handler, "__getattr__")
        ):
            return data
        envelope, watch = server.envelope, server._watch
    except Exception:
        # As in take_alone().
        return data
    end, position = len(data), 0
    answers: list[bytes] = []
    for _ in range(BURST):
        verb = found.lastgroup or ""
        if (answer := _take(server, envelope, verb, found[verb])) is None:
            if server._taken is not None:
                position = found.end()
                if watch is not None:
                    watch.line(verb, found[0][:-2], False)
            break
        position = found.end()
        if server._with_codes:
            answer = replies.with_code(answer)
        answers.append(answer.octets)
        if watch is not None:
            watch.done_at_once(verb, found[0][:-2], answer)
        if position == end or verb == "DATA":
            break
        if verb == "RCPT" and watch is None and not hasattr(server.event_handler, "handle_RCPT"):
            position = _take_row(server, envelope, data, position, answers)
        if (found := _COMMAND.match(data, position)) is None:
            break
    if position < end or answer is None:
        if answers:
            # The driver runs the rest, and sends these replies before it waits for the client.
            server._hold(b"".join(answers))
            server._client_is_active = True
        return data[position:]
    server._send_now(b"".join(answers))
    server._at_rest = server._taken is None
    server._reset_timeout(None if server._at_rest else server.transaction.data_patience())
    return None


def _take(server: ServerSide, envelope: Envelope, verb: str, word: bytes) -> Reply | None:
    """Run a command and return its reply, or None if the driver must run it.

    If it has a hook, this leaves the parsed command in ``_taken`` for the driver. If it is out of
    sequence or over a limit, the driver gets its bytes.
    """
    try:
        handler = server.event_handler
        if verb == "RCPT":
            most = server.settings.limits.max_recipients
            if envelope.mail_from is None or (most and len(envelope.rcpt_tos) >= most):
                return None
            hook = getattr(handler, "handle_RCPT", None)
            if hook is not None and not _accepts(server, hook, word):
                server._taken = server.transaction.add_plain_recipient, word.decode()
                return None
            envelope._add_recipients([word.decode()])
            return replies.RECIPIENT_OK
        if verb == "MAIL":
            if envelope.mail_from is not None:
                return None
            hook = getattr(handler, "handle_MAIL", None)
            if hook is not None and not _accepts(server, hook, word):
                server._taken = server.transaction.begin_plain, word.decode()
                return None
            envelope.mail_params = {}
            envelope._begin(word.decode())
            return replies.SENDER_OK
        if not envelope.rcpt_tos or envelope.mail_params.get("BODY") == "BINARYMIME":
            return None
        # If the loop is blocked from here on, the log must not name the hook that ran last.
        server._last_hook = ""
        server._taken = server.transaction.receive_data, monotonic()
        return replies.START_MAIL_INPUT
    except Exception:
        # A hook is a property that raises an error: the driver replies to that.
        return None


def _accepts(server: ServerSide, hook: Any, word: bytes) -> bool:
    """Return True if a hook would return MISSING at once: see protocol/quick.py."""
    check = CHECKS.get(getattr(hook, "__func__", None))
    return check is not None and check(hook.__self__, server, server.envelope, word.decode())


def _take_row(
    server: ServerSide, envelope: Envelope, data: bytes, position: int, answers: list[bytes]
) -> int:
    """Take the RCPT commands that come next; return the position after them.

    Called only if RCPT has no hook. All of them take one match and one split: a message to 100
    recipients takes 85 µs this way, and 150 µs without it.
    """
    if (found := _MORE.match(data, position)) is None:
        return position
    mailboxes = found[0].decode()[len(_BETWEEN) - 3 : -3].split(_BETWEEN)
    most = server.settings.limits.max_recipients
    if most and len(envelope.rcpt_tos) + len(mailboxes) > most:
        return position
    envelope._add_recipients(mailboxes)
    answers.append(answers[-1] * len(mailboxes))
    return found.end()
