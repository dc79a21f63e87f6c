"""The wall before the page and the API: hosts, origins, logins, proxies, headers, limits."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from aiosmtpd.inbox.app import inbox_app
from aiosmtpd.inbox.services import WebOptions
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add
from tests.inbox.web import HOST, client_of

EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def web() -> Iterator[httpx.AsyncClient]:
    """Return a client of a store with one message, which no test here may change."""
    with Store() as store:
        add(store)
        yield client_of(store)


# Hosts.


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:8025", "127.0.0.1:8025", "192.0.2.7", "[::1]:8025", "mailpit:8025", "Box"),
        *("a.localhost", "mac.local", "x.internal", "x.test:80", "x.lan", "x.home.arpa", "box."),
    ],
)
async def test_hosts_that_no_other_site_can_have(web: httpx.AsyncClient, host: str) -> None:
    assert (await web.get("/api/v1/messages", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8025", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("x@localhost", "localhost/x", "localhost:x", "[::1", "evil.example.", "127.1", "0x7f.1"),
        *("[::1].evil.example", "evil.example#.local", "evil.example?.local", "xlocal.host"),
    ],
)
async def test_other_hosts_are_refused(web: httpx.AsyncClient, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/v1/messages"), ("DELETE", "/api/v1/messages")):
        answer = await web.request(method, path, headers={"host": host})
        assert answer.status_code == 421
    assert (await web.get("/api/v1/messages")).json()["total"] == 1


async def test_two_hosts_are_refused(web: httpx.AsyncClient) -> None:
    headers = [("host", HOST), ("host", "evil.example")]
    assert (await web.get("/api/v1/messages", headers=headers)).status_code == 421


async def test_a_host_can_be_allowed(store: Store) -> None:
    for hosts in (["Mail.Example.org"], ["*"]):
        web = client_of(store, hosts=hosts)
        headers = {"host": "mail.example.org:8025"}
        assert (await web.get("/api/v1/messages", headers=headers)).status_code == 200


# Origins.

FOREIGN = [
    *(EVIL, "null", "http://localhost:9999", "http://localhost.evil.example:8025", "", "x"),
    *("http://localhost", "https://localhost", "file://", "http://localhost:8025.evil.example"),
    *("http://evil.example#http://localhost:8025", "http://evil.example@localhost:8025"),
]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_pages_of_other_origins_are_refused(web: httpx.AsyncClient, origin: str) -> None:
    for method, path in (
        *(("GET", "/api/v1/messages"), ("DELETE", "/api/v1/messages"), ("POST", "/api/v1/send")),
        *(("GET", "/%61pi/v1/messages"), ("GET", "/x/..//api/v1/messages"), ("GET", "/API/v1/x")),
        *(("OPTIONS", "/api/v1/messages"), ("GET", "/view/latest.html"), ("GET", "/")),
    ):
        url = f"http://{HOST}{path}"
        answer = await web.request(method, url, headers={"origin": origin})
        assert answer.status_code == 403, (method, path)
        assert "access-control-allow-origin" not in answer.headers
    assert (await web.get("/api/v1/messages")).json()["total"] == 1


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        *(("http://localhost:8025", HOST), ("HTTPS://LocalHost:8025", HOST)),
        *(("http://localhost", "localhost:80"), ("https://localhost", "localhost")),
    ],
)
async def test_the_own_origin_is_allowed(web: httpx.AsyncClient, origin: str, host: str) -> None:
    headers = {"origin": origin, "host": host}
    answer = await web.get("/api/v1/messages", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin


async def test_origins_can_be_allowed(store: Store) -> None:
    web = client_of(store, origins=["http://shop.test:3000"], users={"a": "b"})
    headers = {"origin": "http://shop.test:3000"}
    answer = await web.options("/api/v1/messages", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE, PUT, OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "*"
    answer = await web.get("/api/v1/messages", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "http://shop.test:3000"
    assert (await web.get("/", headers={"origin": EVIL})).status_code == 403
    everyone = client_of(store, origins=["*"])
    assert (await everyone.get("/api/v1/info", headers={"origin": EVIL})).status_code == 200


async def test_requests_of_other_sites_without_an_origin(web: httpx.AsyncClient) -> None:
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for path in ("/api/v1/message/latest", "/view/latest.html", "/api/v1/message/latest/part/2"):
        assert (await web.get(path, headers=image)).status_code == 403
    assert (await web.get("/", headers=link)).status_code == 200
    for method in ("POST", "PUT", "DELETE"):
        answer = await web.request(method, "/api/v1/messages", headers=link)
        assert answer.status_code == 403
    near = {"sec-fetch-site": "same-origin"}
    assert (await web.get("/api/v1/messages", headers=near)).json()["total"] == 1


async def test_no_other_method_by_a_field_or_parameter(web: httpx.AsyncClient) -> None:
    headers = {"x-http-method-override": "DELETE", "content-type": "text/plain"}
    await web.post("/api/v1/messages?_method=DELETE", headers=headers)
    assert (await web.get("/api/v1/messages")).json()["total"] == 1


# Logins.


async def test_a_login_is_needed(store: Store) -> None:
    web = client_of(store, users={"ann": "secret", "Grüße": "pass:word"})
    for path in ("/", "/api/v1/messages", "/api/events", "/view/latest.html", "/x", "/index.html"):
        for auth in (None, ("ann", "Secret"), ("bob", ""), ("", ""), ("ann", "")):
            answer = await web.get(path, auth=auth)
            assert (answer.status_code, answer.text) == (401, "Unauthorized.\n")
            assert answer.headers["www-authenticate"] == 'Basic realm="Login"'
    assert (await web.get("/", auth=("ann", "secret"))).status_code == 200
    assert (await web.get("/", auth=("Grüße", "pass:word"))).status_code == 200


@pytest.mark.parametrize(
    "value", ["", "Basic", "Basic x", "Basic %%%%", "Bearer YTpi", "Basic YQ=="]
)
async def test_malformed_logins(store: Store, value: str) -> None:
    web = client_of(store, users={"a": "b"})
    assert (await web.get("/", headers={"authorization": value})).status_code == 401


async def test_no_query_goes_around_the_login(store: Store) -> None:
    web = client_of(store, users={"a": "b"})
    for query in ("&" * 250, "key=" + "%" * 250, "key=%ff", "=" * 250):
        assert (await web.get(f"/?{query}")).status_code == 401


# The root and other proxies.


@pytest.mark.parametrize("root", ["/mail/", "mail", "/a/b-c_d.e@f"])
async def test_a_web_root(store: Store, root: str) -> None:
    web = client_of(store, root=root)
    clean = "/" + root.strip("/")
    answer = await web.get(clean)
    assert (answer.status_code, answer.headers["location"]) == (302, clean + "/")
    for path in ("/", "/livez", "/api/v1/messages", "/readyz"):
        assert (await web.get(clean + path)).status_code == 200
        assert (await web.get(path)).status_code == 404
    page = await web.get(clean + "/")
    assert f'<base href="{clean}/">' in page.text
    assert (await web.get(f"{clean}x/")).status_code == 404


@pytest.mark.parametrize("root", ["/a b/", "/a/../b", "/ä/", '/"/', "/./"])
def test_wrong_web_roots(root: str) -> None:
    with pytest.raises(ValueError, match="web root"):
        WebOptions(root=root)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        *(("//view/x.txt?a=b", "/view/x.txt?a=b"), ("/api//v1/./info", "/api/v1/info")),
        *(("/x/%2e%2e/livez", "/livez"), ("//evil.example/%2e%2e", "/"), ("/a/../../..//b", "/b")),
        *(("/view//", "/view/"), ("/%2e%2e/%2f%2fevil.example", "/evil.example")),
        ("/x/..//%0d%0aX:y", "/%0D%0AX:y"),
    ],
)
async def test_paths_are_cleaned(web: httpx.AsyncClient, path: str, place: str) -> None:
    answer = await web.get(httpx.URL(f"http://{HOST}{path}"))
    assert (answer.status_code, answer.headers["location"]) == (307, place)


async def test_only_trusted_proxies_are_believed(store: Store) -> None:
    forwarded = {
        "x-forwarded-prefix": "/tools/mail/",
        "x-forwarded-host": "box.test",
        "x-forwarded-for": "198.51.100.7, 127.0.0.1",
        "origin": "https://box.test",
    }
    trusting = client_of(store, trusted_proxies=["127.0.0.0/8"])
    page = await trusting.get("/", headers=forwarded)
    assert '<base href="/tools/mail/">' in page.text
    answer = await trusting.get("/view//x", headers=forwarded)
    assert answer.headers["location"] == "/tools/mail/view/x"
    for network in ("192.0.2.0/24", None):
        web = client_of(store, trusted_proxies=[network] if network else ())
        assert (await web.get("/", headers=forwarded)).status_code == 403
        del (again := dict(forwarded))["origin"]
        assert '<base href="/">' in (await web.get("/", headers=again)).text


@pytest.mark.parametrize("prefix", ['/"><script>', "//evil.example", "/a/../b", "http://x/", "x"])
async def test_wrong_prefixes_are_ignored(store: Store, prefix: str) -> None:
    web = client_of(store, trusted_proxies=["127.0.0.1"])
    page = await web.get("/", headers={"x-forwarded-prefix": prefix})
    assert '<base href="/">' in page.text


async def test_it_is_a_part_of_another_application(store: Store) -> None:
    id = add(store)
    app = Starlette(routes=[Mount("/_mail", inbox_app(store, WebOptions(root="/box")))])
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as web:
        page = await web.get("/_mail/box/")
        assert '<base href="/_mail/box/">' in page.text
        assert (await web.get(f"/_mail/box/api/v1/message/{id}")).status_code == 200
        assert (await web.get("/_mail/box")).headers["location"] == "/_mail/box/"
        assert (await web.get("/_mail/box//livez")).headers["location"] == "/_mail/box/livez"
        headers = {"origin": EVIL}
        assert (await web.get("/_mail/box/api/v1/info", headers=headers)).status_code == 403


# Headers.


async def test_each_answer_has_the_headers(store: Store) -> None:
    web = client_of(store, users={"a": "b"})
    id = add(store)
    for path, auth, headers in (
        *(("/", ("a", "b"), {}), ("/", None, {}), ("/", None, {"host": "evil.example"})),
        *(("/x", ("a", "b"), {}), ("//x", ("a", "b"), {}), ("/livez", None, {})),
        *((f"/api/v1/message/{id}", ("a", "b"), {}), ("/", None, {"origin": EVIL})),
    ):
        answer = await web.get(f"http://{HOST}{path}", auth=auth, headers=headers)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        assert answer.headers["cache-control"] in ("no-store", "no-cache")


async def test_mail_is_never_kept_by_a_browser(web: httpx.AsyncClient) -> None:
    id = "latest"
    for path in (f"api/v1/message/{id}", f"api/v1/message/{id}/raw", f"view/{id}.txt"):
        assert (await web.get(f"/{path}")).headers["cache-control"] == "no-store"


# Files of the page.


async def test_files_of_the_page_have_a_tag(web: httpx.AsyncClient) -> None:
    for path in ("/", "/search?q=x", "/view/unknown"):
        answer = await web.get(path, headers={"accept-encoding": "identity"})
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        tag = answer.headers["etag"]
        again = await web.get(path, headers={"if-none-match": f'"x", W/{tag}', **_plain})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


_plain = {"accept-encoding": "identity"}


@pytest.mark.parametrize(
    "path", ["/index.html", "/../app.py", "/%2e%2e/app.py", "/page/index.html", "/app.py", "/%00"]
)
async def test_no_other_file_is_served(web: httpx.AsyncClient, path: str) -> None:
    answer: Any = await web.get(path, follow_redirects=True)
    assert answer.status_code == 404
