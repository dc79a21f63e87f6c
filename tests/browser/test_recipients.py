"""The row of a message names the first recipient of its envelope, whatever its header says."""

from __future__ import annotations

import smtplib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Box, expect, mail

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LONG = "a-recipient-with-a-long-name@subdomain.of.a.long.host.name.in.a.long.domain.example.org"
MANY = [LONG, *(f"r{number}@example.org" for number in range(99))]


def row(page: Page) -> Any:
    return page.get_by_role("option").first


@pytest.mark.parametrize("header", ["Bob <bob@example.org>", "undisclosed-recipients:;"])
def test_the_envelope_counts_and_not_the_header(page: Page, box: Box, header: str) -> None:
    page.locator("#live[data-state=live]").wait_for()
    box.send(mail("Hello", to=header), "eve@example.org")
    # By an event first, then from the list: it is the same row.
    expect(row(page).locator(".to")).to_have_text("eve@example.org")
    page.evaluate("window.shown = document.querySelector('[role=option]')")
    with page.expect_response("**/api/messages?*"):
        page.get_by_role("searchbox").press("Enter")
    expect(row(page).locator(".to")).to_have_text("eve@example.org")
    assert page.evaluate("window.shown.isConnected")
    page.reload()
    expect(row(page).locator(".to")).to_have_text("eve@example.org")


def test_recipients_are_shown_in_searches(page: Page, box: Box) -> None:
    box.send(mail("Hello"), "gr\u00fc\u00dfe@\u4f8b\u5b50.org", "eve@example.org")
    page.get_by_role("searchbox").fill("addressed:eve@example.org")
    expect(page.locator("#count")).to_have_text("1 of 1 message")
    expect(row(page).locator(".to .who")).to_have_text("gr\u00fc\u00dfe@\u4f8b\u5b50.org")
    expect(row(page).locator(".plus")).to_have_text("+1 and 1 more recipient")


@pytest.mark.parametrize("width", [1280, 360, 320])
def test_a_hundred_recipients_fit_into_a_row(opens: Any, box: Box, width: int) -> None:
    sender = LONG.replace("recipient", "sender")
    box.send(mail("Hello", sender=sender), *MANY)
    page = opens(box, width=width)
    name = f"to {LONG} and 99 more recipients"
    page.get_by_role("option", name=name).wait_for()
    places = [row(page).locator(one).bounding_box() for one in (".to .who", ".plus", "time")]
    for before, after in pairwise(places):
        assert before["width"] > 10
        assert before["x"] + before["width"] <= after["x"]
    assert places[1]["width"] >= 20, "+99 is not cut"
    assert places[2]["x"] + places[2]["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_head_of_a_message_has_room_for_many(page: Page, box: Box) -> None:
    box.send(mail("Hello", to="undisclosed-recipients:;"), *MANY)
    row(page).click()
    names = page.locator(".names")
    expect(names).to_contain_text("r3@example.org and 95 more")
    expect(names).not_to_contain_text("r4@example.org")
    names.get_by_role("button", name="and 95 more").click()
    expect(names.locator("dd").last).to_be_focused()
    expect(names).to_contain_text("r98@example.org")


def test_a_refused_message_has_its_recipients(page: Page, box: Box) -> None:
    box.faults.add("data: 452 4.3.1 full")
    with smtplib.SMTP("127.0.0.1", box.smtp_port) as client:
        client.ehlo("client.test")
        client.mail("ann@example.org")
        for one in ['"a, b"@example.org', *MANY[2:]]:
            client.docmd(f"RCPT TO:<{one}>")
        client.docmd("DATA")
    refused = page.locator(".refused[role=option]")
    expect(refused.locator(".to .who")).to_have_text('"a, b"@example.org')
    expect(refused.locator(".plus")).to_have_text("+98 and 98 more recipients")
    refused.click()
    expect(page.locator(".names")).to_contain_text("r9@example.org and 89 more")
