"""The check of links: it asks public hosts alone, and only if the options allow it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiosmtpd.inbox import linkcheck
from aiosmtpd.inbox.linkcheck import BLOCKED, LinkChecker, Result, is_public
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add, mail
from tests.inbox.web import client_of
from tests.rows import each_row

NOT_PUBLIC = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0"),
    *("100.64.0.1", "168.63.129.16", "192.0.0.8", "192.0.0.170", "192.88.99.1", "198.18.0.1"),
    *("198.19.255.255", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.1"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
    *("64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001::1"),
    *("2001:0:7f00:1::", "2001:db8::1", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00::1"),
    *("ff02::1", "5f00::1", "3fff::1", "100::1", "2a00::5efe:127.0.0.1", "2a00::200:5efe:7f00:1"),
]


@each_row("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


class Host:
    """A web server on loopback that records the requests and answers as the path says."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head)
        path = head.split(" ")[1].partition("?")[0].strip("/")
        if path.startswith("to-"):
            place = f"/to-{int(path[3:]) - 1}" if path != "to-0" else "/200"
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {place}\r\n\r\n".encode())
        elif path == "inside":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://inside.example/\r\n\r\n")
        elif path == "nonsense":
            writer.write(b"220 mail.example ESMTP\r\n\r\n")
        elif path == "long":
            writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20))
        elif path != "silent":
            writer.write(f"HTTP/1.1 {path} What\r\n\r\n".encode())
        writer.close()


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """Yield a host whose address counts as public, and no other one does."""
    monkeypatch.setattr(linkcheck, "is_public", lambda address: address == "127.0.0.1")
    host = Host()
    server = await asyncio.start_server(host.answer, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    yield host
    server.close()
    await server.wait_closed()


async def test_answers(host: Host) -> None:
    paths = [
        "/200",
        "/404?a=b c&d=\u00e9",
        "/500",
        "/799",
        "/nonsense",
        "/silent",
        "/long",
        "/to-0",
    ]
    found = await LinkChecker().check([host.url(path) for path in paths], follow=False)
    assert found[:4] == [
        *(Result(200, "OK"), Result(404, "Not Found"), Result(500, "Internal Server Error")),
        Result(799, "799"),
    ]
    assert [one.code for one in found[4:]] == [0, 0, 200, 302]
    assert all(head.startswith("HEAD /") for head in host.requests)
    assert "HEAD /404?a=b%20c&d=%C3%A9 HTTP/1.1" in "".join(host.requests)
    assert len(host.requests) == len(paths)


async def test_redirects_are_followed_on_demand(host: Host) -> None:
    links = [host.url("/to-2"), host.url("/to-3")]
    found = await LinkChecker().check(links, follow=True)
    assert found == [Result(200, "OK"), Result(0, "more than 3 redirects")]


async def test_each_redirect_is_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    names = {"127.0.0.1": ["127.0.0.1"], "inside.example": ["127.0.0.1", "10.0.0.1"]}

    async def resolve(name: str, port: int, **more: Any) -> Any:
        return [(socket.AF_INET, 1, 6, "", (one, port)) for one in names[name]]

    monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)
    assert await LinkChecker().check([host.url("/inside")], follow=True) == [Result(451, BLOCKED)]
    assert len(host.requests) == 1


async def test_answers_are_kept(host: Host) -> None:
    checker = LinkChecker()
    for _ in range(2):
        await checker.check([host.url("/200")], follow=False)
    assert len(host.requests) == 1


@pytest.mark.parametrize("link", ["ftp://a.test/", "http://", "http://[::1", "x", "http://a:b:c/"])
async def test_odd_links(link: str) -> None:
    [found] = await LinkChecker().check([link], follow=False)
    assert found.code == 0
    assert found.status


async def test_the_option_allows_it(host: Host, store: Store) -> None:
    id = add(store, mail(f"{host.url('/404')} http://10.0.0.1/ {host.url('/to-0')}"))
    path = f"/api/v1/message/{id}/link-check"
    found = (await client_of(store).get(path)).json()
    assert (found["Errors"], host.requests) == (0, [])
    allowed = client_of(store, link_check=True)
    found = (await allowed.get(path)).json()
    assert [one["StatusCode"] for one in found["Links"]] == [404, 451, 302]
    assert found["Errors"] == 2
    found = (await allowed.get(path + "?follow=1")).json()
    assert [one["StatusCode"] for one in found["Links"]] == [404, 451, 200]
