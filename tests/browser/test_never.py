"""Things that must never happen, and messages that try."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Box, expect, mail

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

pytestmark = pytest.mark.browser

WAYS = {"window": "", "framed": "?frame=1", "embedded": "?embed=1", "inner": "?part=2"}

ATTACK = """<html><head><title>owned</title>
<meta http-equiv="refresh" content="0; url={url}refresh">
<base href="{url}"><link rel="stylesheet" href="{url}style.css"><link rel="preconnect" href="{url}">
<style>@import url({url}import.css); body {{ background: url({url}background.png) }}
html, .list, .message {{ display: none }}</style>
<script src="{url}script.js"></script>
<script>top.document.title = 'owned'; alert(1); fetch('{url}fetch')</script></head>
<body onload="alert(2); top.location = '{url}onload'"><h1>Hostile</h1>
<img src="{url}image.png" onerror="alert(3)"><img src=x onerror="alert(4)"
srcset="{url}set.png 2x"><svg onload="alert(5)"><image href="{url}svg.png"/></svg>
<iframe src="{url}frame"></iframe><iframe srcdoc="<script>alert(6)</script>"></iframe>
<object data="{url}object"></object><embed src="{url}embed">
<video src="{url}video" autoplay></video>
<form action="{url}form"><input autofocus onfocus="alert(7); this.form.submit()"></form>
<a id="a" href="javascript:alert(8)">script</a><a ping="{url}ping" href="data:text/html,x">data</a>
<script>parent.postMessage('owned', '*'); localStorage.x = document.cookie</script></body></html>"""


@pytest.fixture
def listener() -> Iterator[tuple[str, list[int]]]:
    """An address on the loopback, and the ports of all clients that have connected to it."""
    came: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, client = server.accept()
                except OSError:
                    return
                came.append(client[1])
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/", came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def hears_only_us(came: list[int], url: str) -> None:
    """Check that the first connection is that of the test, which comes after all others."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.recv(1)
        assert came == [client.getsockname()[1]]


def watched(page: Page) -> list[str]:
    """Return a list to which the page adds dialogs and messages of frames."""
    seen: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        seen.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.evaluate("addEventListener('message', (event) => { window.got = event.data })")
    return seen


@pytest.mark.parametrize("way", ["frame", "window", "framed", "embedded", "inner"])
def test_hostile_html_cannot_act(
    page: Page, box: Box, listener: tuple[str, list[int]], way: str
) -> None:
    url, came = listener
    seen = watched(page)
    message = mail("Hostile", html=ATTACK.format(url=url))
    if way == "inner":
        forwarded, message = message, mail("Forwarded")
        message.add_attachment(forwarded)
    id = box.send(message)
    if way == "frame":
        page.get_by_role("option", name="Hostile").click()
        inside: Any = page.locator("iframe.shown").content_frame
    else:
        page.goto(f"{box.url}view/{id}.html{WAYS[way]}")
        inside = page
    inside.locator("h1").wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    inside.locator("#a").evaluate("link => link.click()")
    page.wait_for_load_state("networkidle")
    hears_only_us(came, url)
    assert not seen
    assert page.evaluate("window.got") is None or way != "frame"
    if way == "frame":
        assert page.title().endswith("Inbox")
        assert page.locator("#list").is_visible()
        assert page.url == f"{box.url}view/{id}"


def test_each_frame_is_in_a_sandbox(page: Page, box: Box) -> None:
    box.send(mail("Framed", html="<p>Hello</p>"))
    page.get_by_role("option", name="Framed").click()
    page.locator("iframe.shown").wait_for()
    for frame in page.locator("iframe").all():
        allowed = str(frame.get_attribute("sandbox")).split()
        assert set(allowed) == {"allow-popups", "allow-popups-to-escape-sandbox"}


def test_text_of_a_message_is_never_markup(page: Page, box: Box) -> None:
    seen = watched(page)
    evil = "<img src=x onerror=alert(1)><b id=evil>"
    message = mail(
        evil,
        text=f'{evil} javascript:alert(1) https://x.test/"onclick=alert(1)',
        sender=f'"{evil}" <ann@example.org>',
        X_Evil=evil,
        X_Tags="evil",
    )
    message.add_attachment(b"x", maintype="application", subtype="pdf", filename=f"{evil}.pdf")
    box.send(message)
    box.refuse("no@example.org")
    page.get_by_role("option").nth(1).wait_for()
    page.get_by_role("option", name="evil").click()
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.get_by_role("tabpanel").locator("*").first.wait_for()
        assert page.locator("#evil").count() == 0
        assert page.locator("a[href^='javascript']").count() == 0
    assert page.locator("#subject").inner_text() == evil
    assert not seen


def test_an_attached_page_is_downloaded_and_not_shown(page: Page, box: Box) -> None:
    message = mail("Attached")
    message.add_attachment("<script>alert(1)</script>", subtype="html", filename="x.html")
    box.send(message)
    page.get_by_role("option").first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="x.html").click()
    assert download.value.suggested_filename == "x.html"


def test_remote_images_load_only_when_asked(
    browser: Browser, box: Box, listener: tuple[str, list[int]]
) -> None:
    url, came = listener
    page = browser.new_page()
    box.send(mail("Pixel", html=f'<img src="{url}a.png"><p>x</p>'))
    page.goto(box.url)
    page.get_by_role("option").first.click()
    page.get_by_text("1 remote image of 1 host blocked").wait_for()
    page.locator("iframe.shown").wait_for()
    page.wait_for_load_state("networkidle")
    assert not came
    with page.expect_event("requestfailed", lambda one: one.url == f"{url}a.png"):
        page.get_by_role("button", name="Load once").click()
    assert came
    page.close()


def test_nothing_moves_while_messages_come(page: Page, box: Box) -> None:
    page.evaluate(
        "window.moved = 0; new PerformanceObserver(list => { for (const one of list.getEntries())"
        " window.moved += one.value }).observe({ type: 'layout-shift', buffered: true })"
    )
    box.send(mail("First", html="<p>Hello</p>"))
    page.get_by_role("option").first.click()
    page.locator("iframe.shown").wait_for()
    before = page.evaluate("window.moved")
    for number in range(5):
        box.send(mail(f"More {number}"))
    page.get_by_role("button", name="5 new").wait_for()
    assert page.evaluate("window.moved") - before < 0.001
    assert page.locator("#subject").inner_text() == "First"


def test_no_single_click_deletes_all_without_a_way_back(page: Page, box: Box) -> None:
    for number in range(3):
        box.send(mail(f"Number {number}"))
    page.reload()
    page.get_by_role("option").nth(2).wait_for()
    names = [
        one.get_attribute("aria-label") or one.inner_text()
        for one in page.get_by_role("button").all()
    ]
    assert [name for name in names if "elete" in name] == ["Delete all"]
    page.get_by_role("button", name="Delete all").click()
    page.get_by_text("3 messages deleted", exact=True).wait_for()
    assert box.store.counts().total == 3
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("option")).to_have_count(3)
    page.get_by_role("button", name="Select all").click()
    page.locator("#bulk").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("option")).to_have_count(3)
    assert box.store.counts().total == 3


def test_each_row_has_its_time_with_a_zone(page: Page, box: Box) -> None:
    box.send(mail("Now"))
    time = page.get_by_role("option").first.locator("time")
    title = str(time.get_attribute("title"))
    assert "+0000" in title or "-0" in title or "+0" in title
    assert time.inner_text().count(":") == 2


def test_messages_that_cannot_be_read_are_shown(page: Page, box: Box) -> None:
    for content in (b"", b"\r\n", b"no colon\r\n\r\nx\r\n", b"Subject: \xff\0\r\n\r\n\xff\r\n"):
        box.send(content)
    page.reload()
    expect(page.get_by_role("option")).to_have_count(4)
    for number in range(4):
        page.get_by_role("option").nth(number).click()
        page.get_by_role("tab", name="Source").click()
        page.locator(".source").wait_for()


def test_styles_of_a_message_are_not_a_matter_of_the_page(page: Page, box: Box) -> None:
    """The page never reads the HTML of a message, so that its policy has nothing to say of it."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    style = "<p style='color: red'>Hello</p><style>p { margin: 0 }</style>"
    box.send(mail("Styled", html=style, X_Tags="a"))
    page.get_by_role("option", name="Styled").click()
    page.locator("iframe.shown").content_frame.get_by_text("Hello").wait_for()
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.get_by_role("tabpanel").locator("*").first.wait_for()
    assert not said
