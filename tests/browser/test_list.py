"""The list: messages appear, are found, deleted, taken back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from aiosmtpd.inbox.records import Received
from tests.browser.support import Box, expect, mail
from tests.delivery.support import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def rows(page: Page) -> Any:
    return page.get_by_role("option")


def test_a_message_appears_without_reload(page: Page, box: Box) -> None:
    page.get_by_role("heading", name="Waiting for mail").wait_for()
    page.locator("#live[data-state=live]").wait_for()
    page.evaluate("window.stayed = true")
    box.send(mail("Hello there", X_Tags="first"))
    row = rows(page).first
    row.wait_for()
    for text in "Hello there", "Ann", "bob@example.org", "first", "unread":
        expect(row).to_contain_text(text)
    assert page.evaluate("window.stayed")
    expect(page).to_have_title("(1) Inbox")
    assert page.locator("link[rel=icon]").get_attribute("href") == "icon-unread.svg"


@pytest.mark.parametrize("width", [1280, 320])
def test_long_addresses_leave_room_for_the_time(opens: Any, box: Box, width: int) -> None:
    host = "subdomain.of.a.long.host.name.in.a.long.domain.example.org"
    message = mail("Long")
    message.replace_header("From", f"another-sender-with-a-long-name@{host}")
    message.replace_header("To", f"a-recipient-with-a-long-name@{host}")
    box.send(message)
    row = opens(box, width=width).get_by_role("option").first
    end, begin = (row.locator(one).bounding_box() for one in (".to", "time"))
    assert end["x"] + end["width"] <= begin["x"]


def test_an_open_message_stays_in_its_place(page: Page, box: Box) -> None:
    box.send(mail("First"))
    rows(page).first.click()
    page.get_by_role("heading", name="First").wait_for()
    page.locator("[role=option]:not(.unread)").wait_for()
    before = rows(page).first.bounding_box()
    box.send(mail("Second"))
    pill = page.get_by_role("button", name="1 new")
    pill.wait_for()
    assert rows(page).count() == 1
    assert rows(page).first.bounding_box() == before
    pill.click()
    rows(page).nth(1).wait_for()
    expect(rows(page).first).to_contain_text("Second")
    assert page.locator("#subject").inner_text() == "First"


def test_follow_opens_each_new_message(page: Page, box: Box) -> None:
    page.get_by_role("button", name="Follow").click()
    for subject in "First", "Second":
        box.send(mail(subject))
        page.get_by_role("heading", name=subject, exact=True).wait_for()


def test_many_arrivals_are_one_update(page: Page, box: Box) -> None:
    page.locator("#live[data-state=live]").wait_for()
    for number in range(120):
        box.send(mail(f"Number {number}"))
    page.get_by_text("120 messages").wait_for()
    expect(rows(page)).to_have_count(120)
    expect(rows(page).first).to_contain_text("Number 119")


def test_older_messages_come_by_a_button(opens: Any, box: Box) -> None:
    for number in range(60):
        box.send(mail(f"Number {number}"))
    page = opens(box)
    page.get_by_role("button", name="Show 50 older").click()
    expect(rows(page)).to_have_count(60)
    page.get_by_text("This is the oldest.").wait_for()
    expect(rows(page).last).to_contain_text("Number 0")


def test_search_finds_and_says_why_nothing_is_left(page: Page, box: Box) -> None:
    box.send(mail("Invoice"))
    box.send(mail("Welcome", sender="Eve <eve@example.net>"))
    page.keyboard.press("/")
    page.keyboard.type("from:eve")
    page.get_by_text("1 of 2 messages").wait_for()
    expect(rows(page).first).to_contain_text("Welcome")
    page.get_by_role("searchbox").fill("from:eve subject:invoice")
    page.get_by_role("heading", name="Nothing matches").wait_for()
    reasons = page.locator(".why li").all_inner_texts()
    assert "from:eve" in reasons[0]
    assert "alone finds 1 message" in reasons[0]
    page.get_by_role("button", name="Search without from:eve").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first).to_contain_text("Invoice")


def test_help_for_the_search_runs_an_example(page: Page, box: Box) -> None:
    box.send(mail("Hello"))
    rows(page).first.wait_for()
    page.get_by_role("button", name="Help for the search").click()
    page.get_by_role("dialog").get_by_role("button", name="is:unread").click()
    page.get_by_text("1 of 1 message").wait_for()
    assert page.get_by_role("searchbox").input_value() == "is:unread"
    assert page.url.endswith("search?q=is%3Aunread")


def test_delete_can_be_taken_back(page: Page, box: Box) -> None:
    for subject in "First", "Second":
        box.send(mail(subject))
    rows(page).nth(1).wait_for()
    rows(page).first.focus()
    page.keyboard.press("Delete")
    page.get_by_text("1 message deleted", exact=True).wait_for()
    assert rows(page).count() == 1
    expect(page.locator("#count")).to_have_text("1 message")
    assert page.evaluate("document.activeElement.innerText").count("First") == 1
    page.keyboard.press("z")
    rows(page).nth(1).wait_for()
    expect(page.locator("#count")).to_have_text("2 messages")
    assert page.locator("#undo").is_hidden()
    assert box.store.counts().total == 2


def test_delete_happens_when_the_time_is_over(page: Page, box: Box) -> None:
    box.send(mail("Gone"))
    rows(page).first.wait_for()
    page.clock.install()
    rows(page).first.focus()
    page.keyboard.press("#")
    page.get_by_text("1 message deleted", exact=True).wait_for()
    page.clock.run_for(3000)
    assert box.store.counts().total == 1
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.clock.run_for(3000)
    assert box.store.counts().total == 0


def test_leaving_the_page_ends_the_time_for_undo(page: Page, box: Box) -> None:
    box.send(mail("Gone"))
    rows(page).first.focus()
    page.keyboard.press("#")
    page.get_by_text("1 message deleted", exact=True).wait_for()
    page.reload()
    page.get_by_role("heading", name="Waiting for mail").wait_for()
    until(lambda: box.store.counts().total == 0)


def test_select_all_deletes_the_matches_of_then(page: Page, box: Box) -> None:
    for number in range(55):
        box.send(mail(f"Old {number}"))
    page.reload()
    page.get_by_role("button", name="Select all 55 that match").click()
    page.locator("#count", has_text="55 selected").wait_for()
    page.locator("#bulk").get_by_role("button", name="Delete").click()
    page.get_by_text("55 messages deleted", exact=True).wait_for()
    box.send(mail("Too late"))
    page.reload()
    expect(rows(page)).to_have_count(1)
    until(lambda: box.store.counts().total == 1)


def test_refused_attempts_are_rows(page: Page, box: Box) -> None:
    box.send(mail("Accepted"))
    box.refuse()
    row = page.locator(".refused[role=option]")
    row.wait_for()
    expect(row).to_contain_text("550 5.1.1 unknown user")
    row.click()
    line = page.locator(".smtp .here")
    line.wait_for()
    assert "550 5.1.1 unknown user" in line.inner_text()
    assert "RCPT" in page.locator("#message .names").inner_text()
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.get_by_text("1 refused attempt").wait_for()
    assert rows(page).count() == 1


def test_messages_stay_in_the_order_of_arrival(page: Page, box: Box) -> None:
    now = datetime.now().astimezone()
    for subject, earlier in (("First", 10), ("Second", 20), ("Third", 5)):
        # The clock was set back before the second one.
        received = Received(
            mail(subject).as_bytes(), "", ["bob@example.org"], created=now - timedelta(0, earlier)
        )
        box.store.add(received).result(30)
    box.refuse()
    page.reload()
    subjects = ["550 5.1.1 unknown user", "Third", "Second", "First"]
    expect(page.locator(".row .subject")).to_have_text(subjects)


def test_read_state_and_tags_change(page: Page, box: Box) -> None:
    id = box.send(mail("Hello"))
    rows(page).first.focus()
    page.keyboard.press("r")
    page.locator("[role=option]:not(.unread)").wait_for()
    page.keyboard.press("t")
    page.get_by_label("Add a tag").fill("new, newer")
    page.get_by_role("button", name="Save").click()
    page.locator(".row .tag").nth(1).wait_for()
    found = box.store.message(id)
    assert found is not None
    assert found.tags == ["new", "newer"]
    assert found.read


def test_two_messages_are_compared_line_by_line(page: Page, box: Box) -> None:
    box.send(mail("Version 1", text="same\nold\nend\n"))
    box.send(mail("Version 2", text="same\nnew\nmore\nend\n"))
    rows(page).nth(1).wait_for()
    rows(page).first.locator(".state").click()
    expect(page.get_by_role("button", name="Compare the two")).to_be_hidden()
    rows(page).nth(1).locator(".state").click()
    page.get_by_role("button", name="Compare the two").click()
    text = page.locator(".diff section", has=page.get_by_role("heading", name="Text"))
    expect(text.locator(".old code")).to_have_text(["old"])
    expect(text.locator(".now code")).to_have_text(["new", "more"])
    fields = page.locator(".diff section", has=page.get_by_role("heading", name="Headers"))
    expect(fields.locator(".old").filter(has_text="Subject")).to_contain_text("Version 1")
    expect(page.locator(".diff section", has_text="HTML")).to_contain_text("No difference")
