"""The arguments of MAIL and RCPT: an address and parameters (RFC 5321 section 4.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiosmtpd.protocol import paths, replies
from aiosmtpd.protocol.extensions import parse_parameters
from aiosmtpd.protocol.replies import Refused, Reply

if TYPE_CHECKING:
    from aiosmtpd.engine.roles import ServerSide

MAIL_SYNTAX = "MAIL FROM: <address>"
RCPT_SYNTAX = "RCPT TO: <address>"


def path_syntax(server: ServerSide, text: str) -> Reply:
    """Return the 501 that shows how MAIL or RCPT is written."""
    extended = " [SP <mail-parameters>]" if server.session.extended_smtp else ""
    return replies.syntax_of(text + extended)


def read_path(server: ServerSide, keyword: str, arg: str | None, syntax: str) -> tuple[str, str]:
    """Return the address and the parameters' text of MAIL or RCPT; raises Refused."""
    path = server._strip_command_keyword(keyword, arg) if arg else None
    if not path:
        raise Refused(path_syntax(server, syntax))
    try:
        address, rest = server._getaddr(path)
    except Exception as error:
        from email.errors import HeaderParseError  # seldom needed

        # A program's own _getaddr may raise either.
        if not isinstance(error, ValueError | HeaderParseError):
            raise
        raise Refused(replies.MALFORMED_ADDRESS) from error
    if address is None:
        raise Refused(replies.MALFORMED_ADDRESS)
    if not address or (rest and not server.session.extended_smtp):
        raise Refused(path_syntax(server, syntax))
    return address, rest or ""


def read_parameters(
    server: ServerSide, text: str, parsers: Mapping[str, Any], syntax: str, unknown: Reply
) -> tuple[list[str], dict[str, Any]]:
    """Return the options of MAIL or RCPT, ``KEY=value``, and their meanings; raises Refused."""
    given = server._getparams(paths.words(text))
    if given is None:
        raise Refused(path_syntax(server, syntax))
    values = {key: value if isinstance(value, str) else None for key, value in given.items()}
    meanings, strangers = parse_parameters(server, parsers, values)
    if strangers and server.settings.unknown_params != "ignore":
        raise Refused(unknown)
    if "BODY" in meanings:
        values["BODY"] = meanings["BODY"]
    options = [key if value is None else f"{key}={value}" for key, value in values.items()]
    return options, meanings


def check_charset(server: ServerSide, address: str) -> None:
    """Refuse an address that needs SMTPUTF8 without it: RFC 6531 section 3.5."""
    if not address.isascii() and not server.envelope.smtp_utf8:
        raise Refused(replies.ADDRESS_NEEDS_SMTPUTF8)
