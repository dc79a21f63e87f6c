"""The rail: mailboxes with their counts, and the buttons for all messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aiosmtpd.inbox.records import Received
from tests.browser.support import Box, expect, mail, serving
from tests.delivery.support import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
def full(opens: Any, box: Box) -> Page:
    """The page of a box with mail of two logins for two recipients."""
    for number, (user, to) in enumerate([("shop", "bob"), ("shop", "bob"), ("blog", "eve")]):
        content = mail(f"Number {number}", to=f"{to}@example.org").as_bytes()
        received = Received(content, "ann@example.org", [f"{to}@example.org"], username=user)
        box.store.add(received).result(30)
    page: Page = opens(box)
    page.get_by_role("option").nth(2).wait_for()
    return page


def test_recipients_and_logins_have_counts(full: Page) -> None:
    rail = full.locator("#rail")
    expect(rail.get_by_role("link", name="bob@example.org")).to_contain_text("2")
    login = rail.get_by_role("link", name="shop")
    expect(login).to_contain_text("2")
    login.click()
    full.get_by_text("2 of 3 messages").wait_for()
    rail.get_by_role("link", name="eve@example.org").click()
    full.get_by_text("1 of 3 messages").wait_for()
    expect(full.get_by_role("option")).to_contain_text("Number 2")


def test_all_are_marked_as_read(full: Page, box: Box) -> None:
    full.get_by_role("button", name="Mark all as read").click()
    expect(full.locator("[role=option].unread")).to_have_count(0)
    expect(full).to_have_title("Inbox")
    until(lambda: box.store.counts().unread == 0)


def test_all_are_deleted_with_a_way_back(full: Page, box: Box) -> None:
    full.get_by_role("button", name="Delete all").click()
    full.get_by_text("3 messages deleted", exact=True).wait_for()
    full.get_by_role("heading", name="Waiting for mail").wait_for()
    full.keyboard.press("z")
    expect(full.get_by_role("option")).to_have_count(3)
    full.get_by_role("button", name="Delete all").click()
    full.reload()
    full.get_by_role("heading", name="Waiting for mail").wait_for()
    until(lambda: box.store.counts().total == 0)


def test_the_buttons_act_on_the_result_of_a_search(full: Page, box: Box) -> None:
    full.get_by_role("searchbox").fill("login:shop")
    full.get_by_text("2 of 3 messages").wait_for()
    full.get_by_role("button", name="Mark found as read").click()
    expect(full.locator("[role=option].unread")).to_have_count(0)
    until(lambda: box.store.counts().unread == 1)
    full.get_by_role("button", name="Delete found").click()
    full.get_by_text("2 messages deleted", exact=True).wait_for()
    full.reload()
    full.get_by_role("heading", name="Nothing matches").wait_for()
    until(lambda: box.store.counts().total == 1)


def test_a_box_that_keeps_all_has_no_button_to_delete_all(opens: Any) -> None:
    with serving(delete_all=False) as box:
        box.send(mail("Stays"))
        page = opens(box)
        page.get_by_role("button", name="Mark all as read").wait_for()
        expect(page.get_by_role("button", name="Delete all")).to_have_count(0)


def test_a_long_address_gives_way_in_its_middle(opens: Any, box: Box) -> None:
    name = "a-very-long-name-of-a-person-who-has-many-names"
    box.send(mail("Long", sender=f"{name}@example.org"))
    page = opens(box, width=360, height=740)
    sender = page.get_by_role("option").first.locator(".from")
    cut = "part => part.scrollWidth > part.clientWidth"
    assert sender.locator(".local").evaluate(cut)
    assert not sender.locator(".domain").evaluate(cut)
    parts = [sender.locator(one).inner_text() for one in (".sr", ".local", ".domain")]
    assert parts == [f"{name}@example.org", name, "@example.org"]
