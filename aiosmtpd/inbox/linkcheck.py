"""Ask web servers whether links work, if the inbox may: one HEAD for each, to public hosts alone.

The text of a mail must not choose hosts in our network: a name is resolved once, each of its
addresses must be public, and the connection goes to that address. It is so for each redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from http import HTTPStatus
from time import monotonic
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

SECONDS = 10
"""Seconds for a link with its redirects."""

MOST_REDIRECTS = 3

AT_ONCE = 10
AT_ONCE_AT_A_HOST = 2
"""Requests at the same time."""

KEPT = 60
"""Seconds for which an answer is kept."""

MOST_KEPT = 1000

LARGEST_HEADER = 1 << 14
"""Bytes of an answer that are read."""

BLOCKED = "Blocked private/reserved address"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15"),
            *("224.0.0.0/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
            # A cloud's own server that answers at an address which looks public.
            "168.63.129.16/32",
        ),
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")
_ISATAP = (0x00005EFE, 0x02005EFE)


class Result(NamedTuple):
    """The answer for a link; the code is 0 if there was no answer."""

    code: int
    status: str


class _Blocked(Exception):
    """A host has an address that is not public."""


def is_public(address: str) -> bool:
    """Return True for an address of the internet that stands for no other one."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if any(number in network for network in _NOT_PUBLIC if network.version == number.version):
        return False
    if isinstance(number, ipaddress.IPv6Address):
        inner = (int(number) >> 32) & 0xFFFFFFFF
        return number in _UNICAST and inner not in _ISATAP and number.is_global
    return number.is_global


class LinkChecker:
    """Checks links, and keeps the answers for a minute."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bool], tuple[float, Result]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._hosts: dict[str, asyncio.Semaphore] = {}

    async def check(self, links: list[str], *, follow: bool) -> list[Result]:
        """Return an answer for each link; *follow* follows redirects."""
        return await asyncio.gather(*(self._check(link, follow) for link in links))

    async def _check(self, link: str, follow: bool) -> Result:
        kept = self._kept.get((link, follow))
        if kept is not None and monotonic() - kept[0] < KEPT:
            return kept[1]
        if len(self._hosts) > MOST_KEPT:
            self._hosts.clear()
        host = _host_of(link)
        async with self._hosts.setdefault(host, asyncio.Semaphore(AT_ONCE_AT_A_HOST)), self._slots:
            result = await _answer(link, follow=follow)
        self._kept.pop((link, follow), None)
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[link, follow] = monotonic(), result
        return result


def _host_of(link: str) -> str:
    try:
        return urlsplit(link).hostname or ""
    except ValueError:
        return ""


async def _answer(link: str, *, follow: bool) -> Result:
    try:
        async with asyncio.timeout(SECONDS):
            for _ in range(MOST_REDIRECTS + 1):
                code, place = await _head(urlsplit(link))
                if not (follow and code in _REDIRECTS and place):
                    return Result(code, _phrase(code))
                link = urljoin(link, place)
        return Result(0, f"more than {MOST_REDIRECTS} redirects")
    except _Blocked:
        return Result(451, BLOCKED)
    except TimeoutError:
        return Result(0, f"no answer within {SECONDS} seconds")
    except (OSError, ValueError, EOFError) as error:
        return Result(0, str(error)[:200] or type(error).__name__)


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return str(code)


async def _head(url: SplitResult) -> tuple[int, str]:
    """Return the code of an answer to HEAD, and its Location."""
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("not an address of http or https")
    host = url.hostname.encode("idna").decode() if not url.hostname.isascii() else url.hostname
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    address = await _address(host, port)
    context = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(
        address, port, ssl=context, server_hostname=host if secure else None, limit=LARGEST_HEADER
    )
    try:
        name = f"[{host}]" if ":" in host else host
        target = quote(url.path or "/", safe="/%:@!$&'()*+,;=~")
        query = "?" + quote(url.query, safe="/%:@!$&'()*+,;=~?") if url.query else ""
        lines = [
            f"HEAD {target}{query} HTTP/1.1",
            f"Host: {name}" if url.port is None else f"Host: {name}:{port}",
            *("User-Agent: aiosmtpd", "Accept: */*", "Connection: close", "", ""),
        ]
        writer.write("\r\n".join(lines).encode("ascii"))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = await reader.read(LARGEST_HEADER)
        return _read(head)
    finally:
        writer.transport.abort()


async def _address(host: str, port: int) -> str:
    """Return an address of a host; raises _Blocked if one of them is not public."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(place[0]) for *_, place in found]
    if not all(map(is_public, addresses)):
        raise _Blocked
    return addresses[0]


def _read(head: bytes) -> tuple[int, str]:
    first, *fields = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not words[0].startswith("HTTP/") or len(words) < 2 or not words[1].isdecimal():
        raise ValueError("the answer is not HTTP")
    for field in fields:
        name, _, value = field.partition(":")
        if name.strip().lower() == "location":
            return int(words[1][:3]), value.strip()
    return int(words[1][:3]), ""
