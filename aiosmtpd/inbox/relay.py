"""Send a stored message on to real recipients, by a relay and to addresses that are allowed."""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from secrets import token_hex

from aiosmtpd.delivery.item import Arrival, Item, Later, Never
from aiosmtpd.delivery.outlets import make_outlet
from aiosmtpd.delivery.outlets.place import PORTS
from aiosmtpd.delivery.outlets.smtp import SMTPOutlet
from aiosmtpd.delivery.outlets.wire import with_crlf
from aiosmtpd.inbox import people
from aiosmtpd.inbox.records import NotSent
from aiosmtpd.inbox.stored import StoredMail
from aiosmtpd.mail import header
from aiosmtpd.mail.terminal import safe_line

AT_ONCE = 4
"""Messages that are sent at the same time, because each is in memory then."""

FINAL_SECONDS = 60.0
"""Seconds that the relay has for its reply to a whole message."""

# The fields that are left out, and the line before the fields in files of many messages.
_LEFT_OUT = re.compile(
    rb"(?im)\A>?From [^\n]*+\n|^(?:Bcc|Return-Path|Date|Message-ID)[ \t]*+:[^\n]*+\n"
    rb"(?:[ \t][^\n]*+\n)*+"
)
_DOMAIN = re.compile(r"[A-Za-z0-9.-]{1,255}")


class Relay:
    """The server that takes messages, and the addresses to which they may go.

    *place* is ``HOST:PORT`` or the URL of a place as routes have it, such as
    ``smtp+starttls://user:password@relay.example.com``. *allow* and *block* are regular expressions
    for a part of an address; without *block*, none of the allowed ones is blocked. Raises
    ValueError.
    """

    def __init__(self, place: str, allow: str, block: str = "") -> None:
        outlet = outlet_for(place)
        outlet.final_timeout = FINAL_SECONDS
        self._outlet = outlet
        self._allow = re.compile(allow, re.IGNORECASE)
        self._block = re.compile(block, re.IGNORECASE) if block else None
        self._slots = asyncio.Semaphore(AT_ONCE)
        #: ``HOST:PORT``.
        self.name = str(outlet.place).partition("://")[2]
        self.allow = allow
        self.block = block

    async def open(self) -> None:
        """Read the files of the options; raises Misconfigured."""
        await self._outlet.open()

    async def close(self) -> None:
        """End connections that are open."""
        await self._outlet.close()

    def allows(self, address: str) -> bool:
        """Return True if mail may go to an address."""
        if self._block is not None and self._block.search(address):
            return False
        return self._allow.search(address) is not None

    async def send(self, mail: StoredMail, recipients: Sequence[str]) -> None:
        """Send a message with a new date and a new Message-ID; raises NotSent."""
        async with self._slots:
            item = await asyncio.to_thread(item_of, mail, recipients)
            try:
                failures = await self._outlet.put(item)
            except (Later, Never) as error:
                raise NotSent(safe_line(str(error))) from None
        if failures:
            lines = [f"{to}: {failure}" for to, failure in failures.items()]
            if len(failures) < len(item.recipients):
                lines.append("it was sent to the others")
            raise NotSent(safe_line("; ".join(lines)))


def outlet_for(place: str) -> SMTPOutlet:
    """Return the outlet of a place; raises ValueError with one line."""
    if "://" not in place:
        place = f"smtp://{place}"
    if place.partition("://")[0].lower() not in PORTS:
        raise ValueError("write HOST:PORT, or smtp+starttls:// or smtps:// in front of it")
    outlet = make_outlet(place)
    if not isinstance(outlet, SMTPOutlet):
        raise ValueError("a relay is a server of SMTP or LMTP")
    return outlet


def item_of(mail: StoredMail, recipients: Sequence[str]) -> Item:
    """Return a message as it is sent: without Bcc and the fields that the inbox has added."""
    root = mail.tree()
    head = with_crlf(root.header.removeprefix(mail.added)).removeprefix(BOM_UTF8)
    sender = _sender(mail, head)
    domain = sender.rpartition("@")[2]
    id = f"{token_hex(16)}@{domain if _DOMAIN.fullmatch(domain) else 'inbox.invalid'}"
    date = format_datetime(datetime.now().astimezone())
    new = f"Message-ID: <{id}>\r\nDate: {date}\r\n".encode()
    kept = _LEFT_OUT.sub(b"", head)
    if not (b"\r\n" + kept).endswith(b"\r\n\r\n"):
        # A header that is cut, or none.
        kept += b"\r\n" if not kept or kept.endswith(b"\r\n") else b"\r\n\r\n"
    body = mail.source.read_at(root.body_position, mail.source.size)
    content = new + kept + body
    return Item(
        id=mail.id,
        sender=sender or "<>",
        recipients=tuple(dict.fromkeys(recipients)),
        arrival=Arrival(smtp_utf8=not kept.isascii()),
        size=len(content),
        content=content,
    )


def _sender(mail: StoredMail, head: bytes) -> str:
    """Return the reverse-path: the address in Sender, else in From, else that of the session."""
    values = {name.lower(): value for name, value in reversed([*header.fields_of(head)])}
    for name in ("sender", "from"):
        if found := people.read(values.get(name, "")):
            return found[0].address
    return mail.sender
