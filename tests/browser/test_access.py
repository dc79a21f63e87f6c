"""The page for all people: by keyboard alone, and without a finding of axe-core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Box, expect, mail, rich

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

AXE = "axe-core@4.14.1"
CACHE = Path(__file__).parents[2] / "build" / "axe"
LOOK = """async (tags) => (await axe.run(document, {iframes: false, runOnly: tags})).violations.map(
  (one) => one.id + ': ' + one.nodes.map((node) => node.html.slice(0, 200)).join(' | '))"""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm or from the cache of an earlier run."""
    file = CACHE / "axe.min.js"
    if not file.exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        folder = tmp_path_factory.mktemp("axe")
        command = ["npm", "pack", "--silent", AXE, "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot get {AXE}")
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            source = archive.extractfile("package/axe.min.js")
            assert source is not None
            text = source.read()
        # Other workers of xdist look for the file at the same time: it appears as a whole.
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / f"axe-{os.getpid()}"
        part.write_bytes(text)
        part.replace(file)
    return file.read_text(encoding="utf-8")


VIEWS: dict[str, dict[str, Any]] = {
    "list": {},
    "message": {},
    "phone": {"width": 360, "height": 740},
    "dark": {"color_scheme": "dark"},
    "rejected": {},
    "faults": {},
    "empty": {},
    "dialog": {},
    "compare": {"color_scheme": "dark"},
    "inner": {},
    "rail": {"width": 360, "height": 740},
    "narrow dark": {"width": 320, "height": 640, "color_scheme": "dark"},
}


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(opens: Any, box: Box, axe: str, view: str) -> None:
    if view != "empty":
        box.send(mail("Plain", X_Tags="one, two, three"))
        box.send(rich("With all"), *(f"a-long-name-{number}@example.org" for number in range(9)))
        box.refuse()
        if view == "inner":
            outer = mail("Outer")
            outer.add_attachment(rich("Inner"))
            box.send(outer)
        box.faults.add("rcpt *@slow.test: 450 4.2.1 busy x2")
    page = opens(box, **VIEWS[view])
    page.evaluate(axe)
    look(page, view)
    if view == "empty":
        page.locator(".code-block").wait_for()
    else:
        page.get_by_role("option").first.wait_for()
    page.locator("#live[data-state=live]").wait_for()
    assert not page.evaluate(LOOK, RULES)
    if view in ("message", "phone", "dark", "narrow dark"):
        page.get_by_role("option", name="With all").click()
        for tab in page.get_by_role("tab").all():
            tab.click()
            page.get_by_role("tabpanel").locator("*").first.wait_for()
            page.locator(".badge.bad").first.wait_for()
            assert not page.evaluate(LOOK, RULES), tab.inner_text()
    assert_no_sideways_scroll(page)


def look(page: Page, view: str) -> None:
    """Go to a view that has an address or a key of its own."""
    if view == "rejected":
        page.get_by_role("link", name="Rejected").click()
        page.locator(".refused[role=option]").click()
        page.locator(".smtp .here").wait_for()
    elif view == "faults":
        page.get_by_role("link", name="Faults").click()
        page.locator(".faults code").first.wait_for()
    elif view == "compare":
        page.get_by_role("option", name="With all").wait_for()
        for row in page.locator(".row .box").all():
            row.locator("..").click()
        page.get_by_role("button", name="Compare the two").click()
        page.locator(".diff .now").first.wait_for()
    elif view == "inner":
        page.get_by_role("option", name="Outer").click()
        page.get_by_role("tab", name="Parts").click()
        page.get_by_role("button", name="Open the message").click()
        page.get_by_role("heading", name="Inner").wait_for()
    elif view == "rail":
        page.get_by_role("button", name="Mailboxes").click()
        page.get_by_role("button", name="Delete all").wait_for()
        page.get_by_role("link", name="bob@example.org").wait_for()
    elif view == "dialog":
        page.get_by_role("option").first.wait_for()
        page.keyboard.press("?")
        page.get_by_role("dialog").wait_for()


def assert_no_sideways_scroll(page: Page) -> None:
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    tools = page.locator(".tools")
    if tools.count():
        assert tools.evaluate("bar => bar.scrollWidth <= bar.clientWidth + 16")
    small = page.evaluate(
        "[...document.querySelectorAll('button, a.icon, a.button, [role=option]')]"
        ".filter(one => one.offsetWidth > 1 && Math.min(one.offsetWidth, one.offsetHeight) < 24)"
        ".map(one => one.outerHTML.slice(0, 100))"
    )
    assert not small, json.dumps(small)


def test_all_of_it_by_keyboard(page: Page, box: Box) -> None:
    """Find a message, look at its links, delete it and take it back."""
    box.send(rich("Invoice of May"))
    box.send(mail("Other"))
    page.get_by_role("option").nth(1).wait_for()
    press = page.keyboard.press
    press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    press("Enter")
    expect(page.get_by_role("option").first).to_be_focused()
    press("/")
    page.keyboard.type("invoice")
    press("Enter")
    page.get_by_text("1 of 2 messages").wait_for()
    expect(page.get_by_role("option")).to_be_focused()
    press("Enter")
    page.get_by_role("heading", name="Invoice of May").wait_for()
    press("6")
    page.locator(".links", has_text="Choose a password").wait_for()
    press("#")
    page.get_by_text("1 message deleted", exact=True).wait_for()
    expect(page.get_by_role("option")).to_have_count(0)
    press("z")
    expect(page.get_by_role("option")).to_be_focused()
    press("Escape")
    assert box.store.counts().total == 2


def test_arrows_move_the_focus_and_do_not_open(page: Page, box: Box) -> None:
    for subject in "First", "Second", "Third":
        box.send(mail(subject))
    rows = page.get_by_role("option")
    rows.nth(2).wait_for()
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(rows.nth(2)).to_be_focused()
    page.keyboard.press("Shift+ArrowUp")
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(2)
    assert page.locator("#subject").count() == 0
    page.keyboard.press("u")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="First").wait_for()


@pytest.mark.parametrize(("more", "less"), [("J", "K"), ("Shift+ArrowDown", "Shift+ArrowUp")])
def test_a_stretch_back_selects_less(page: Page, box: Box, more: str, less: str) -> None:
    for number in range(6):
        box.send(mail(f"Message {number}"))
    rows = page.get_by_role("option")
    rows.nth(5).wait_for()

    def expect_selected(*numbers: int) -> None:
        for number in range(6):
            chosen = str(number in numbers).lower()
            expect(rows.nth(number)).to_have_attribute("aria-selected", chosen)

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    rows.nth(4).focus()
    press("x")
    rows.nth(2).focus()
    press("x", more, more, more)
    expect_selected(2, 3, 4, 5)
    press(less, less)
    expect_selected(2, 3, 4)
    press(less, less, less)
    expect_selected(0, 1, 2, 4)
    rows.nth(1).click(modifiers=["Shift"])
    expect_selected(1, 2, 4)
    press("Escape", "*", less)
    expect_selected(0, 1, 2, 3, 4, 5)


def test_keys_of_one_letter_can_be_switched_off(page: Page, box: Box) -> None:
    box.send(mail("Stays"))
    page.get_by_role("option").first.focus()
    page.keyboard.press("?")
    page.get_by_label("Keys of one letter").uncheck()
    page.keyboard.press("Escape")
    page.get_by_role("option").first.focus()
    page.keyboard.press("#")
    page.keyboard.press("x")
    assert page.locator("#undo").is_hidden()
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(0)


def test_the_splitter_moves_by_keys(page: Page) -> None:
    before = page.locator("#list").bounding_box()
    page.get_by_role("separator").focus()
    page.keyboard.press("ArrowRight")
    after = page.locator("#list").bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == before["width"] + 20
    value = page.get_by_role("separator").get_attribute("aria-valuenow")
    assert value == str(int(after["width"]))


def test_on_a_phone_one_pane_shows_at_a_time(opens: Any, box: Box) -> None:
    box.send(mail("Pocket"))
    page = opens(box, width=360, height=740)
    page.get_by_role("option").first.click()
    page.get_by_role("heading", name="Pocket").wait_for()
    assert page.get_by_role("listbox").is_hidden()
    page.get_by_role("button", name="Back to the list").click()
    expect(page.get_by_role("option").first).to_be_focused()
    page.get_by_role("button", name="Mailboxes").click()
    page.get_by_role("link", name="Unread").click()
    page.get_by_text("0 of 1 message").wait_for()


def test_the_top_of_a_narrow_page_is_one_line(opens: Any, box: Box) -> None:
    page = opens(box, width=320, height=640)
    first, last = (page.locator(one).bounding_box() for one in ("#rail-button", "#settings"))
    assert first["y"] == last["y"]


def test_colours_and_motion_of_the_system_are_respected(opens: Any, box: Box) -> None:
    box.send(mail("Forced"))
    page = opens(box, forced_colors="active", reduced_motion="reduce")
    row = page.get_by_role("option").first
    row.wait_for()
    assert row.evaluate("row => getComputedStyle(row).transitionDuration") == "0s"
    dot = row.locator(".dot").evaluate("dot => getComputedStyle(dot).backgroundColor")
    assert dot != page.evaluate("getComputedStyle(document.body).backgroundColor")
