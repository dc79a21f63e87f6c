"""The views of a message, and the parts of it: made by a sender, shown behind a wall."""

import re
import time
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox.attachments import disposition
from aiosmtpd.inbox.store import Store
from aiosmtpd.inbox.view import embedded, policy
from tests.inbox.support import add, mail
from tests.inbox.web import client_of

HTML = "Content-Type: text/html; charset=utf-8\r\n"
HOSTILE = (
    "<script>top.document.title='x'</script><img src=x onerror=alert(1)>"
    "<meta http-equiv=refresh content='0;url=http://evil.example'><base href=//evil.example/>"
    "<form action=//evil.example><iframe srcdoc='<script>1</script>'></iframe>"
    "<object data=x></object><a href='javascript:1'>j</a><svg onload=alert(1)></svg>"
    "<style>body{display:none}</style>\n\tÄ&nbsp;&lt;"
)
LOGO = (
    'Content-Type: multipart/related; boundary="r"\r\n',
    "--r\r\nContent-Type: text/html\r\n\r\n{html}\r\n--r\r\n"
    'Content-Type: image/png; name="a.png"\r\n'
    "Content-ID: <{id}>\r\n\r\npicture\r\n--r--",
)


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store)


def add_html(store: Store, html: str) -> str:
    return add(store, mail(html, more=HTML))


def add_logo(store: Store, html: str, id: str = "logo@shop.test") -> str:
    more, text = LOGO
    return add(store, mail(text.format(html=html, id=id), more=more))


async def view(web: httpx.AsyncClient, path: str, **headers: str) -> httpx.Response:
    return await web.get(f"/view/{path}", headers=headers)


# HTML.


async def test_the_html_is_unchanged(store: Store, web: httpx.AsyncClient) -> None:
    id = add_html(store, HOSTILE)
    answer = await view(web, f"{id}.html")
    assert answer.text == HOSTILE + "\r\n"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert store.counts().unread == 0
    assert (await view(web, "latest.html?query=subject:hi")).text == answer.text


async def test_the_html_has_no_rights(store: Store, web: httpx.AsyncClient) -> None:
    id = add_html(store, HOSTILE)
    directives = (await view(web, f"{id}.html")).headers["content-security-policy"].split("; ")
    assert directives == [
        "sandbox allow-popups allow-popups-to-escape-sandbox",
        *("default-src 'none'", "img-src 'self' data:", "style-src 'unsafe-inline'"),
        *("font-src data:", "form-action 'none'", "base-uri 'none'", "frame-ancestors 'self'"),
    ]


def test_no_policy_lets_scripts_have_the_origin_of_the_page() -> None:
    for nonce in ("", "abc"):
        for remote in (False, True):
            made = policy(nonce, remote=remote)
            assert "allow-same-origin" not in made
            assert "allow-top-navigation" not in made
            assert ("allow-scripts" in made) is ("script-src" in made) is bool(nonce)
            assert "unsafe-eval" not in made
            assert ("http:" in made) is remote


async def test_remote_images_are_loaded_on_demand(store: Store, web: httpx.AsyncClient) -> None:
    id = add_html(store, "<img src=http://shop.test/a.png>")

    async def images(client: httpx.AsyncClient, query: str = "", **headers: str) -> str:
        answer = await view(client, f"{id}.html{query}", **headers)
        return answer.headers["content-security-policy"].split("; ")[2]

    assert await images(web) == "img-src 'self' data:"
    assert await images(web, "?remote=1") == "img-src 'self' data: https: http:"
    # A link on another site's page must not load them.
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert await images(web, "?remote=1", **foreign) == "img-src 'self' data:"
    always = client_of(store, remote_images=True)
    assert await images(always) == "img-src 'self' data: https: http:"


async def test_images_of_the_message_are_found(store: Store) -> None:
    html = (
        "<img src='cid:logo@shop.test'><img src=CID:logo%40shop.test><p>cid:logo@shop.test</p>"
        '<img src="cid:other@shop.test">'
    )
    id = add_logo(store, html)
    for root in ("/", "/mail/"):
        web = client_of(store, root=root)
        part = f"{root}api/v1/message/{id}/part/2"
        answer = await web.get(f"{root}view/{id}.html")
        assert answer.text == (
            f"<img src='{part}'><img src={part}><p>cid:logo@shop.test</p>"
            '<img src="cid:other@shop.test">'
        )
        assert (await web.get(part)).content == b"picture"


BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_browsers_do_not_connect_beforehand(store: Store, web: httpx.AsyncClient) -> None:
    html = (
        "<link rel=preconnect href=//a.test><LINK\trel=dns-prefetch href=//a.test><link/rel=x>"
        "<p title='<link>'><links><linked x><iFrame src=//a.test></iframe><object><frame/><link"
    )
    id = add_html(store, html)
    assert (await view(web, f"{id}.html")).text.strip() == html
    answer = await view(web, f"{id}.html", **BROWSER)
    assert answer.text.strip() == (
        "<x-link rel=preconnect href=//a.test><x-LINK\trel=dns-prefetch href=//a.test>"
        "<x-link/rel=x><p title='<x-link>'><links><linked x><x-iFrame src=//a.test></iframe>"
        "<x-object><x-frame/><x-link"
    )
    assert answer.headers["x-dns-prefetch-control"] == "off"
    for headers in ({}, BROWSER):
        answer = await view(web, f"{id}.html?embed=1", **headers)
        assert not re.search(r"(?i)[^']<(?:link|i?frame|object)[\s/>]", answer.text)


async def test_images_open_with_their_key(store: Store) -> None:
    users: Any = {"users": {"a": "b"}, "root": "/mail/"}
    web = client_of(store, **users)
    id, other = add_logo(store, "<img src=cid:logo@shop.test>"), add_logo(store, "<p>")
    plain = f"/mail/api/v1/message/{id}/part/2"
    page = await web.get(f"/mail/view/{id}.html", auth=("a", "b"))
    assert page.text == f"<img src={plain}>"
    page = await web.get(f"/mail/view/{id}.html", auth=("a", "b"), headers=BROWSER)
    source = page.text.removeprefix("<img src=").removesuffix(">")
    assert source.startswith(f"{plain}?key=")
    key = source.partition("?key=")[2]
    assert (await web.get(source)).content == b"picture"
    for path in (
        *(plain, f"{plain}?key=", f"{plain}?key={key[:-1]}", f"{plain}?key=%C3%A4"),
        *(f"{plain}/thumb?key={key}", f"/mail/api/v1/message/{other}/part/2?key={key}"),
        *(f"/mail/api/v1/message/{id}?key={key}", f"/mail/?key={key}"),
    ):
        assert (await web.get(path)).status_code == 401, path
    assert (await web.delete(source)).status_code == 401
    open = client_of(store)
    page = await open.get(f"/view/{id}.html", headers=BROWSER)
    assert page.text == f"<img src=/api/v1/message/{id}/part/2>"


@pytest.mark.parametrize("id", ["(a+)+$", "\\1", "a.*", "{0}", "../../app.js", "<x"])
async def test_content_ids_are_not_patterns(store: Store, web: httpx.AsyncClient, id: str) -> None:
    html = "<img src='cid:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!'>" * 5000
    message = add_logo(store, html, id)
    begin = time.process_time()
    answer = await view(web, f"{message}.html")
    assert answer.text == html
    assert time.process_time() - begin < 10


async def test_no_html(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store)
    for name in (id, "latest", "unknown"):
        assert (await view(web, f"{name}.html")).status_code == 404
    assert store.counts().unread == 1


# Embedded.


async def test_embedded_html(store: Store, web: httpx.AsyncClient) -> None:
    html = '<p>Tom &amp; <a href="/x">Ann</a></p>'
    id = add_html(store, html)
    answer = await view(web, f"{id}.html?embed=1")
    assert html not in answer.text
    assert '<a target="_blank" rel="noreferrer noopener" href="/x">Ann</a>' in answer.text
    nonce = re.search(r'<script nonce="([\w-]{20,})">', answer.text)
    assert nonce is not None
    assert answer.text.startswith("<!DOCTYPE html><html><head></head><body><p>Tom &amp; ")
    assert answer.text.endswith("</script></body></html>")
    made = answer.headers["content-security-policy"]
    assert f"script-src 'nonce-{nonce[1]}';" in made
    again = await view(web, f"{id}.html?embed=1")
    assert nonce[1] not in again.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<html><body>a</body></html>", "<html><body>a{}</body></html>"),
        ("<HTML><BODY>a", "<html><body>a{}"),
        ("<html><title>&lt;b></title><p>", "<html><title>&lt;b&gt;</title><p>{}"),
        (
            "<html><style>a > b{}<i></style><script>a<b</script>1<2",
            "<html><style>a > b{{}}\\3c i></style><script>a&lt;b</script>1&lt;2{}",
        ),
        # No spelling brings a refresh back.
        ("<html><meta http-equiv=refresh content=0><META x><base href=x>", "<html>{}"),
        (
            "<html><svg><style><meta http-equiv=refresh></style>",
            "<html><svg><style>\\3c meta http-equiv=refresh></style>{}",
        ),
        (
            "<html><noscript><img title='</noscript><meta http-equiv=refresh>'>",
            "<html><img title='</noscript><meta http-equiv=refresh>'>{}",
        ),
        (
            "<html><xmp><meta></xmp><iframe><meta>",
            "<html><xmp>&lt;meta&gt;</xmp>&lt;meta&gt;{}",
        ),
        (
            "<html><!-- <a> --><a target=_self href=x/>",
            '<html><a target="_blank" rel="noreferrer noopener" target=_self href=x/>{}',
        ),
    ],
)
def test_html_is_written_again(html: str, expected: str) -> None:
    assert "".join(embedded(html, "n")) == "<!DOCTYPE html>" + expected.format(script_of_embedded())


def script_of_embedded() -> str:
    script = "".join(embedded("", "n")).removeprefix("<!DOCTYPE html><html><head></head><body>")
    return script.removesuffix("</body></html>")


def test_long_html_is_embedded_in_pieces() -> None:
    html = "<html><body>" + "<b>1</b>\r\n" * 5000 + "</body>" + "<i>2</i>\r" * 5000 + "</body>3"
    made = embedded(html, "n")
    assert max(map(len, made)) < 50_000
    body, rest = "<html><body>" + "<b>1</b>\n" * 5000 + "</body>", "<i>2</i>\n" * 5000
    assert "".join(made) == f"<!DOCTYPE html>{body}{rest}{script_of_embedded()}</body>3"


def test_embedding_is_linear() -> None:
    for piece in ("<a", "<!--", "<a href='", "</body>", "&", "<style>", "<<"):
        begin = time.process_time()
        embedded(piece * 100_000, "n")
        assert time.process_time() - begin < 15, piece


# Text, and the page.


async def test_the_text(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store, mail("<script>1</script>\r\nÄ"))
    answer = await view(web, f"{id}.txt")
    assert answer.text == "<script>1</script>\r\nÄ\r\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    add_html(store, "<p>only <b>HTML</b></p>")
    assert (await view(web, "latest.txt")).text.strip() == "only HTML"
    assert (await view(web, "unknown.txt")).status_code == 404


async def test_the_view_of_the_newest(store: Store) -> None:
    web = client_of(store, root="/mail/")
    assert (await web.get("/mail/view/latest")).headers["location"] == "/mail/"
    id = add(store)
    answer = await web.get("/mail/view/latest?query=subject:hi")
    assert (answer.status_code, answer.headers["location"]) == (302, f"/mail/view/{id}")
    assert (await web.get("/mail/view/latest?query=none")).headers["location"] == "/mail/"
    assert "<base" in (await web.get("/mail/view/unknown")).text


# Parts.

ACTIVE = [
    *(
        "text/html",
        "text/html; charset=utf-7",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
    ),
    *(
        "application/xml",
        "text/xsl",
        "text/javascript",
        "application/x-javascript",
        "text/ecmascript",
    ),
    *("application/rss+xml", "text/plain,text/html", "application/x-shockwave-flash", "X/HTML"),
    *("application/java-archive", "text/vbscript", "multipart/x-mixed-replace", "a/b\x00"),
]


@pytest.mark.parametrize("type", ACTIVE)
async def test_active_parts_are_downloads(store: Store, web: httpx.AsyncClient, type: str) -> None:
    text = (
        "--m\r\n\r\nhello\r\n--m\r\nContent-Disposition: attachment; filename=x.html\r\n"
        f"Content-Type: {type}\r\n\r\n<script>alert(1)</script>\r\n--m--"
    )
    id = add(store, mail(text, more="Content-Type: multipart/mixed; boundary=m\r\n"))
    answer = await web.get(f"/api/v1/message/{id}/part/2")
    assert answer.content == b"<script>alert(1)</script>"
    headers = answer.headers
    if headers["content-type"] != "text/plain":
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment; ")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")


async def test_images_are_for_the_message_alone(store: Store, web: httpx.AsyncClient) -> None:
    id = add_logo(store, "<p>")
    inside = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-dest": "image",
        "sec-fetch-mode": "no-cors",
        "origin": "null",
    }
    answer = await web.get(f"/api/v1/message/{id}/part/2", headers=inside)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert "cross-origin-resource-policy" not in answer.headers
    for path in ("latest/part/2", f"{id}/raw", f"{id}", f"{id}/part/2/thumb"):
        answer = await web.get(f"/api/v1/message/{path}", headers=inside)
        assert answer.status_code == 403, path
    assert (await web.delete("/api/v1/messages", headers=inside)).status_code == 403
    text = "--m\r\n\r\nhello\r\n--m\r\nContent-Type: application/pdf; name=x\r\n\r\n1\r\n--m--"
    other = add(store, mail(text, more="Content-Type: multipart/mixed; boundary=m\r\n"))
    answer = await web.get(f"/api/v1/message/{other}/part/2", headers=inside)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "inline; filename=\"report.pdf\"; filename*=UTF-8''report.pdf"),
        (
            'a"; x="b.exe',
            "inline; filename=\"a_; x=_b.exe\"; filename*=UTF-8''a%22%3B%20x%3D%22b.exe",
        ),
        ("a\r\nX: y", "inline; filename=\"aX: y\"; filename*=UTF-8''aX%3A%20y"),
        ("exe.\u202efdp", "inline; filename=\"exe.fdp\"; filename*=UTF-8''exe.fdp"),
        ("../../etc/x", "inline; filename=\".._.._etc_x\"; filename*=UTF-8''..%2F..%2Fetc%2Fx"),
        ("Grüße ✓", "inline; filename=\"Gr__e _\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%E2%9C%93"),
        ("\ud800", "inline; filename=\"_\"; filename*=UTF-8''%3F"),
        ("\0\x7f", "inline"),
        ("", "inline"),
    ],
)
def test_names_of_senders_cannot_break_the_header(name: str, expected: str) -> None:
    assert disposition("inline", name) == expected
    assert len(disposition("inline", "ä" * 10_000)) < 2000


async def test_no_part_has_the_name_of_a_header(store: Store, web: httpx.AsyncClient) -> None:
    name = "=?utf-8?q?a=22=0D=0AX-Evil=3A_1=0D=0A=0D=0A=3Cscript=3E?="
    more = f'Content-Type: application/octet-stream; name="{name}"\r\n'
    id = add(store, mail("data", more=more))
    answer: Any = await web.get(f"/api/v1/message/{id}/part/0")
    assert "x-evil" not in answer.headers
    assert answer.content == b"data\r\n"
    thumb = await web.get(f"/api/v1/message/{id}/part/0/thumb")
    assert "content-disposition" not in thumb.headers
