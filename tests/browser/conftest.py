"""Chromium, and an inbox for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Box, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 10_000
"""Milliseconds after which something that should be on the page is missing."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium for all tests of this folder: asyncio cannot be used while it runs."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        api.expect.set_options(timeout=PATIENCE)
        started = playwright.chromium.launch(executable_path=program)
        yield started
        started.close()


@pytest.fixture
def box() -> Iterator[Box]:
    with serving() as started:
        yield started


@pytest.fixture
def opens(browser: Browser) -> Iterator[Any]:
    """Return a function that opens the page of an inbox, and closes it at the end of the test.

    The page must not ask another host for anything and must have no error.
    """
    contexts: list[Any] = []

    def open(
        box: Box, path: str = "", *, width: int = 1280, height: int = 760, **more: Any
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        made: Page = context.new_page()
        made.on("request", lambda request: asked.append(request))
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.goto(box.url + path)
        hosts.append(box.url)
        return made

    asked: list[Any] = []
    wrong: list[str] = []
    hosts: list[str] = []
    yield open
    for context in contexts:
        context.close()
    # Requests that the policy of a page stops are "asked" as well, and have failed.
    sent = [one.url for one in asked if one.failure != "csp"]
    assert not [url for url in sent if not url.startswith((*hosts, "data:"))]
    assert not wrong


@pytest.fixture
def page(opens: Any, box: Box) -> Page:
    """The page of the box, wide."""
    opened: Page = opens(box)
    return opened
