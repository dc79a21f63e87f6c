"""Tests with the PyPI package mailpit-api-client, an old one that sends forms.

They run in an environment with that package: see ``test_clients.py`` one folder up. Two methods of
it fail on Mailpit, too: ``get_message`` wants a key that Mailpit has not sent for years, and
``put_messages`` sends a form, which Mailpit cannot read.
"""

import os
import smtplib
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
from mailpit.client.api import API  # type: ignore[import-not-found]

HOST, PORT = os.environ["INBOX_SMTP"].split(":")


@pytest.fixture
def api() -> Any:
    api = API(os.environ["INBOX_URL"].rstrip("/"))
    api.delete_messages([])
    return api


def deliver(subject: str) -> str:
    mail = EmailMessage()
    mail["From"] = "shop@shop.test"
    mail["To"] = "ann@shop.test"
    mail["Subject"] = subject
    mail["Message-ID"] = f"<{subject}@shop.test>"
    mail["Date"] = "Sat, 28 Nov 2026 08:00:00 +0100"
    mail["Delivered-To"] = "ann@shop.test"
    mail.set_content("hello")
    mail.add_attachment("a note", filename="note.txt")
    with smtplib.SMTP(HOST, int(PORT)) as client:
        client.send_message(mail)
    return f"{subject}@shop.test"


def test_messages_are_listed(api: Any) -> None:
    ids = [deliver(subject) for subject in ("one", "two", "three")]
    page = api.get_messages(limit=2, start=1)
    assert (page.total, page.unread, page.count, page.start) == (3, 3, 2, 1)
    assert [mail.message_id for mail in page.messages] == ids[1::-1]
    assert page.messages[0].attachments == 1
    assert page.messages[0].created.utcoffset() is not None


def test_a_form_deletes_these_messages(api: Any) -> None:
    for subject in ("one", "two", "three"):
        deliver(subject)
    three, two, one = api.get_messages().messages
    api.delete_messages([one.id, three.id])
    assert [mail.id for mail in api.get_messages().messages] == [two.id]


def test_an_empty_list_deletes_all(api: Any) -> None:
    deliver("one")
    api.delete_messages([])
    assert api.get_messages().total == 0


def test_header_and_attachment(api: Any) -> None:
    deliver("one")
    [mail] = api.get_messages().messages
    assert api.get_message_headers(mail.id).message_id == ["<one@shop.test>"]
    assert api.get_message_attachment(mail.id, "2").strip() == "a note"


def test_a_form_cannot_mark_messages(api: Any) -> None:
    deliver("one")
    [mail] = api.get_messages().messages
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        api.put_messages([mail.id], "Read", True)
    assert api.get_messages().unread == 1
