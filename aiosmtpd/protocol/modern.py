"""The service extensions that 1.4 did not have, and the presets ``modern`` and ``all``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
from public import public

from aiosmtpd.protocol import paths, replies
from aiosmtpd.protocol.extensions import (
    AUTH,
    EIGHTBITMIME,
    SIZE,
    SMTPUTF8,
    STARTTLS,
    Extension,
)
from aiosmtpd.protocol.replies import Refused

if TYPE_CHECKING:
    from datetime import datetime

LONGEST_HOLD = 30 * 24 * 3600
"""Longest time, in seconds, for which FUTURERELEASE may hold a message."""

# Seldom needed: re compiles these when they are, which makes the import faster.
_DELIVER_BY = r"(?ai)([+-]?[0-9]{1,9});([NR])(T?)"
_HOLD_FOR = r"[0-9]{1,9}"
_PRIORITY = r"-?[1-9]|0"
_DATE_TIME = (
    r"(?ai)[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)
_ADDRESS_TYPE = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"


@public
class OriginalRecipient(NamedTuple):
    """The parsed value of ORCPT: RFC 3461 section 4.2."""

    kind: str
    address: str


@public
class DeliverBy(NamedTuple):
    """The parsed value of BY: RFC 2852 section 4.

    *mode* is ``"N"`` (notify) or ``"R"`` (return).
    """

    seconds: int
    mode: str
    trace: bool


@public
class ValidSince(NamedTuple):
    """The parsed value of RRVS: RFC 7293 section 3.1.

    *action* is ``"C"`` (continue) or ``"R"`` (reject).
    """

    since: datetime
    action: str


def _bad(name: str) -> Refused:
    return Refused(replies.bad_parameter(name))


def _flag(name: str) -> Callable[[Any, str | None], bool]:
    def parse(_: Any, value: str | None) -> bool:
        if value is not None:
            raise _bad(name)
        return True

    return parse


def _one_of(name: str, *words: str) -> Callable[[Any, str | None], str]:
    def parse(_: Any, value: str | None) -> str:
        if value is None or value.upper() not in words:
            raise _bad(name)
        return value.upper()

    return parse


def _xtext(name: str, text: str, longest: int) -> str:
    try:
        decoded = paths.xtext(text)
    except ValueError:
        raise _bad(name) from None
    if not text or len(text) > longest or not decoded.isprintable():
        raise _bad(name)
    return decoded


def _moment(name: str, text: str) -> datetime:
    """Parse a date and time with a time zone: RFC 3339 section 5.6."""
    if not re.fullmatch(_DATE_TIME, text):
        raise _bad(name)
    from datetime import datetime  # 1 ms, rarely needed

    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        raise _bad(name) from None


def _envid(_: Any, value: str | None) -> str:
    """Parse ENVID: RFC 3461 section 4.4."""
    return _xtext("ENVID", value or "", 100)


def _notify(_: Any, value: str | None) -> tuple[str, ...]:
    """Parse NOTIFY: RFC 3461 section 4.1."""
    words = tuple((value or "").upper().split(","))
    known = {"SUCCESS", "FAILURE", "DELAY"}
    if words != ("NEVER",) and not (known.issuperset(words) and len(set(words)) == len(words)):
        raise _bad("NOTIFY")
    return words


def _orcpt(_: Any, value: str | None) -> OriginalRecipient:
    """Parse ORCPT: RFC 3461 section 4.2.

    The type ``utf-8`` is not xtext: RFC 6533 section 3 defines its encoding.
    """
    kind, mark, text = (value or "").partition(";")
    if not mark or not re.fullmatch(_ADDRESS_TYPE, kind) or not text or len(text) > 500:
        raise _bad("ORCPT")
    if kind.lower() != "utf-8":
        text = _xtext("ORCPT", text, 500)
    return OriginalRecipient(kind, text)


def _body(server: Any, value: str | None) -> Any:
    """Parse BODY with the additional value BINARYMIME: RFC 3030 section 3."""
    if value is not None and value.upper() == "BINARYMIME":
        return "BINARYMIME"
    return EIGHTBITMIME.mail["BODY"](server, value)


def _require_tls(server: Any, value: str | None) -> Any:
    """Parse REQUIRETLS, which is unknown without TLS: RFC 8689 section 4.2."""
    return _flag("REQUIRETLS")(server, value) if server.session.ssl else NotImplemented


def _deliver_by(_: Any, value: str | None) -> DeliverBy:
    """Parse BY: RFC 2852 section 4. Mode R (return) needs a time above 0."""
    found = re.fullmatch(_DELIVER_BY, value or "")
    if not found:
        raise _bad("BY")
    seconds, mode = int(found[1]), found[2].upper()
    if mode == "R" and seconds <= 0:
        raise _bad("BY")
    return DeliverBy(seconds, mode, bool(found[3]))


def _hold_for(_: Any, value: str | None) -> int:
    """Parse HOLDFOR, in seconds: RFC 4865 section 3."""
    if (
        not re.fullmatch(_HOLD_FOR, value or "")
        or not 0 < (seconds := int(value or "")) < LONGEST_HOLD
    ):
        raise _bad("HOLDFOR")
    return seconds


def _hold_until(_: Any, value: str | None) -> datetime:
    """Parse HOLDUNTIL: RFC 4865 section 3."""
    moment = _moment("HOLDUNTIL", value or "")
    if not 0 < moment.timestamp() - time.time() < LONGEST_HOLD:
        raise _bad("HOLDUNTIL")
    return moment


def _one_hold(meanings: Mapping[str, Any]) -> None:
    if "HOLDFOR" in meanings and "HOLDUNTIL" in meanings:
        raise _bad("HOLDUNTIL")


def _future_release_line(_: Any) -> str:
    latest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + LONGEST_HOLD))
    return f"FUTURERELEASE {LONGEST_HOLD} {latest}"


def _priority(_: Any, value: str | None) -> int:
    """Parse MT-PRIORITY: RFC 6710 section 4.1."""
    if not re.fullmatch(_PRIORITY, value or ""):
        raise _bad("MT-PRIORITY")
    return int(value or "")


def _rrvs(_: Any, value: str | None) -> ValidSince:
    """Parse RRVS: RFC 7293 section 3.1."""
    moment, mark, action = (value or "").partition(";")
    if mark and action.upper() not in ("C", "R"):
        raise _bad("RRVS")
    return ValidSince(_moment("RRVS", moment), action.upper() or "R")


def _limits_line(server: Any) -> str | None:
    """Return the line of LIMITS, with the limits that are set: RFC 9422 section 3."""
    limits = {
        "MAILMAX": server.limits.max_transactions,
        "RCPTMAX": server.limits.max_recipients,
        "RCPTDOMAINMAX": server.limits.max_recipient_domains,
    }
    words = [f"{name}={limit}" for name, limit in limits.items() if limit]
    return " ".join(["LIMITS", *words]) if words else None


SIZE_ALWAYS = attrs.evolve(SIZE, advertise=lambda server: f"SIZE {server.data_size_limit or 0}")
"""SIZE, which is advertised as 0 without a limit: RFC 1870 section 4."""

EIGHTBITMIME_LONGER = attrs.evolve(EIGHTBITMIME, line_length=17)
"""8BITMIME, with room in MAIL for its parameter: RFC 6152 section 2."""

AUTH_VERIFIED = attrs.evolve(
    AUTH, advertise=lambda server: server.offer_of_auth(vain=False), line_length=500
)
"""AUTH, offered only if the server can verify credentials, with room in MAIL for its parameter.

RFC 4954 section 3.
"""

PIPELINING = Extension(keyword="PIPELINING")
"""RFC 2920. Even without it, the server replies in order to commands that arrive together."""

ENHANCEDSTATUSCODES = Extension(keyword="ENHANCEDSTATUSCODES")
"""RFC 2034. With it, replies after EHLO contain enhanced status codes."""

LIMITS = Extension(keyword="LIMITS", advertise=_limits_line)
"""RFC 9422."""

CHUNKING = Extension(
    keyword="CHUNKING",
    # Offered only if mail is allowed: the chunk of a refused BDAT could be read as commands.
    advertise=lambda server: "CHUNKING" if server.mail_is_allowed else None,
    verbs={"BDAT": lambda server, arg: server.receive_chunk(arg)},
)
"""RFC 3030 section 2."""

BINARYMIME = Extension(keyword="BINARYMIME", mail={"BODY": _body}, line_length=16)
"""RFC 3030 section 3."""

DSN = Extension(
    keyword="DSN",
    mail={"RET": _one_of("RET", "FULL", "HDRS"), "ENVID": _envid},
    rcpt={"NOTIFY": _notify, "ORCPT": _orcpt},
    line_length=116,
    rcpt_line_length=536,
)
"""RFC 3461."""

REQUIRETLS = Extension(
    keyword="REQUIRETLS",
    advertise=lambda server: "REQUIRETLS" if server.session.ssl else None,
    mail={"REQUIRETLS": _require_tls},
    line_length=11,
)
"""RFC 8689."""

DELIVERBY = Extension(keyword="DELIVERBY", mail={"BY": _deliver_by}, line_length=17)
"""RFC 2852."""

FUTURERELEASE = Extension(
    keyword="FUTURERELEASE",
    advertise=_future_release_line,
    mail={"HOLDFOR": _hold_for, "HOLDUNTIL": _hold_until},
    check_mail=_one_hold,
    line_length=34,
)
"""RFC 4865."""

MT_PRIORITY = Extension(keyword="MT-PRIORITY", mail={"MT-PRIORITY": _priority}, line_length=15)
"""RFC 6710."""

RRVS = Extension(keyword="RRVS", rcpt={"RRVS": _rrvs}, rcpt_line_length=40)
"""RFC 7293."""

MODERN: tuple[Extension, ...] = (
    SIZE_ALWAYS,
    EIGHTBITMIME_LONGER,
    SMTPUTF8,
    STARTTLS,
    AUTH_VERIFIED,
    PIPELINING,
    ENHANCEDSTATUSCODES,
    CHUNKING,
    LIMITS,
)
"""The extensions that need no help from the handler; the default of the command line."""

ALL: tuple[Extension, ...] = (
    *MODERN,
    BINARYMIME,
    DSN,
    REQUIRETLS,
    DELIVERBY,
    FUTURERELEASE,
    MT_PRIORITY,
    RRVS,
)
"""All extensions. Those not in ``MODERN`` are promises to the sender that the handler must keep."""

public(MODERN=MODERN, ALL=ALL)
