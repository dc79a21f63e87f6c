"""List the links of a message, each with its place and what is wrong with it. No network."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from public import public

from aiosmtpd.inbox.letter import LONGEST_HTML, Letter
from aiosmtpd.mail import links as addresses
from aiosmtpd.mail.html_tokens import Tag, Tokens, attributes_of

MOST_LINKS = 1000
"""Links of a message that are listed."""

LONGEST_TEXT = 200
"""Characters of a link's text that are listed."""

_WANTED = frozenset({"href", "src", "alt", "id", "name", "rel", "class", "role", "type", "title"})
_TRACKING = frozenset(
    {"fbclid", "gclid", "mc_cid", "mc_eid", "msclkid", "_hsenc", "_hsmi", "yclid"}
)
_HOST = re.compile(r"(?:https?://)?((?:[a-z0-9-]+\.)+[a-z]{2,24})(?:[:/?#]\S*)?", re.IGNORECASE)
_LOCAL = (".localhost", ".local", ".internal", ".test", ".invalid", ".lan")
_STAGING = re.compile(r"(?:^|[.-])(?:staging|stage|dev|preview|sandbox|qa|uat)(?:[.-]|$)")
_FIELD_LINK = re.compile(r"<([^<>]{1,2000})>")
_BLANKS = re.compile(r"\s+")


@public
class FoundLink(NamedTuple):
    """A link, the text that a reader sees for it, and its place."""

    url: str
    text: str
    place: str
    """``html``, ``button``, ``image``, ``text`` or ``unsubscribe``."""
    host: str
    """``""`` if the address has none, such as that of mailto."""
    warnings: tuple[str, ...]
    wrong: bool
    """True if a warning is about a mistake, not about a host or a parameter."""

    def json(self) -> dict[str, Any]:
        """Return it as ``GET /api/message/{id}/links`` lists it."""
        return {**self._asdict(), "warnings": list(self.warnings)}


@public
def find(letter: Letter) -> list[FoundLink]:
    """Return the links of a message: of its HTML, its text and its header, each once a place."""
    page = _Page(letter.page)
    found: dict[tuple[str, str, str], FoundLink] = {}

    def add(url: str, text: str, place: str) -> None:
        if len(found) < MOST_LINKS:
            text = _BLANKS.sub(" ", text).strip()[:LONGEST_TEXT]
            mistakes, hints = tuple(_mistakes(url, text, page.names)), tuple(_hints(url))
            link = FoundLink(url, text, place, host_of(url), mistakes + hints, bool(mistakes))
            found.setdefault((url, text, place), link)

    for url, text, place in page.links:
        add(url, text, place)
    for url in addresses.find(letter.text[:LONGEST_HTML]):
        add(url, "", "text")
    for value in letter.values("list-unsubscribe"):
        for url in _FIELD_LINK.findall(value):
            add(url.strip(), "", "unsubscribe")
    return list(found.values())


def host_of(url: str) -> str:
    """Return the host of an address in lower case, ``""`` without one."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


class _Page:
    """The links of HTML with their texts, and the names to which a fragment may lead."""

    def __init__(self, html: str) -> None:
        self.links: list[tuple[str, str, str]] = []
        self.names: frozenset[str] = frozenset()
        names: set[str] = set()
        text: list[str] = []
        open_link: tuple[str, str] | None = None
        hidden = ""
        for token in Tokens(html):
            if not isinstance(token, Tag):
                if open_link and hidden not in ("style", "script") and len(text) < 100:
                    text.append(token[:LONGEST_TEXT])
                continue
            hidden = "" if token.closes else token.name
            if token.name == "a" and open_link:
                # A link ends the one before it: they are not nested.
                self._add(open_link, text)
                open_link, text = None, []
            if token.closes:
                continue
            attributes = attributes_of(token.source, _WANTED)
            names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
            if token.name == "a" and "href" in attributes:
                open_link = attributes["href"].strip(), _kind(attributes)
            elif token.name == "area" and "href" in attributes:
                self.links.append((attributes["href"].strip(), attributes.get("alt", ""), "image"))
            elif token.name == "img" and open_link:
                text.append(attributes.get("alt", "")[:LONGEST_TEXT])
                open_link = open_link[0], "image" if open_link[1] == "html" else open_link[1]
        if open_link:
            self._add(open_link, text)
        self.names = frozenset(names)

    def _add(self, link: tuple[str, str], text: list[str]) -> None:
        url, place = link
        self.links.append((url, " ".join(text), place))


def _kind(attributes: dict[str, str]) -> str:
    words = f"{attributes.get('class', '')} {attributes.get('role', '')}".lower()
    return "button" if re.search(r"\b(?:btn|button|cta)", words) else "html"


def _mistakes(url: str, text: str, names: Iterable[str]) -> Iterable[str]:
    """Yield one line for each thing that is wrong with a link."""
    if not url:
        yield "the address is empty"
        return
    if url.startswith("#"):
        if url[1:] not in names:
            yield f"no element of the message has the name {url[1:41]!r}"
        return
    scheme = url.partition(":")[0].lower() if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", url) else ""
    if not scheme:
        yield "the address is not absolute: mail programs cannot follow it"
        return
    if scheme in ("javascript", "data", "vbscript", "file"):
        yield f"mail programs do not follow {scheme}: addresses"
        return
    if scheme not in ("http", "https"):
        return
    host = host_of(url)
    if not host:
        yield "the address has no host"
        return
    shown = _HOST.fullmatch(text)
    if shown and shown[1].lower().removeprefix("www.") != host.removeprefix("www."):
        yield f"its text names {shown[1].lower()}, it leads to {host}"
    if re.search(r"\{\{|\}\}|%7B%7B|undefined|\[object", url):
        yield "a placeholder is left in the address"


def _hints(url: str) -> Iterable[str]:
    """Yield one line for each thing that may be meant, but is wrong in some messages."""
    host = host_of(url)
    if not host or not url.lower().startswith(("http:", "https:")):
        return
    if url.lower().startswith("http:"):
        yield "http: is not encrypted"
    if _is_local(host):
        yield f"only some networks can reach {host}"
    elif _STAGING.search(host):
        yield f"{host} looks like a host for tests"
    names = {name.lower() for name, _ in _parameters(url)}
    tracking = sorted(name for name in names if name in _TRACKING or name.startswith("utm_"))
    if tracking:
        yield f"parameters that track readers: {', '.join(tracking[:5])}"


def _parameters(url: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(urlsplit(url).query, max_num_fields=200)
    except ValueError:
        return []


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(_LOCAL):
        return True
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return "." not in host
