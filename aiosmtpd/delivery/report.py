"""Delivery status notifications: RFC 3464, and RFC 6533 for addresses in UTF-8. Free of asyncio."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import NamedTuple

from aiosmtpd.delivery.item import Arrival, Item
from aiosmtpd.protocol import paths
from aiosmtpd.protocol.replies import Reply

LONGEST_HEADER = 65536
"""Bytes of the header section that a report returns, at most."""

_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

EXPIRED = "4.4.7"
"""Delivery time expired: RFC 3463 section 3.5."""


class Failure(NamedTuple):
    """The reason why a recipient does not get a message: RFC 3463 *status*, and a *text*.

    *is_reply* is True if the text is the reply of a server.
    """

    status: str
    text: str
    is_reply: bool = False


def refused(reply: Reply) -> Failure:
    """Return the failure that a reply with a code 5yz stands for."""
    return Failure(reply.enhanced or "5.0.0", one_line(reply), is_reply=True)


def expired(text: str) -> Failure:
    """Return the failure of a message that was tried until its time was over."""
    return Failure(EXPIRED, f"{EXPIRED} Given up, the last try said: {text}")


def parameter(options: Iterable[str], keyword: str) -> str:
    """Return the value of a parameter of MAIL or RCPT, or ``""``."""
    for option in options:
        name, _, value = option.partition("=")
        if name.upper() == keyword:
            return value
    return ""


def to_report(sender: str, arrival: Arrival, recipients: Iterable[str]) -> tuple[str, ...]:
    """Return those of the *recipients* whose failure is reported to the *sender*.

    There is no report for a report (RFC 5321 section 6.1). A client that says NOTIFY asks for one
    only with FAILURE (RFC 3461 section 4.1).
    """
    if sender in ("", "<>"):
        return ()
    wanted = []
    for recipient in recipients:
        notify = parameter(arrival.rcpt_options.get(recipient, ()), "NOTIFY").upper()
        if not notify or "FAILURE" in notify.split(","):
            wanted.append(recipient)
    return tuple(wanted)


def make_report(
    item: Item, failures: Mapping[str, Failure], *, hostname: str, queue_id: str, now: float
) -> bytes:
    """Return a report to the sender of *item*, with CRLFs.

    It names the failed recipients, and returns the header section of the message. *hostname* is
    the name of this server, *queue_id* that of the report, *now* in seconds since 1970.
    """
    # If an address needs UTF-8, the report needs SMTPUTF8 too.
    kind = "" if (item.sender + "".join(failures)).isascii() else "global-"
    header = _header_section(item)
    boundary = os.urandom(12).hex()
    returned = f"message/{kind}headers" if kind else "text/rfc822-headers"
    parts = [
        ("text/plain; charset=utf-8", _words(item, failures, hostname).encode()),
        (f"message/{kind}delivery-status", _status(item, failures, hostname, now).encode()),
        (returned, header),
    ]
    lines = [
        _field("From", f"Mail Delivery System <MAILER-DAEMON@{hostname}>"),
        _field("To", f"<{item.sender}>"),
        _field("Subject", "Undelivered mail returned to sender"),
        _field("Date", formatdate(now, localtime=True)),
        _field("Message-ID", f"<{queue_id}@{hostname}>"),
        _field("Auto-Submitted", "auto-replied"),
        "MIME-Version: 1.0\r\n",
        f"Content-Type: multipart/report; report-type={kind}delivery-status;\r\n"
        f'\tboundary="{boundary}"\r\n\r\n',
    ]
    body = b"".join(_part(boundary, kind, content) for kind, content in parts)
    return "".join(lines).encode() + body + f"--{boundary}--\r\n".encode()


def _part(boundary: str, kind: str, content: bytes) -> bytes:
    encoding = "7bit" if content.isascii() else "8bit"
    head = f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + content + b"\r\n"


def _words(item: Item, failures: Mapping[str, Failure], hostname: str) -> str:
    lines = [
        f"This is the mail server {hostname}.",
        "",
        "Your message could not be delivered to:",
        "",
    ]
    for recipient, failure in failures.items():
        lines.append(f"  <{one_line(recipient)}>")
        lines += textwrap.wrap(
            one_line(failure.text), 76, initial_indent="    ", subsequent_indent="    "
        )
    lines += ["", f"Its queue id was {item.id}.", ""]
    return "\r\n".join(lines)


def _status(item: Item, failures: Mapping[str, Failure], hostname: str, now: float) -> str:
    """Return the fields of RFC 3464 section 2: those of the message, then a block a recipient."""
    arrival = item.arrival
    fields = [_field("Reporting-MTA", f"dns; {hostname}")]
    if envelope_id := _decoded(parameter(arrival.mail_options, "ENVID")):
        fields.insert(0, _field("Original-Envelope-Id", envelope_id))
    fields.append(_field("Arrival-Date", formatdate(arrival.time, localtime=True)))
    for recipient, failure in failures.items():
        fields.append("\r\n")
        original = parameter(arrival.rcpt_options.get(recipient, ()), "ORCPT")
        kind, mark, address = original.partition(";")
        if mark and (address := _decoded(address)):
            fields.append(_field("Original-Recipient", f"{kind}; {address}"))
        form = "rfc822" if recipient.isascii() else "utf-8"
        fields.append(_field("Final-Recipient", f"{form}; {recipient}"))
        fields.append(_field("Action", "failed"))
        fields.append(_field("Status", failure.status))
        source = "smtp" if failure.is_reply else "x-aiosmtpd"
        fields.append(_field("Diagnostic-Code", f"{source}; {failure.text}"))
        fields.append(_field("Last-Attempt-Date", formatdate(now, localtime=True)))
    return "".join(fields)


def _decoded(text: str) -> str:
    """Return the meaning of an xtext: RFC 3461 section 4. It was checked when it came."""
    try:
        decoded = paths.xtext(text)
    except ValueError:
        return text
    return decoded if decoded.isascii() else text


def one_line(text: str) -> str:
    """Return a text in one line, without control characters."""
    return " ".join(_CONTROLS.sub(" ", text).split())


def _field(name: str, value: str) -> str:
    """Return a header field; a long one is folded at blanks: RFC 5322 section 2.2.3."""
    line = f"{name}: {one_line(value)}"
    if len(line) <= 78:
        return line + "\r\n"
    pieces = textwrap.wrap(line, 76, break_long_words=False, break_on_hyphens=False)
    return "\r\n\t".join(pieces) + "\r\n"


def _header_section(item: Item) -> bytes:
    try:
        with item.open() as file:
            begin = file.read(LONGEST_HEADER)
    except OSError:
        # The file is gone or cannot be read: the sender must hear of it all the same.
        return b"\r\n"
    end = _END_OF_HEADER.search(begin)
    section = begin[: end.start()] if end else begin[: begin.rfind(b"\n")].rstrip(b"\r")
    return section + b"\r\n"
