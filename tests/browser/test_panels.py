"""Faults, settings, an empty inbox, and the updates by other ways than a WebSocket."""

from __future__ import annotations

import json
import smtplib
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Box, expect, mail, serving
from tests.delivery.support import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def test_a_fault_set_on_the_page_strikes_and_is_shown(page: Page, box: Box) -> None:
    page.get_by_role("link", name="Faults").click()
    page.get_by_label("New rule").fill("rcpt *@slow.test: 450 4.2.1 busy x1")
    page.keyboard.press("Enter")
    rule = page.locator(".faults li")
    expect(rule).to_contain_text("450 4.2.1 busy")
    with smtplib.SMTP("127.0.0.1", box.smtp_port) as client:
        client.ehlo("client.test")
        client.mail("ann@example.org")
        assert client.rcpt("bob@slow.test")[0] == 450
        assert client.rcpt("bob@slow.test")[0] == 250
    expect(rule).to_contain_text("struck 1 of")
    expect(page.locator(".refused[role=option]")).to_contain_text("fault")
    page.get_by_role("button", name="Remove rcpt").click()
    page.get_by_text("No faults").wait_for()
    until(lambda: not box.faults.counts())


def test_a_wrong_fault_says_why_in_its_place(page: Page) -> None:
    page.get_by_role("link", name="Faults").click()
    page.get_by_label("New rule").fill("rcpt: shout")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown effect 'shout'")
    assert page.get_by_label("New rule").input_value() == "rcpt: shout"


def test_an_empty_inbox_gets_people_going(page: Page, box: Box) -> None:
    page.get_by_text(f"127.0.0.1:{box.smtp_port}", exact=True).wait_for()
    page.get_by_role("button", name="Rails").click()
    expect(page.locator(".code-block")).to_contain_text(f"port: {box.smtp_port}")
    page.get_by_role("button", name="Send a test message").click()
    page.get_by_role("option", name="It works").wait_for()


def test_an_empty_inbox_tells_of_a_refusal(opens: Any, box: Box) -> None:
    with smtplib.SMTP("127.0.0.1", box.smtp_port) as client:
        client.ehlo("client.test")
        client.docmd("MAIL FROM:<ann@example.org> SIZE=999999999")
    page = opens(box)
    expect(page.locator(".refused[role=option]")).to_contain_text("552")


@pytest.mark.parametrize("rung", ["stream", "poll"])
def test_without_websockets_the_page_is_live(browser: Browser, box: Box, rung: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("window.WebSocket = class { constructor() { throw new Error() } }")
    if rung == "poll":
        page.add_init_script(
            "window.EventSource = class { addEventListener() {} close() {}"
            " constructor() { setTimeout(() => this.onerror()) } }"
        )
    page.goto(box.url)
    text = "every 5 s" if rung == "poll" else "live"
    page.locator("#live-text", has_text=text).wait_for()
    box.send(mail("By another way"))
    page.get_by_role("option", name="By another way").wait_for()
    page.get_by_role("button", name="Follow").click()
    box.send(mail("Followed"))
    page.get_by_role("heading", name="Followed").wait_for()
    context.close()


def test_a_page_without_its_server_says_so_and_comes_back(page: Page, box: Box) -> None:
    sockets: list[Any] = []

    def connect(socket: Any) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/api/events?*", connect)
    box.send(mail("Still readable"))
    page.reload()
    page.get_by_role("option").first.wait_for()
    page.locator("#live[data-state=live]").wait_for()
    page.context.set_offline(True)
    sockets[0].close()
    page.get_by_text("Not connected since").wait_for()
    assert page.get_by_role("option").count() == 1
    assert page.get_by_role("dialog").count() == 0
    page.context.set_offline(False)
    page.locator("#live[data-state=live]").wait_for()
    expect(page.locator("#offline")).to_be_hidden()


def test_all_works_below_a_web_root(opens: Any) -> None:
    with serving(root="/tools/mail/") as box:
        page = opens(box)
        page.locator("#live[data-state=live]").wait_for()
        id = box.send(mail("Deep", html="<p>Hello</p>"))
        page.get_by_role("option").first.click()
        page.locator("iframe.shown").content_frame.get_by_text("Hello").wait_for()
        assert page.url == f"{box.url}view/{id}"
        page.reload()
        page.get_by_role("heading", name="Deep").wait_for()


def test_the_theme_is_remembered(page: Page) -> None:
    dark = "getComputedStyle(document.body).backgroundColor"
    page.get_by_role("button", name="Colours").click()
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(dark) == "rgb(17, 18, 20)"
    page.reload()
    assert page.evaluate(dark) == "rgb(17, 18, 20)"


def test_retention_tells_what_it_removed(opens: Any, box: Box) -> None:
    gone = json.dumps(
        {"retention": {"gone": [{"at": "2026-11-28T10:00:00Z", "count": 3, "why": "2"}]}}
    )
    box.send(mail("Last"))
    page = opens(box)
    page.route("**/api/settings", lambda route: route.fulfill(body=gone))
    page.reload()
    page.get_by_text("3 older messages removed by --keep 2").wait_for()
