"""A stored message as tests see it: with the attributes and methods of ``DecodedMail``."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from aiosmtpd.inbox.stored import StoredMail
from aiosmtpd.mail import header, html_text
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.tree import Part
from aiosmtpd.protocol.session import Envelope, Session

LONGEST_HTML = 1 << 20
"""Characters of HTML that are looked at."""


class Letter(DecodedMail):
    """A message of the store, decoded; it has the fields that the store added, too."""

    def __init__(self, stored: StoredMail) -> None:
        envelope = Envelope()
        envelope.mail_from = stored.sender or "<>"
        envelope.rcpt_tos = list(stored.recipients)
        # A session without an event loop: the connection is over.
        super().__init__(Session(cast(Any, None)), envelope)
        self.stored = stored
        self.received = stored.created

    @property
    def root(self) -> Part:
        """The message as a tree of parts."""
        return self.stored.tree()

    @property
    def content(self) -> bytes:
        """The mail data as it came."""
        return self.stored.pristine()

    @cached_property
    def fields(self) -> list[tuple[str, str]]:
        """The fields that the sender wrote, with their raw values, in their order."""
        block = self.root.header.removeprefix(self.stored.added)
        return list(header.fields_of(block))

    @cached_property
    def page(self) -> str:
        """The beginning of the HTML, which is enough to look for mistakes and links."""
        return self.html[:LONGEST_HTML]

    @cached_property
    def seen(self) -> str:
        """The visible text of :attr:`page`."""
        return html_text.read(self.page).text

    def values(self, name: str) -> list[str]:
        """Return the decoded values of all fields of this name that the sender wrote."""
        wanted = name.lower()
        return [header.decode_header(value) for key, value in self.fields if key.lower() == wanted]
