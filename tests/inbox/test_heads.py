"""Messages as the page gets them: without their texts, and those inside of other ones."""

from typing import Any

import httpx
import pytest

from aiosmtpd.inbox.heads import remote_images
from aiosmtpd.inbox.store import Store
from tests.inbox.own_support import asking
from tests.inbox.support import add, mail

FORWARDED = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: Fwd: Hello\r\n"
    b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"
    b"--a\r\nContent-Type: text/plain\r\n\r\nSee below.\r\n"
    b"--a\r\nContent-Type: message/rfc822\r\n\r\n"
    b"From: Eve <eve@example.net>\r\nTo: ann@example.org\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Content-Type: multipart/related; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n"
    b'<p>Inside</p><img src="cid:logo"><img src="https://x.test/a.png">\r\n'
    b"--b\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\n\r\n\x89PNG\r\n"
    b"--b--\r\n"
    b"--a--\r\n"
)


async def answered(store: Store, path: str, **headers: str) -> httpx.Response:
    async with asking(store) as client:
        return await client.get(path, headers=headers)


async def head(store: Store, path: str, status: int = 200) -> Any:
    answer = await answered(store, f"/api/message/{path}")
    assert answer.status_code == status
    return answer.json()


async def test_a_head_has_all_but_the_texts(store: Store) -> None:
    id = add(store, mail("<p>Hi</p>", more="Content-Type: text/html\r\n"), recipients=["x@y.test"])
    found = await head(store, f"{id}/head")
    assert found["HTML"] is True
    assert "Text" not in found
    assert found["Bcc"] == [{"Name": "", "Address": "x@y.test"}]
    assert found["Envelope"] == {"From": "ann@example.org", "To": ["x@y.test"]}
    assert (found["Part"], found["Notices"]) == ("", [])
    stored = store.message(id)
    assert stored is not None
    assert stored.read
    assert (await head(store, "latest/head"))["ID"] == id


async def test_a_forwarded_message_is_one_of_its_own(store: Store) -> None:
    id = add(store, FORWARDED)
    found = await head(store, f"{id}/head?part=2")
    assert (found["Subject"], found["From"]["Address"]) == ("Grüße", "eve@example.net")
    assert (found["Part"], found["Outer"], found["HTML"]) == ("2", "Fwd: Hello", True)
    assert found["RemoteImages"] == {"Count": 1, "Hosts": 1}
    [image] = found["Inline"]
    part = await answered(store, f"/api/v1/message/{id}/part/{image['PartID']}")
    assert part.headers["content-type"] == "image/png"
    page = await answered(store, f"/view/{id}.html?part=2&frame=1", accept="text/html")
    assert "<p>Inside</p>" in page.text
    assert f"/api/v1/message/{id}/part/{image['PartID']}" in page.text
    assert "sandbox" in page.headers["content-security-policy"]
    assert "Inside" in (await answered(store, f"/view/{id}.txt?part=2")).text


@pytest.mark.parametrize("part", ["1", "9", "2.1", "x"])
async def test_other_parts_are_not_messages(store: Store, part: str) -> None:
    id = add(store, FORWARDED)
    assert "is not a message" in (await head(store, f"{id}/head?part={part}", 404))["error"]
    for end in "html", "txt":
        assert (await answered(store, f"/view/{id}.{end}?part={part}")).status_code == 404


@pytest.mark.parametrize(
    ("html", "count", "hosts"),
    [
        ("<img src='https://a.test/1'><IMG SRC=//b.test/2>", 2, 2),
        ("<img src=cid:x><img src='data:image/png,x'><a href='https://a.test/'>x</a>", 0, 0),
        ("<picture><source srcset='https://a.test/1 2x'><img src=https://a.test/2>", 2, 1),
        ("<td background='https://a.test/b'><p style='background:url(https://a.test/c)'>", 2, 1),
        ("<style>p { background: url(&quot;http://c.test/x&quot;) }</style>", 1, 1),
        ("<img src='https://[/'>" + "<img" * 100_000, 1, 1),
    ],
)
def test_remote_images_are_counted(html: str, count: int, hosts: int) -> None:
    assert remote_images(html) == {"Count": count, "Hosts": hosts}


async def test_the_mailboxes_are_counted(store: Store) -> None:
    add(store, username="shop")
    add(store, mail(to="BOB@example.org, eve@example.net"), username="shop")
    id = add(store, recipients=["hidden@example.org"], username="blog")
    found = (await answered(store, "/api/mailboxes")).json()
    assert found["counted"] == 3
    assert found["recipients"][0] == {"address": "bob@example.org", "count": 3}
    assert {"address": "hidden@example.org", "count": 1} in found["recipients"]
    assert found["logins"] == [{"name": "shop", "count": 2}, {"name": "blog", "count": 1}]
    assert len(store.find("login:SHOP")) == 2
    assert store.find("-login:shop") == [id]
    store.delete([id]).result(30)
    assert (await answered(store, "/api/mailboxes")).json()["counted"] == 2
