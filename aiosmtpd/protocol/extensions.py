"""Service extensions (RFC 5321 section 2.2), each declared in one place.

An :class:`Extension` is a value: its EHLO keyword, the parameters that it adds to MAIL and RCPT,
its verbs, and how much longer it lets MAIL and RCPT be.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import attrs
from public import public

from aiosmtpd.protocol import paths, replies
from aiosmtpd.protocol.replies import Refused

Parser = Callable[[Any, "str | None"], Any]
"""Gets the server and a parameter's value (None without ``=``) and returns the parsed value. Raises
:exc:`Refused` for a bad value; returns NotImplemented if the parameter is not available now."""

Verb = Callable[[Any, "str | None"], Awaitable[None]]


@public
@attrs.frozen(kw_only=True, eq=False)
class Extension:
    """A service extension as a value: ``SMTP(extensions=[*CLASSIC, MINE])``.

    *keyword* is the EHLO keyword. *advertise* gets the server and returns the EHLO line without
    its code, or None to leave it out now; by default the line is the keyword. *mail* and *rcpt* map
    names of parameters to parsers, *verbs* maps verbs to coroutine functions that get the server
    and the argument. *line_length* and *rcpt_line_length*, in bytes, are added to the limits of
    MAIL and RCPT. *check_mail* gets the parsed values of all MAIL parameters, and raises
    :exc:`Refused` if some of them cannot be combined.
    """

    keyword: str
    advertise: Callable[[Any], str | None] = attrs.field()
    mail: Mapping[str, Parser] = attrs.field(factory=dict)
    rcpt: Mapping[str, Parser] = attrs.field(factory=dict)
    verbs: Mapping[str, Verb] = attrs.field(factory=dict)
    line_length: int = 0
    rcpt_line_length: int = 0
    check_mail: Callable[[Mapping[str, Any]], None] | None = None

    @advertise.default
    def _advertise_keyword(self) -> Callable[[Any], str | None]:
        return lambda _: self.keyword


def _size_line(server: Any) -> str | None:
    limit = server.data_size_limit
    return f"SIZE {limit}" if limit else None


def _size(server: Any, value: str | None) -> int:
    """Parse SIZE: RFC 1870 section 4. It has 1 to 20 digits there; 1.4 accepts more."""
    if value is None or not (value.isascii() and value.isdecimal()):
        raise Refused(server.mail_syntax())
    digits = value.lstrip("0") or "0"
    # int() raises for more than 4,300 digits: a long number is too big, whatever its value.
    size = int(digits) if len(digits) <= 64 else 10**64
    if server.data_size_limit and size > server.data_size_limit:
        raise Refused(replies.MESSAGE_TOO_BIG)
    return size


def _body(server: Any, value: str | None) -> Any:
    """Parse BODY: RFC 6152 section 3. As in 1.4, it is unknown with ``decode_data``."""
    if server.decode_data:
        return NotImplemented
    if value is None or value.upper() not in ("7BIT", "8BITMIME"):
        raise Refused(replies.BAD_BODY)
    return value.upper()


def _smtputf8(server: Any, value: str | None) -> bool:
    """Parse SMTPUTF8: RFC 6531 section 3.4."""
    if value is not None:
        raise Refused(replies.SMTPUTF8_HAS_VALUE)
    if not server.enable_SMTPUTF8:
        raise Refused(replies.SMTPUTF8_DISABLED)
    server.envelope.smtp_utf8 = True
    return True


def _mail_auth(_: Any, value: str | None) -> str:
    """Parse AUTH, a mailbox in xtext or ``<>``: RFC 4954 section 5."""
    if value == paths.NULL_PATH:
        return value
    try:
        mailbox = paths.xtext(value or "")
    except ValueError:
        raise Refused(replies.BAD_AUTH_PARAMETER) from None
    if not mailbox or not mailbox.isprintable():
        raise Refused(replies.BAD_AUTH_PARAMETER)
    return mailbox


SIZE = Extension(keyword="SIZE", advertise=_size_line, mail={"SIZE": _size}, line_length=26)
EIGHTBITMIME = Extension(
    keyword="8BITMIME",
    advertise=lambda server: None if server.decode_data else "8BITMIME",
    mail={"BODY": _body},
)
SMTPUTF8 = Extension(
    keyword="SMTPUTF8",
    advertise=lambda server: "SMTPUTF8" if server.enable_SMTPUTF8 else None,
    mail={"SMTPUTF8": _smtputf8},
    line_length=10,
)
STARTTLS = Extension(
    keyword="STARTTLS",
    advertise=lambda server: "STARTTLS" if server.starttls_offered else None,
)
AUTH = Extension(
    keyword="AUTH",
    advertise=lambda server: server.offer_of_auth(),
    mail={"AUTH": _mail_auth},
)

CLASSIC: tuple[Extension, ...] = (SIZE, EIGHTBITMIME, SMTPUTF8, STARTTLS, AUTH)
"""The extensions of 1.4; the default of ``SMTP`` and the controllers."""

# As in 1.4, these are checked first and in this order, whatever their order in the command.
_CHECKED_FIRST = {"BODY": 0, "SMTPUTF8": 1, "SIZE": 2}


class ExtensionTable:
    """A set of extensions, indexed for lookup."""

    def __init__(self, extensions: tuple[Extension, ...]) -> None:
        if {"BINARYMIME", "CHUNKING"} & {one.keyword for one in extensions} == {"BINARYMIME"}:
            raise ValueError("BINARYMIME needs CHUNKING: RFC 3030 section 3")
        self.extensions = extensions
        self.mail: Mapping[str, Parser] = _merged(one.mail for one in extensions)
        self.rcpt: Mapping[str, Parser] = _merged(one.rcpt for one in extensions)
        self.verbs: Mapping[str, Verb] = _merged(one.verbs for one in extensions)
        self.has_codes = any(one.keyword == "ENHANCEDSTATUSCODES" for one in extensions)
        self.is_classic = extensions == CLASSIC
        self.auth_in_transaction = AUTH in extensions
        """True with the AUTH of 1.4. RFC 4954 section 4 does not allow it in a transaction."""
        self._checks = [one.check_mail for one in extensions if one.check_mail is not None]

    def lines(self, server: Any) -> list[str]:
        """Return the lines of extensions in the reply to EHLO, without the reply code."""
        return [line for one in self.extensions if (line := one.advertise(server)) is not None]

    def growth(self, verb: str, server: Any) -> int:
        """Return how many bytes longer the offered extensions let *verb* be: RFC 1870 section 3."""
        field = {"MAIL": "line_length", "RCPT": "rcpt_line_length"}.get(verb)
        if field is None:
            return 0
        growing = [one for one in self.extensions if getattr(one, field)]
        return sum(getattr(one, field) for one in growing if one.advertise(server) is not None)

    def check_mail(self, meanings: Mapping[str, Any]) -> None:
        """Refuse parameters of MAIL that cannot be combined; raises Refused."""
        for check in self._checks:
            check(meanings)

    @classmethod
    def of(cls, extensions: Iterable[Extension]) -> ExtensionTable:
        """Return the table of these extensions; raises ValueError, TypeError."""
        return _table(tuple(extensions))


_table = lru_cache(maxsize=64)(ExtensionTable)


def _merged(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in each:
        found.update(one)
    return dict(sorted(found.items(), key=lambda item: _CHECKED_FIRST.get(item[0], 3)))


def parse_parameters(
    server: Any, parsers: Mapping[str, Parser], given: Mapping[str, str | None]
) -> tuple[dict[str, Any], set[str]]:
    """Return the parsed values of the *given* parameters, and the keywords that are unknown.

    Parsers run in the order of the table.
    """
    meanings: dict[str, Any] = {}
    for keyword, parse in parsers.items():
        if keyword in given:
            meaning = parse(server, given[keyword])
            if meaning is not NotImplemented:
                meanings[keyword] = meaning
    return meanings, given.keys() - meanings.keys()
