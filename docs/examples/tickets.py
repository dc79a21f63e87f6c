"""The part of a helpdesk that gets mail: each message becomes a ticket."""

import json
from pathlib import Path

from aiosmtpd.delivery import Later, Mail, Never

TICKETS = Path("tickets")


def receive(mail: Mail) -> None:
    """Make a ticket of a message."""
    if Path("closed").exists():
        raise Later("the helpdesk is closed")
    subject = mail.message["subject"]
    if subject is None:
        raise Never("550 5.6.0 A ticket needs a subject")
    # The id is the same if a message comes a second time.
    ticket = {"id": mail.id, "from": mail.sender, "subject": subject}
    TICKETS.mkdir(exist_ok=True)
    TICKETS.joinpath(mail.id).write_text(json.dumps(ticket))
    print(f"ticket: {subject}", flush=True)
