"""A message as a reader sees it: decoded, and as lenient as readers are."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from public import public

from aiosmtpd.engine.callables import Mail
from aiosmtpd.mail import html_text as hypertext
from aiosmtpd.mail.criteria import Pattern, found, spelt
from aiosmtpd.mail.diff import differences
from aiosmtpd.mail.mime import Attachment, Headers, Reading, read

if TYPE_CHECKING:
    from aiosmtpd.protocol.session import Envelope, Session

_URL = re.compile(r"https?://[^\s<>\"']++", re.IGNORECASE)


# Mail is what a handler that is a function gets; this is the same, read to the end and leniently.
@public
class DecodedMail(Mail):
    """A message that was received, decoded; made from the session and envelope of a hook.

    Nothing here raises at a message that is broken, wrongly encoded or nested without end: what
    cannot be decoded is shown as it came, with U+FFFD in place of octets that are no text.
    """

    def __init__(self, session: Session, envelope: Envelope) -> None:
        super().__init__(session, envelope)
        #: The client's address: of a socket a tuple of host and port.
        self.peer: Any = session.peer
        #: When this was made, in the local time zone.
        self.received: datetime = datetime.now(UTC).astimezone()

    @cached_property
    def _reading(self) -> Reading:
        return read(self.content)

    @property
    def headers(self) -> Headers:
        """The header fields, decoded: a mapping with :meth:`~Headers.get_all` and ``fields``."""
        return self._reading.headers

    @property
    def subject(self) -> str:
        """The decoded subject in one line; ``""`` without one."""
        return self.headers.get("Subject", "")

    @property
    def text(self) -> str:
        r"""The plain text with ``\n`` line ends; ``""`` without one."""
        return self._reading.text

    @property
    def html(self) -> str:
        r"""The HTML with ``\n`` line ends; ``""`` without one."""
        return self._reading.html

    @property
    def attachments(self) -> list[Attachment]:
        """Every part that is no plain text or HTML to be read in place, in order."""
        return self._reading.attachments

    @cached_property
    def _hypertext(self) -> hypertext.Hypertext:
        return hypertext.read(self.html)

    @property
    def readable(self) -> str:
        """The plain text or, without one, what a reader sees of the HTML."""
        return self.text if self.text.strip() else self._hypertext.text

    @cached_property
    def links(self) -> list[str]:
        """The web addresses in the text, then those that the HTML links to; each once."""
        plain = [_without_punctuation(url) for url in _URL.findall(self.text)]
        targets = [url for url in self._hypertext.links if _URL.match(url)]
        return list(dict.fromkeys(plain + targets))

    def link(self, pattern: Pattern | None = None) -> str:
        """Return the first link, or the first that *pattern* finds.

        *pattern* is a piece of it, in which ``*`` may stand for others, or a compiled regular
        expression.
        Raises LookupError, which names the links that there are.
        """
        for url in self.links:
            if pattern is None or found(pattern, url):
                return url
        wanted = "no link" if pattern is None else f"no link that matches {spelt(pattern)}"
        there = "".join(f"\n  {url}" for url in self.links) or " none"
        raise LookupError(f"{wanted} in {self!r}; its links:{there}")

    def code(self, digits: int = 6) -> str:
        """Return the first number of exactly so many digits in the text or the HTML's text.

        Digits in links, and such as are part of a word, are none. Raises LookupError.
        """
        whole = re.compile(rf"(?<![\w#&])[0-9]{{{digits}}}(?!\w)")
        for text in self.text, self._hypertext.text:
            if match := whole.search(_URL.sub(" ", text)):
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
        """Compare what is given with the message; *attachments* are names.

        A compiled regular expression is searched for. Raises AssertionError, which tells all the
        differences at once, those of texts line by line.
        """
        __tracebackhide__ = True  # for pytest, which shows the caller then
        compared = (
            ("the sender", self.sender, sender),
            ("the list of recipients", self.recipients, to),
            ("the subject", self.subject, subject),
            ("the text", self.text, text),
            ("the HTML", self.html, html),
            ("the list of attachments", [one.name for one in self.attachments], attachments),
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
        attached = f", {len(self.attachments)} attached" if self.attachments else ""
        to = ", ".join(self.recipients)
        return f"<DecodedMail {self.subject!r} from {self.sender} to {to}{attached}>"


def _without_punctuation(url: str) -> str:
    # What ends a sentence or closes a parenthesis around it is not the link's.
    kept = url.rstrip(".,;:!?*_]}")
    if kept.endswith(")") and kept.count("(") < kept.count(")"):
        kept = kept[:-1].rstrip(".,;:!?")
    return kept
