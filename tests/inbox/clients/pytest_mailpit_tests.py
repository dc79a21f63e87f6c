"""Tests that a program has with the PyPI package pytest-mailpit: its client and its fixtures.

They run in an environment with that package: see ``test_clients.py`` one folder up.
"""

import asyncio
import smtplib
from email.message import EmailMessage
from typing import Any

import pytest
from pytest_mailpit import (  # type: ignore[import-not-found]
    ChaosTriggers,
    MailpitAPIError,
    MailpitAssertionError,
)


def deliver(smtp: Any, to: str, subject: str = "Reset your password", bcc: str = "") -> None:
    mail = EmailMessage()
    mail["From"] = "Shop <shop@shop.test>"
    mail["To"] = to
    mail["Subject"] = subject
    mail.set_content("Your code is 481205.\nhttps://shop.test/reset/abc\n")
    mail.add_alternative('<p><a href="https://shop.test/reset/abc">Reset</a></p>', subtype="html")
    mail.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="a b.pdf")
    with smtplib.SMTP(smtp.host, smtp.port) as client:
        client.send_message(mail, "shop@shop.test", [to, *filter(None, [bcc])])


def test_an_inbox_waits_for_its_message(mailpit_inbox: Any, mailpit_smtp: Any) -> None:
    deliver(mailpit_smtp, mailpit_inbox.address)
    mail = mailpit_inbox.wait_for_message(subject="password", sender="shop@shop.test")
    assert mail.code() == "481205"
    assert mail.link("/reset/") == "https://shop.test/reset/abc"
    assert mail.attachment("a b.pdf").size == 8
    assert mail.text.startswith("Your code is")


def test_the_content_of_an_attachment(mailpit: Any, mailpit_inbox: Any, mailpit_smtp: Any) -> None:
    deliver(mailpit_smtp, mailpit_inbox.address)
    mail = mailpit_inbox.wait_for_message()
    [attachment] = mail.attachments
    assert mailpit.get_attachment(attachment) == b"%PDF-1.4"
    assert mailpit.get_part(mail.id, attachment.part_id) == b"%PDF-1.4"


def test_a_hidden_recipient_has_an_inbox(mailpit_inbox_factory: Any, mailpit_smtp: Any) -> None:
    seen, hidden = mailpit_inbox_factory(), mailpit_inbox_factory()
    deliver(mailpit_smtp, seen.address, bcc=hidden.address)
    assert hidden.wait_for_message().id == seen.wait_for_message().id


def test_several_messages_and_none(mailpit_inbox: Any, mailpit_smtp: Any) -> None:
    for number in range(3):
        deliver(mailpit_smtp, mailpit_inbox.address, f"number {number}")
    mails = mailpit_inbox.wait_for_messages(3)
    assert [mail.subject for mail in mails] == ["number 0", "number 1", "number 2"]
    mailpit_inbox.assert_no_message(subject="number 3", within=0.1)
    mailpit_inbox.clear()
    assert mailpit_inbox.messages() == []
    with pytest.raises(MailpitAssertionError, match="No messages to"):
        mailpit_inbox.wait_for_message(timeout=0)


def test_lists_have_pages(mailpit: Any, mailpit_smtp: Any) -> None:
    mailpit.delete_all()
    for number in range(5):
        deliver(mailpit_smtp, "all@shop.test", f"number {number}")
    page = mailpit.messages(start=1, limit=2)
    assert (page.total, page.unread, len(page.messages)) == (5, 5, 2)
    assert mailpit.search("subject:number", limit=1).messages_count == 5
    assert len(mailpit.search_all("subject:number", page_size=2)) == 5


def test_the_source_and_the_header(mailpit: Any, mailpit_smtp: Any) -> None:
    deliver(mailpit_smtp, "source@shop.test", "source")
    mail = mailpit.wait_for_message(subject="source")
    assert mailpit.get_headers(mail.id)["Return-Path"] == ["<shop@shop.test>"]
    assert mailpit.get_raw(mail.id).startswith(b"Return-Path: <shop@shop.test>\r\n")
    assert mailpit.get_message("latest").id == mail.id


def test_read_states_tags_and_deletion(mailpit: Any, mailpit_smtp: Any) -> None:
    mailpit.delete_all()
    deliver(mailpit_smtp, "state@shop.test", "state")
    [found] = mailpit.messages().messages
    mailpit.mark_read([found.id])
    assert mailpit.messages().unread == 0
    mailpit.mark_read([found.id], read=False)
    mailpit.set_tags([found.id], ["of a test"])
    assert mailpit.search('tag:"of a test"').messages[0].id == found.id
    assert mailpit.info().tags == {"of a test": 1}
    mailpit.delete_messages([found.id, found.id, "unknown"])
    mailpit.delete_search("subject:state")
    assert mailpit.messages().total == 0


def test_the_time_of_the_server(mailpit: Any, mailpit_smtp: Any) -> None:
    since = mailpit.server_time()
    deliver(mailpit_smtp, "time@shop.test", "in time")
    assert mailpit.wait_for_message(subject="in time", since=since).text
    assert mailpit.is_ready()


def test_checks(mailpit: Any, mailpit_smtp: Any) -> None:
    deliver(mailpit_smtp, "check@shop.test", "check")
    mail = mailpit.wait_for_message(subject="check")
    assert [link.url for link in mail.check_links().links] == ["https://shop.test/reset/abc"]
    mail.assert_html_support(at_least=50)


def test_chaos_refuses(mailpit: Any, mailpit_chaos: Any, mailpit_smtp: Any) -> None:
    mailpit_chaos.reject_recipients(452)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
        deliver(mailpit_smtp, "chaos@shop.test")
    [(code, text)] = refusal.value.recipients.values()
    assert (code, text) == (452, b"4.0.0 Chaos recipient error")
    mailpit_chaos.reset()
    assert mailpit.chaos() == ChaosTriggers()
    deliver(mailpit_smtp, "chaos@shop.test")


def test_an_unknown_message(mailpit: Any) -> None:
    with pytest.raises(MailpitAPIError, match="404"):
        mailpit.get_message("unknown")


def test_asynchronous(mailpit_async: Any, mailpit_async_inbox: Any, mailpit_smtp: Any) -> None:
    async def run() -> None:
        deliver(mailpit_smtp, mailpit_async_inbox.address)
        mail = await mailpit_async_inbox.wait_for_message(subject="Reset")
        assert mail.code() == "481205"
        assert (await mailpit_async.get_message(mail.id)).id == mail.id
        await mailpit_async.delete_messages([mail.id])
        await mailpit_async_inbox.assert_no_message(within=0.05)

    asyncio.run(run())


def test_addresses_of_the_page(mailpit: Any) -> None:
    for address in (mailpit.view_url("x"), mailpit.search_url("from:shop")):
        path = address.removeprefix(mailpit.url)
        assert path != address
        assert "<title>" in mailpit._http.request("GET", path).text
