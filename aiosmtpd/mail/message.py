"""A received message, decoded leniently, as mail programs show it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

from public import public

from aiosmtpd.engine.callables import Mail
from aiosmtpd.mail import bodies, html_text as hypertext, links as addresses
from aiosmtpd.mail.criteria import Pattern, found, spelt
from aiosmtpd.mail.diff import differences
from aiosmtpd.mail.mime import Attachment, Headers
from aiosmtpd.mail.source import InFile, InMemory
from aiosmtpd.mail.tree import Part, read

if TYPE_CHECKING:
    from aiosmtpd.protocol.session import Envelope, Session


# A subclass of Mail: a program can use it like the argument of a handler that is a function.
@public
class DecodedMail(Mail):
    """A received message, decoded; made from the session and the envelope of a hook.

    A message may be broken, wrongly encoded or nested without end, and nothing here raises: a part
    that cannot be decoded is shown as it came, with U+FFFD in place of bytes that are not text.
    """

    def __init__(self, session: Session, envelope: Envelope) -> None:
        super().__init__(session, envelope)
        #: The client's address: a tuple of host and port for a TCP socket.
        self.peer: Any = session.peer
        #: The time when this object was made, in the local time zone.
        self.received: datetime = datetime.now(UTC).astimezone()

    @cached_property
    def root(self) -> Part:
        """The message as a tree of parts; a message in a file is not read into memory for it."""
        file = self.envelope.open()
        if isinstance(file, BytesIO):
            return read(InMemory(file.getvalue()))
        file.close()
        return read(InFile(self.envelope.open))

    @property
    def parts(self) -> list[Part]:
        """All parts in their order: the root, its parts and theirs, also those of messages."""
        return list(self.root.walk())

    @cached_property
    def _bodies(self) -> bodies.Bodies:
        return bodies.of(self.root)

    @property
    def bodies(self) -> list[Part]:
        """The parts that :attr:`text` and :attr:`html` are made of, in their order."""
        return self._bodies.shown

    @property
    def attached(self) -> list[Part]:
        """The parts that :attr:`attachments` are made of, in their order, not decoded yet."""
        return self._bodies.attached

    @property
    def notices(self) -> list[str]:
        """A line for each part that cannot be read as the sender meant it."""
        return [f"part {one.number}: {one.notice}" for one in self.root.walk() if one.notice]

    @property
    def size(self) -> int:
        """The size of the message in bytes."""
        return self.root.end

    @property
    def headers(self) -> Headers:
        """The decoded header fields: a mapping with :meth:`~Headers.get_all` and ``fields``."""
        return self.root.headers

    @property
    def subject(self) -> str:
        """The decoded subject as one line; ``""`` without one."""
        return self.headers.get("Subject", "")

    @cached_property
    def text(self) -> str:
        r"""The plain text with ``\n`` line ends, and no soft ones; ``""`` without one."""
        return bodies.text_of(self.bodies, "text/plain")

    @cached_property
    def html(self) -> str:
        r"""The HTML with ``\n`` line ends; ``""`` without one."""
        return bodies.text_of(self.bodies, "text/html")

    @cached_property
    def attachments(self) -> list[Attachment]:
        """The parts that are not plain text or HTML to be read in place, in order."""
        return [Attachment(part.name, part.type, part.content) for part in self.attached]

    @cached_property
    def _hypertext(self) -> hypertext.Hypertext:
        return hypertext.read(self.html)

    @cached_property
    def readable(self) -> str:
        """The plain text or, without one, the visible text of the HTML.

        In the text of HTML, items of lists have bullets or numbers, and quotations ``>``.
        """
        return self.text if self.text.strip() else hypertext.shown(self.html)

    @cached_property
    def links(self) -> list[str]:
        """The web addresses in the text, then the link targets of the HTML, without repetition."""
        targets = filter(addresses.is_web_address, self._hypertext.links)
        return list(dict.fromkeys([*addresses.find(self.text), *targets]))

    def link(self, pattern: Pattern | None = None) -> str:
        """Return the first link, or the first that *pattern* matches.

        *pattern* is a part of the link, in which ``*`` is a wildcard, or a compiled regular
        expression. Without a match, raises LookupError, which lists the links of the message.
        """
        for url in self.links:
            if pattern is None or found(pattern, url):
                return url
        wanted = "no link" if pattern is None else f"no link that matches {spelt(pattern)}"
        links = "".join(f"\n  {url}" for url in self.links) or " none"
        raise LookupError(f"{wanted} in {self!r}; its links:{links}")

    def code(self, digits: int = 6) -> str:
        """Return the first number of exactly *digits* digits in the text, else in the HTML's text.

        Digits in a link or in a word do not count. Raises LookupError without such a number.
        """
        whole = re.compile(rf"(?<![\w#&])[0-9]{{{digits}}}(?!\w)")
        for text in self.text, self._hypertext.text:
            if match := whole.search(addresses.blanked(text)):
                return match[0]
        raise LookupError(f"no code of {digits} digits in {self!r}; its text:\n{self.readable}")

    def assert_has(
        self,
        *,
        sender: str | re.Pattern[str] | None = None,
        to: list[str] | None = None,
        subject: str | re.Pattern[str] | None = None,
        text: str | re.Pattern[str] | None = None,
        html: str | re.Pattern[str] | None = None,
        attachments: list[str] | None = None,
    ) -> None:
        """Compare the arguments that are not None with the message; *attachments* are names.

        A compiled regular expression is searched for. If anything differs, raises AssertionError,
        which lists all differences, those of texts line by line.
        """
        __tracebackhide__ = True  # pytest shows the caller instead
        compared = (
            ("the sender", self.sender, sender),
            ("the list of recipients", self.recipients, to),
            ("the subject", self.subject, subject),
            ("the text", self.text, text),
            ("the HTML", self.html, html),
            ("the list of attachments", [one.name for one in self.attached], attachments),
        )
        lines = [
            line
            for name, found, expected in compared
            if expected is not None
            for line in differences(name, found, expected)
        ]
        if lines:
            raise AssertionError("\n  ".join([f"{self!r}:", *lines]))

    def __repr__(self) -> str:
        attached = f", {len(self.attached)} attached" if self.attached else ""
        to = ", ".join(self.recipients)
        return f"<DecodedMail {self.subject!r} from {self.sender} to {to}{attached}>"
