"""Which message is looked for, and why another one is not it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.patterns import Pattern, found, is_address, spelt


class Wanted(NamedTuple):
    """Patterns for a recipient, the sender, the subject and the text; None for any."""

    to: Pattern | None = None
    sender: Pattern | None = None
    subject: Pattern | None = None
    text: Pattern | None = None

    def first(self, messages: Sequence[DecodedMail]) -> DecodedMail | None:
        """Return the first message that is wanted."""
        return next((mail for mail in messages if self.is_met_by(mail)), None)

    def is_met_by(self, mail: DecodedMail) -> bool:
        """Return whether this message is wanted."""
        return next(self.differences(mail), None) is None

    def differences(self, mail: DecodedMail) -> Iterator[str]:
        """Say in a clause each why this message is not the one."""
        if self.to is not None and not any(is_address(self.to, one) for one in mail.recipients):
            yield f"to {', '.join(mail.recipients)}, not {spelt(self.to)}"
        if self.sender is not None and not is_address(self.sender, mail.sender):
            yield f"from {mail.sender}, not {spelt(self.sender)}"
        if self.subject is not None and not found(self.subject, mail.subject):
            yield f"subject {mail.subject!r}, not {spelt(self.subject)}"
        if self.text is not None and not found(self.text, mail.readable):
            yield f"{spelt(self.text)} is not in the text {_shortened(mail.readable)!r}"

    def __str__(self) -> str:
        """Say what is wanted: ``to 'anna@example.org'``."""
        named = zip(("to", "from", "with subject", "with text"), self, strict=True)
        return " ".join(f"{name} {spelt(one)}" for name, one in named if one is not None)


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
