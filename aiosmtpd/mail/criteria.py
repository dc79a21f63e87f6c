"""Compare messages with patterns: for text, for addresses, for a whole message.

It imports nothing of ours, so that a module that only names a pattern loads nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol, TypeVar

Pattern = str | re.Pattern[str]
"""A string, compared in any case, in which ``*``, ``?`` and ``[...]`` are wildcards; or a compiled
regular expression, which is searched for."""


class Comparable(Protocol):
    """The parts of a message that :class:`Wanted` compares."""

    @property
    def sender(self) -> str:
        """The reverse-path."""

    @property
    def recipients(self) -> list[str]:
        """The forward-paths."""

    @property
    def subject(self) -> str:
        """The decoded subject."""

    @property
    def readable(self) -> str:
        """The text as a reader sees it."""


M = TypeVar("M", bound=Comparable)


def found(pattern: Pattern, text: str) -> bool:
    """Return True if *text* contains *pattern*, or something that a glob matches."""
    if not isinstance(pattern, str):
        return pattern.search(text) is not None
    folded = pattern.casefold()
    return folded in text.casefold() or fnmatchcase(text.casefold(), f"*{folded}*")


def is_address(pattern: Pattern, address: str) -> bool:
    """Return True if *pattern* is the mail address *address*, or a glob that matches it."""
    if not isinstance(pattern, str):
        return pattern.search(address) is not None
    folded = pattern.casefold()
    return folded == address.casefold() or fnmatchcase(address.casefold(), folded)


def spelt(pattern: Pattern) -> str:
    """Return a pattern as its author wrote it."""
    return repr(pattern) if isinstance(pattern, str) else f"/{pattern.pattern}/"


class Wanted(NamedTuple):
    """Patterns for a recipient, the sender, the subject and the text; None matches anything."""

    to: Pattern | None = None
    sender: Pattern | None = None
    subject: Pattern | None = None
    text: Pattern | None = None

    def first(self, messages: Sequence[M]) -> M | None:
        """Return the first message that matches, or None."""
        return next((mail for mail in messages if self.is_met_by(mail)), None)

    def is_met_by(self, mail: Comparable) -> bool:
        """Return True if *mail* matches all patterns."""
        return next(self.differences(mail), None) is None

    def differences(self, mail: Comparable) -> Iterator[str]:
        """Yield one clause for each pattern that *mail* does not match."""
        if self.to is not None and not any(is_address(self.to, one) for one in mail.recipients):
            yield f"to {', '.join(mail.recipients)}, not {spelt(self.to)}"
        if self.sender is not None and not is_address(self.sender, mail.sender):
            yield f"from {mail.sender}, not {spelt(self.sender)}"
        if self.subject is not None and not found(self.subject, mail.subject):
            yield f"subject {mail.subject!r}, not {spelt(self.subject)}"
        if self.text is not None and not found(self.text, mail.readable):
            yield f"{spelt(self.text)} is not in the text {_shortened(mail.readable)!r}"

    def __str__(self) -> str:
        """Describe the message that matches: ``to 'anna@example.org'``."""
        named = zip(("to", "from", "with subject", "with text"), self, strict=True)
        return " ".join(f"{name} {spelt(one)}" for name, one in named if one is not None)


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
