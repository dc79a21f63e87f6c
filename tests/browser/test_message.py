"""The open message: its tabs, its copies, and the dialogue that brought it."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Box, expect, mail, rich

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
pytest_plugins = ["pytester"]

LATIN = (
    b"From: a@b.test\r\nTo: bob@example.org\r\nSubject: =?iso-8859-1?q?Gr=FC=DFe?=\r\n\r\nHi\r\n"
)


@pytest.fixture
def message(page: Page, box: Box) -> Page:
    """The page with a message open that has something for each tab."""
    page.locator("#live[data-state=live]").wait_for()
    box.send(rich())
    page.get_by_role("option").first.click()
    page.get_by_role("heading", name="Reset your password").wait_for()
    return page


def tab(page: Page, name: str) -> Any:
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel")


def test_eight_tabs_by_number_and_by_arrows(message: Page) -> None:
    names = ["HTML", "Text", "Source", "Headers", "Parts", "Links", "Checks", "SMTP"]
    tabs = message.get_by_role("tab")
    expect(tabs).to_have_count(8)
    for number, name in enumerate(names, 1):
        message.keyboard.press(str(number))
        chosen = message.locator("[role=tab][aria-selected=true]")
        assert chosen.inner_text().startswith(name)
    bar = message.get_by_role("tablist")
    assert bar.evaluate("bar => bar.scrollWidth <= bar.clientWidth")
    tabs.last.focus()
    message.keyboard.press("ArrowRight")
    expect(tabs.first).to_be_focused()
    expect(tabs.first).to_have_attribute("aria-selected", "true")


def test_recipients_that_the_header_does_not_name(page: Page, box: Box) -> None:
    box.send(mail("Other", to="Carl <carl@example.org>"), "eve@example.org")
    page.get_by_role("option", name="Other").click()
    expect(page.locator(".names")).to_contain_text("Sent toeve@example.org")
    box.send(mail("Same", to="carl@example.org"), "CARL@example.org")
    page.get_by_role("button", name="1 new").click()
    page.get_by_role("option", name="Same").click()
    page.get_by_role("heading", name="Same").wait_for()
    expect(page.locator(".names")).not_to_contain_text("Sent to")


def test_html_shows_in_a_frame_that_fits(message: Page) -> None:
    panel = tab(message, "HTML")
    heading = panel.locator("iframe.shown").content_frame.get_by_role("heading", name="Reset")
    heading.wait_for()
    panel.get_by_role("button", name="360").click()
    frame = panel.locator("iframe.shown").bounding_box()
    assert frame is not None
    assert frame["width"] == 360
    panel.get_by_role("button", name="Dark").click()
    dark = "getComputedStyle(document.querySelector('.canvas')).backgroundColor"
    assert message.evaluate(dark) == "rgb(17, 17, 17)"


def test_a_link_of_the_html_opens_in_a_new_window(message: Page, box: Box) -> None:
    context = message.context
    context.route("https://shop.example.org/**", lambda route: route.fulfill(body="arrived"))
    frame = tab(message, "HTML").locator("iframe.shown").content_frame
    with context.expect_page() as opened:
        frame.get_by_role("link", name="Choose a password").click()
    opened.value.get_by_text("arrived").wait_for()
    assert message.url.startswith(f"{box.url}view/")
    opened.value.close()


def test_text_has_links_codes_and_quotes(message: Page) -> None:
    panel = tab(message, "Text")
    link = panel.get_by_role("link")
    expect(link).to_have_attribute("href", "https://shop.example.org/reset/a1b2c3d4e5")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    expect(panel.locator(".code code")).to_have_text("481205")
    expect(panel.locator(".quoted")).to_have_text("> quoted")


def test_source_marks_our_lines_and_finds_words(message: Page) -> None:
    panel = tab(message, "Source")
    expect(panel.locator(".added")).to_contain_text("Received: from client.test")
    expect(panel.locator(".added")).not_to_contain_text("Subject:")
    panel.get_by_label("Find in the source").fill("boundary")
    expect(panel.locator(".found")).to_have_text("1 of 2")
    panel.get_by_label("Find in the source").press("Enter")
    expect(panel.locator(".found")).to_have_text("2 of 2")
    panel.focus()
    message.keyboard.press("N")
    expect(panel.locator(".found")).to_have_text("1 of 2")


def test_headers_are_decoded_or_as_sent(page: Page, box: Box) -> None:
    box.send(LATIN)
    page.get_by_role("option").first.click()
    panel = tab(page, "Headers")
    field = panel.get_by_role("row").filter(has_text="Subject")
    expect(field.get_by_role("cell")).to_have_text("Grüße")
    panel.get_by_label("As sent").check()
    expect(field.get_by_role("cell")).to_have_text("=?iso-8859-1?q?Gr=FC=DFe?=")


def test_parts_show_the_whole_tree(message: Page) -> None:
    panel = tab(message, "Parts")
    expect(panel.locator(".part")).to_have_count(6)
    calendar = panel.locator(".tree li", has_text="text/calendar").last
    calendar.get_by_role("button", name="Show").click()
    expect(calendar.locator("dd").first).to_have_text("Lunch")
    with message.expect_download() as download:
        panel.locator(".part", has_text="report.pdf").get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == b"%PDF"


def test_links_and_checks_are_listed(message: Page) -> None:
    panel = tab(message, "Links")
    expect(panel.get_by_role("heading", name="shop.example.org")).to_be_visible()
    expect(panel.get_by_text("Choose a password")).to_be_visible()
    panel = tab(message, "Checks")
    expect(panel.get_by_text("without the network")).to_be_visible()
    expect(panel.get_by_text("Message-ID").first).to_be_visible()
    badge = message.get_by_role("tab", name="Checks").locator(".badge")
    assert int(badge.inner_text()) == panel.locator("li.error, li.warn").count()


def test_the_dialogue_marks_the_lines_of_the_message(message: Page) -> None:
    panel = tab(message, "SMTP")
    panel.locator("li.own").first.wait_for()
    own = panel.locator("li.own .said").all_inner_texts()
    assert own[0].startswith("mail FROM:<ann@example.org>")
    assert "queued as" in own[-1]
    assert "220 inbox.test" in panel.locator("li").nth(1).inner_text()


def test_the_dialogue_marks_pipelined_commands(page: Page, box: Box) -> None:
    with smtplib.SMTP("127.0.0.1", box.smtp_port) as client:
        client.ehlo("client.test")
        client.send(b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
        client.send(b"Subject: Quick\r\n\r\n.\r\n")
        client.getreply()
    page.get_by_role("option", name="Quick").click()
    marked = tab(page, "SMTP").locator("li", has_text="pipelined")
    expect(marked.locator(".said")).to_have_text(["RCPT TO:<bob@example.org>", "DATA"])


def test_a_copy_as_pytest_is_a_test_that_passes(
    message: Page, box: Box, pytester: pytest.Pytester
) -> None:
    message.context.grant_permissions(["clipboard-read", "clipboard-write"])
    message.keyboard.press("c")
    dialog = message.get_by_role("dialog")
    expect(dialog.locator("pre")).to_contain_text("def test_reset_your_password(smtp_inbox)")
    dialog.get_by_role("button", name="Copy", exact=True).click()
    expect(dialog.get_by_role("button", name="Copied")).to_be_visible()
    copied = dialog.locator("pre").inner_text()
    [source] = [box.store.message(id) for id in box.store.find("")]
    assert source is not None
    send = (
        "import smtplib; client = smtplib.SMTP(smtp_inbox.host, smtp_inbox.port);"
        f" client.sendmail('ann@example.org', ['bob@example.org'], {source.pristine()!r});"
        " client.quit()"
    )
    assert copied.count("...  # here your program sends the message") == 1
    pytester.makepyfile(copied.replace("...  # here your program sends the message", send))
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_only_text_has_no_tab_for_html(page: Page, box: Box) -> None:
    box.send(mail())
    page.get_by_role("option").first.click()
    page.get_by_role("tab", name="Text").wait_for()
    expect(page.get_by_role("tab", name="HTML")).to_have_count(0)


def test_an_address_leads_to_its_message(opens: Any, box: Box) -> None:
    first, second = box.send(mail("First")), box.send(mail("Second"))
    page = opens(box, f"view/{first}")
    page.get_by_role("heading", name="First").wait_for()
    page.get_by_role("option", name="Second").click()
    page.get_by_role("heading", name="Second").wait_for()
    assert page.url == f"{box.url}view/{second}"
    page.go_back()
    page.get_by_role("heading", name="First").wait_for()
    missing = opens(box, "view/" + "a" * 22)
    missing.get_by_text("This message is not here any more").wait_for()
