"""The files of the page: light, without a build step, and without an address of another host."""

import gzip
import re
from importlib.resources import files
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add
from tests.rows import each_row

FILES = {
    file.name: file.read_text(encoding="utf-8")
    for file in (files("aiosmtpd.inbox") / "page").iterdir()
    if file.is_file()
}
HEAVIEST = 60_000
"""Bytes of all files of the page, compressed."""

NAMED = r'(?:href|src)="([\w-]+\.(?:css|js))"'
FORBIDDEN = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"

FIRST = 6
"""Files that the first view may need, without its icon."""

HTML = (
    b"Subject: x\r\nContent-Type: text/html\r\n\r\n"
    b'<link rel="preconnect" href="http://x.test/"><iframe src="http://x.test/"></iframe>'
    b'<meta http-equiv="refresh" content="0; url=http://x.test/"><meta name="a"><linked>\r\n'
)


def test_the_page_is_light() -> None:
    assert sum(len(gzip.compress(text.encode(), 9)) for text in FILES.values()) <= HEAVIEST
    assert set(FILES) >= {"index.html", "style.css", "page.js"}


def test_the_first_view_needs_few_requests() -> None:
    wanted = {
        "index.html",
        *re.findall(NAMED, FILES["index.html"]),
    }
    while (
        more := {
            name
            for file in wanted
            if file.endswith(".js")
            for name in re.findall(r"^import .* from '\./([\w-]+\.js)'", FILES[file], re.MULTILINE)
        }
        - wanted
    ):
        wanted |= more
    assert len(wanted) <= FIRST
    assert wanted <= set(FILES)


@each_row("name", sorted(FILES))
def test_no_file_names_a_host(name: str) -> None:
    text = FILES[name].replace("http://www.w3.org/2000/svg", "")
    # In the test message and in a comparison; the page asks none of them.
    text = text.replace("https://example.org/welcome/", "").replace("'https://x'", "")
    assert not re.findall(r"(?:https?:|wss?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert not re.findall(r"""(?:src|href|url\()=?["']/""", text.replace('<base href="/">', ""))


def test_no_script_and_no_style_is_inline() -> None:
    html = FILES["index.html"]
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", html) == [""]
    assert "<style" not in html
    assert not re.findall(r"\s(?:style|on\w+)=", html)


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".js")))
def test_no_text_is_read_as_markup(name: str) -> None:
    assert not re.findall(FORBIDDEN, FILES[name])
    assert not re.findall(r"style: ", FILES[name]), "the policy of the page stops style attributes"


async def view(store: Store, query: str = "", **headers: str) -> str:
    app = make_app(Services(store))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8025") as client:
        answer = await client.get(f"/view/latest.html{query}", headers=headers)
    return answer.text


async def test_programs_get_the_exact_html(store: Store) -> None:
    add(store, HTML)
    assert (await view(store)).encode() == HTML.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("query", ["", "?frame=1", "?embed=1"])
async def test_browsers_connect_to_no_host(store: Store, query: str) -> None:
    add(store, HTML)
    headers: dict[str, Any] = {"Accept": "text/html"}
    html = await view(store, query, **headers)
    assert "<x-link" in html
    assert "<x-iframe" in html
    assert "<linked" in html


@pytest.mark.parametrize("type", ["", "<!-- x -->\n<!DOCTYPE html>"])
async def test_in_the_frame_links_open_new_windows(store: Store, type: str) -> None:
    rest = "<html><style>@media (width < 600px) {}</style><a href=x>x</a></html>\r\n"
    add(store, f"Content-Type: text/html\r\n\r\n{type}{rest}".encode())
    assert await view(store, "?frame=1") == f'{type}<base target="_blank">{rest}'
