"""Messages inside of messages, reports of delivery, and the release of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.inbox.relay import Relay
from tests.browser.support import Box, expect, mail, rich, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

REPORT = b"""\
From: postmaster@example.org
To: ann@example.org
Subject: Not delivered
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: text/plain

It did not arrive.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org

Final-Recipient: rfc822; bob@example.org
Status: 5.1.1
--b--
""".replace(b"\n", b"\r\n")


@pytest.fixture
def forwarded(page: Page, box: Box) -> Page:
    """The page with a forwarded message open, at its parts."""
    outer = mail("Fwd: Reset your password", text="See below.")
    outer.add_attachment(rich("Inner words"))
    box.send(outer)
    page.get_by_role("option").first.click()
    page.get_by_role("tab", name="Parts").click()
    return page


def test_a_forwarded_message_opens_as_one_of_its_own(forwarded: Page, box: Box) -> None:
    forwarded.get_by_role("button", name="Open the message of part 2").click()
    forwarded.get_by_role("heading", name="Inner words").wait_for()
    names = [one.inner_text().split()[0] for one in forwarded.get_by_role("tab").all()]
    assert names == ["HTML", "Text", "Source", "Headers", "Parts"]
    frame = forwarded.get_by_role("tab", name="HTML")
    frame.click()
    inside = forwarded.locator("iframe.shown").content_frame
    inside.get_by_role("heading", name="Reset").wait_for()
    for tab, text in (("Text", "use the code 481205"), ("Source", "Subject: Inner words")):
        forwarded.get_by_role("tab", name=tab).click()
        expect(forwarded.get_by_role("tabpanel")).to_contain_text(text)
    forwarded.get_by_role("tab", name="Headers").click()
    expect(forwarded.locator(".fields")).to_contain_text("Inner words")
    expect(forwarded.locator(".attached")).to_contain_text("report.pdf")
    forwarded.reload()
    forwarded.get_by_role("heading", name="Inner words").wait_for()
    forwarded.get_by_role("link", name="Fwd: Reset your password").click()
    forwarded.get_by_role("heading", name="Fwd: Reset your password").wait_for()
    assert "part=" not in forwarded.url
    forwarded.go_back()
    forwarded.get_by_role("heading", name="Inner words").wait_for()


def test_a_report_of_delivery_can_be_read(page: Page, box: Box) -> None:
    box.send(REPORT)
    page.get_by_role("option").first.click()
    page.get_by_role("tab", name="Parts").click()
    page.get_by_role("button", name="Show").click()
    fields = page.locator(".report dl").last
    expect(fields.locator("dt")).to_have_text(["Final-Recipient", "Status"])
    expect(fields.locator("dd")).to_have_text(["bob@example.org", "5.1.1"])


class Sink:
    """Keeps the recipients of the messages that it gets."""

    def __init__(self) -> None:
        self.recipients: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.recipients += envelope.rcpt_tos
        return "250 OK"


def test_a_message_is_released_to_addresses_that_are_allowed(opens: Any) -> None:
    sink = Sink()
    taker = Controller(sink, hostname="127.0.0.1", port=0)
    taker.start()
    try:
        relay = Relay(f"127.0.0.1:{taker.port}", "@example[.]org$")
        with serving(relay=relay) as box:
            box.send(mail("For real people"))
            page = opens(box)
            page.get_by_role("option").first.click()
            page.get_by_role("button", name="Release").click()
            dialog = page.get_by_role("dialog")
            to = dialog.get_by_label("Send this message")
            expect(to).to_have_value("bob@example.org")
            to.fill("eve@example.net")
            dialog.get_by_role("button", name="Release").click()
            expect(dialog.get_by_role("alert")).to_contain_text("the relay is not for")
            assert not sink.recipients
            to.fill("bob@example.org, carol@example.org")
            dialog.get_by_role("button", name="Release").click()
            dialog.get_by_text("Released to bob@example.org, carol@example.org.").wait_for()
            assert sink.recipients == ["bob@example.org", "carol@example.org"]
    finally:
        taker.stop()


def test_without_a_relay_nothing_is_released(page: Page, box: Box) -> None:
    box.send(mail("Stays"))
    page.get_by_role("option").first.click()
    page.get_by_role("button", name="Copy as").wait_for()
    expect(page.get_by_role("button", name="Release")).to_have_count(0)
