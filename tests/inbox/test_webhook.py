"""The webhook: one POST for each new message, to the URL of the option and to no other place."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiosmtpd.inbox import webhook
from aiosmtpd.inbox.store import Store, Tagging
from aiosmtpd.inbox.webhook import Webhook
from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.inbox.command import running
from tests.inbox.support import add, mail, received, row
from tests.rows import each_row


class Hook:
    """A web server on loopback that keeps the requests and answers as the path says."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[list[str], bytes]] = asyncio.Queue()
        self.port = 0
        self.goes_on = asyncio.Event()

    def url(self, path: str = "/200") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        [length] = [line.split()[1] for line in head if line.startswith("Content-Length:")]
        self.requests.put_nowait((head, await reader.readexactly(int(length))))
        path = head[0].split(" ")[1].partition("?")[0].strip("/")
        if path == "late":
            await self.goes_on.wait()
        answers = {
            "mail": b"220 mail.example ESMTP\r\n\r\n",
            "long": b"HTTP/1.1 " + b"2" * 100_000,
            "gone": b"",
            "away": b"HTTP/1.1 307 Go\r\nLocation: /200\r\nContent-Length: 0\r\n\r\n",
        }
        usual = f"HTTP/1.1 {path} What\r\nContent-Length: 2\r\n\r\nok"
        writer.write(answers.get(path, usual.encode()))
        writer.close()

    async def next(self) -> tuple[list[str], Any]:
        """Return the lines and the JSON of the next request."""
        async with asyncio.timeout(PATIENCE):
            head, body = await self.requests.get()
        return head, json.loads(body)

    async def subjects(self, count: int) -> list[str]:
        return [(await self.next())[1]["Subject"] for _ in range(count)]


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    server = await asyncio.start_server(hook.answer, "127.0.0.1", 0)
    hook.port = server.sockets[0].getsockname()[1]
    yield hook
    hook.goes_on.set()
    server.close()
    await server.wait_closed()


async def coming(store: Store, *subjects: str) -> None:
    """Store messages as the server does, beside the event loop."""
    for subject in subjects:
        await asyncio.wrap_future(store.add(received(mail(subject=subject))))


async def test_a_message_is_posted_as_lists_have_it(hook: Hook) -> None:
    with Store(tagging=Tagging([("subject:hi", ["Greeting"])])) as store:
        poster = Webhook(hook.url("/200/x%20y?a=\u00e9&b=c"))
        poster.start(store)
        id = await asyncio.to_thread(add, store, mail("Gr\u00fc\u00dfe"))
        head, body = await hook.next()
        await poster.stop()
        assert body == row(store, id)
        assert (body["ID"], body["Read"], body["Tags"]) == (id, False, ["Greeting"])
    assert head[0] == "POST /200/x%20y?a=%C3%A9&b=c HTTP/1.1"
    assert f"Host: 127.0.0.1:{hook.port}" in head
    assert "Content-Type: application/json" in head
    assert not [line for line in head if line.startswith("Authorization")]


async def test_a_login_and_a_label(hook: Hook, store: Store) -> None:
    url = hook.url().replace("//", "//me:s%2Fx@")
    poster = Webhook(url, label="Shop \u00fc\r\nX: y")
    poster.start(store)
    await coming(store, "Hi")
    head, _ = await hook.next()
    await poster.stop()
    assert "Authorization: Basic bWU6cy94" in head
    assert "Mailpit-Label: Shop %C3%BC%0D%0AX: y" in head
    assert poster.name == f"http://127.0.0.1:{hook.port}/"


async def test_other_changes_are_not_posted(hook: Hook, store: Store) -> None:
    old = await asyncio.to_thread(add, store)
    poster = Webhook(hook.url(), 0)
    poster.start(store)
    await asyncio.wrap_future(store.set_read([old], True))
    await asyncio.wrap_future(store.delete([old]))
    await coming(store, "new")
    assert await hook.subjects(1) == ["new"]
    await poster.stop()
    await coming(store, "later")
    assert hook.requests.empty()


async def test_messages_that_come_too_soon_are_left_out(
    hook: Hook, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    poster = Webhook(hook.url())
    poster.start(store)
    await coming(store, "first", "second", "third")
    assert await hook.subjects(1) == ["first"]
    await poster.stop()
    assert hook.requests.empty()
    [record] = caplog.records
    assert "left out 2 messages that came too soon" in record.getMessage()


async def test_without_a_limit_all_are_posted(hook: Hook, store: Store) -> None:
    poster = Webhook(hook.url(), 0)
    poster.start(store)
    await coming(store, "first", "second", "third")
    assert sorted(await hook.subjects(3)) == ["first", "second", "third"]
    await poster.stop()


async def test_few_requests_wait_at_a_time(
    hook: Hook, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook, "AT_ONCE", 2)
    monkeypatch.setattr(webhook, "FAREWELL", 0)
    poster = Webhook(hook.url("/late"), 0)
    poster.start(store)
    await coming(store, "first", "second", "third")
    assert sorted(await hook.subjects(2)) == ["first", "second"]
    await poster.stop()
    assert "left out 1 message that" in caplog.text


async def test_a_request_has_a_moment_at_the_end(hook: Hook, store: Store) -> None:
    poster = Webhook(hook.url("/late"))
    poster.start(store)
    await coming(store, "Hi")
    await hook.next()
    stopping = asyncio.create_task(poster.stop())
    hook.goes_on.set()
    async with asyncio.timeout(PATIENCE):
        await stopping


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/500", "it answers 500"),
        ("/away", "it answers 307, a redirect, which is not followed"),
        ("/gone", "the connection ended before an answer"),
        ("/mail", "the answer is not HTTP"),
        ("/long", "the answer is not HTTP"),
        ("/late", "no answer within 0.01 seconds"),
    ],
)
async def test_a_failure_is_logged_once(
    path: str,
    problem: str,
    hook: Hook,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if path == "/late":
        monkeypatch.setattr(webhook, "SECONDS", 0.01)
    poster = Webhook(hook.url(path), 0)
    poster.start(store)
    await coming(store, "first", "second")
    if path != "/late":
        await hook.subjects(2)
    await poster.stop()
    # Neither a second request for a message, nor one to the place of the redirect.
    assert hook.requests.empty() or path == "/late"
    [record] = caplog.records
    assert record.getMessage() == f"the webhook {poster.name} has failed: {problem}"


async def test_a_server_that_is_not_there(
    store: Store, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    poster = Webhook(f"http://127.0.0.1:{unused_tcp_port}/")
    poster.start(store)
    await coming(store, "Hi")
    await poster.stop()
    assert f"127.0.0.1:{unused_tcp_port}/ has failed: connection refused" in caplog.text


async def test_a_host_is_unknown_as_macos_says_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = socket.gaierror(8, "nodename nor servname provided, or not known")

    def getaddrinfo(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    poster = Webhook("http://hook.test/")
    poster.start(store)
    await coming(store, "Hi")
    await poster.stop()
    assert f"has failed: {error.strerror}" in caplog.text


async def test_https_needs_a_certificate_that_is_trusted(
    store: Store, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Hook()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert_file, certificates.key_file)
    server = await asyncio.start_server(hook.answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    poster = Webhook(f"https://127.0.0.1:{port}/200", 0)
    poster.start(store)
    await coming(store, "Hi")
    await poster.stop()
    server.close()
    await server.wait_closed()
    assert hook.requests.empty()
    assert "certificate" in caplog.text.lower()


@each_row(
    "url",
    [
        *("x", "ftp://a.test/", "http://", "http://a:b:c/", "http://[::1", "http://a.test:0/"),
        *("http://a.test/#x", "http://a.test/\r\nX: y", "http://a b/", "http://a.test:99999/"),
    ],
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ValueError, match="write http://HOST:PORT/PATH"):
        Webhook(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a.test/secret?key=1", "http://a.test/"),
        ("https://me:secret@[::1]:8443/x", "https://[::1]:8443/"),
        ("http://gr\u00fcn.test", "http://xn--grn-ioa.test/"),
    ],
)
def test_the_name_has_no_secret(url: str, name: str) -> None:
    assert Webhook(url).name == name


async def test_a_variable_of_mailpit_names_the_url(hook: Hook) -> None:
    def run() -> None:
        with running(MP_WEBHOOK_URL=hook.url()) as inbox:
            assert f"posts each message to http://127.0.0.1:{hook.port}/" in inbox.banner
            inbox.send()
            found = asyncio.run_coroutine_threadsafe(hook.next(), loop).result(PATIENCE)
            assert found[1]["Subject"] == "Hi"
            assert inbox.program.end() == (0, "", "")

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(run)
