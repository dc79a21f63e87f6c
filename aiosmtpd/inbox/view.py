"""The pages ``/view/ID.html`` and ``/view/ID.txt``: a message without anything around it.

The HTML is the sender's, unchanged but for links to its own images. Its Content-Security-Policy
gives it an origin of its own, without scripts and without a network. No policy keeps ``<link>``
and frames from connecting to a host beforehand: browsers do not get these elements, which have no
other effect here. Programs get the HTML exactly.
"""

from __future__ import annotations

import asyncio
import re
from html import escape
from secrets import token_urlsafe
from urllib.parse import quote, unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox.answers import UNKNOWN, encoded, octets_answer, zone_of
from aiosmtpd.inbox.auth import key_of
from aiosmtpd.inbox.heads import AnyMail, inner
from aiosmtpd.inbox.message import CLOSED, Finder
from aiosmtpd.inbox.paths import base_of
from aiosmtpd.inbox.pieces import cut_at_tags, replace_tags
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import StoredMail
from aiosmtpd.mail.html_tokens import Tokens

_POPUPS = "allow-popups allow-popups-to-escape-sandbox"
_POLICY = (
    "sandbox {allowed}; default-src 'none'; img-src 'self' data:{remote};"
    " style-src 'unsafe-inline'; font-src data:;{scripts} form-action 'none'; base-uri 'none';"
    " frame-ancestors 'self'"
)
_IMAGE = re.compile(r"""(=["']?)cid:([^"'<>\s]{1,1000})""", re.IGNORECASE)
_HEIGHT = (
    "addEventListener('load',function(){parent.postMessage("
    "{messageHeight:document.documentElement.scrollHeight},'*')})"
)
_TYPE = re.compile(
    r"\s*+(?:<!--(?:(?!-->).){0,1000}+-->\s*+){0,9}+<!doctype\b[^>]*>", re.IGNORECASE | re.DOTALL
)
_NEW_WINDOW = ' target="_blank" rel="noreferrer noopener"'
_CUT = "The text is cut here: the HTML has more than 2 MB"
_CONNECTING = ("link", "iframe", "frame", "object", "embed", "portal", "fencedframe")
_TAG = re.compile(rf"<(?=(?:{'|'.join(_CONNECTING)})[\s/>])", re.IGNORECASE)
_TOKENS = 4096
"""Tokens of a piece."""

_LEFT_OUT = frozenset({"base", "meta", "noscript", *_CONNECTING})


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes of the views; the page itself has those for people."""
    views = Views(services)
    return [
        Route("/view/latest", views.latest),
        Route("/view/{id}.html", views.html),
        Route("/view/{id}.txt", views.text),
    ]


class Views(Finder):
    """Answers with a message alone."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._remote = services.options.remote_images
        self._asks_for_password = services.options.users is not None

    async def html(self, request: Request) -> Response:
        """Return the HTML of a message; ``embed=1`` adds a script that tells its height.

        ``frame=1`` is for the page's own frame: links open new windows, all else is unchanged.
        ``remote=1`` lets it load images from other hosts, if the inbox's own page asks. ``part`` is
        the number of a part that is a message.
        """
        mail = await self.find(request)
        base, is_browser = base_of(request), "text/html" in request.headers.get("accept", "")
        has_keys = self._asks_for_password and is_browser
        shown = await self._shown(request, mail)
        html = await asyncio.to_thread(lambda: with_images(shown, base, has_keys=has_keys))
        if not html:
            raise HTTPException(404, UNKNOWN)
        await self.mark_read(mail)
        query = request.query_params
        # A link on another site's page must not be able to ask for it.
        is_own = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        remote = self._remote or (is_own and query.get("remote") == "1")
        nonce = token_urlsafe(16) if query.get("embed") == "1" else ""
        is_framed = query.get("frame") == "1"

        def made() -> list[bytes]:
            page = replace_tags(_TAG, "<x-", html) if is_browser else html
            if nonce:
                return [octets for piece in embedded(page, nonce) for octets in encoded(piece)]
            return encoded(framed(page) if is_framed else page)

        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": policy(nonce, remote=remote),
        }
        async with self._turn(mail):
            return octets_answer(await asyncio.to_thread(made), headers)

    async def text(self, request: Request) -> Response:
        """Return the text of a message."""
        mail = await self.find(request)
        async with self._turn(mail):
            shown = await self._shown(request, mail)
            octets = await asyncio.to_thread(lambda: encoded(text_of(shown)))
        await self.mark_read(mail)
        headers = {"content-type": "text/plain; charset=utf-8", "content-security-policy": CLOSED}
        return octets_answer(octets, headers)

    async def _shown(self, request: Request, mail: StoredMail) -> AnyMail:
        """Return the message, or the one inside of it; HTTPException 404 without such a part."""
        if not (number := request.query_params.get("part")):
            return mail
        found = await asyncio.to_thread(inner, mail, number)
        if found is None:
            raise HTTPException(404, UNKNOWN)
        return found

    async def latest(self, request: Request) -> Response:
        """Send the browser to the newest message that matches."""
        newest = await asyncio.to_thread(
            self._store.newest, request.query_params.get("query", ""), zone=zone_of(request)
        )
        place = f"view/{newest}" if newest else ""
        return RedirectResponse(base_of(request) + place, 302)


def text_of(mail: AnyMail) -> str:
    """Return the text of a message, and at its end a note if it was cut."""
    return f"{mail.text}\n\n[{_CUT}]\n" if mail.is_cut else mail.text


def policy(nonce: str = "", *, remote: bool = False) -> str:
    """Return the Content-Security-Policy of a message's HTML."""
    return _POLICY.format(
        allowed=f"allow-scripts {_POPUPS}" if nonce else _POPUPS,
        remote=" https: http:" if remote else "",
        scripts=f" script-src 'nonce-{nonce}';" if nonce else "",
    )


def with_images(mail: AnyMail, base: str, *, has_keys: bool = False) -> str:
    """Return the HTML of a message, its ``cid:`` addresses of listed parts replaced.

    With *has_keys*, the images need no password.
    """
    html = mail.html
    parts = {
        one.content_id: one.number
        for one in reversed([*mail.inline, *mail.attachments])
        if one.content_id
    }
    if not parts:
        return html

    def replaced(match: re.Match[str]) -> str:
        number = parts.get(match[2]) or parts.get(unquote(match[2]))
        if number is None:
            return match[0]
        path = f"api/v1/message/{mail.id}/part/{number}"
        key = f"?key={key_of('/' + path)}" if has_keys else ""
        return f"{match[1]}{quote(base)}{path}{key}"

    return replace_tags(_IMAGE, replaced, html)


def framed(html: str) -> str:
    """Return HTML whose links open new windows and which a browser draws as before."""
    # After the document type, because a browser draws a document without one in another way.
    found = _TYPE.match(html)
    end = found.end() if found else 0
    return f'{html[:end]}<base target="_blank">{html[end:]}'


def embedded(html: str, nonce: str) -> list[str]:
    """Return HTML as a whole document whose links open new windows, with a script at its end.

    A document with scripts may also load another page by itself: ``<meta>`` is left out. Texts
    have no ``<``, and ``<noscript>`` is left out, so that no browser finds other tags than these.
    The document is in pieces.
    """
    # Not one list of all tokens: it would need many times the memory of the HTML.
    made, pieces = [""], list[str]()
    raw, end, is_whole = "", None, False
    for token in Tokens(_with_line_feeds(html)):
        if len(pieces) >= _TOKENS:
            made.append("".join(pieces))
            pieces = []
        if isinstance(token, str):
            pieces.append(token.replace("<", "\\3c ") if raw == "style" else escape(token, False))
            continue
        raw = ""
        if token.name in _LEFT_OUT:
            continue
        if token.closes:
            if token.name == "body":
                made.append("".join(pieces))
                pieces, end = [], len(made)
            pieces.append(f"</{token.name}>")
            continue
        raw = token.name
        is_whole = is_whole or token.name == "html"
        # Of equal attributes, the first counts.
        added = _NEW_WINDOW if token.name == "a" else ""
        pieces.append(f"<{token.name}{added}{token.source}>")
    made.append("".join(pieces))
    script = f'<script nonce="{nonce}">{_HEIGHT}</script>'
    if end is None:
        made += [script] if is_whole else [script, "</body></html>"]
    else:
        made.insert(end, script)
    made[0] = "<!DOCTYPE html>" + ("" if is_whole else "<html><head></head><body>")
    return made


def _with_line_feeds(html: str) -> str:
    """Return HTML with the line ends that browsers see (section 13.2.3.5 of the standard)."""
    if "\r" not in html:
        return html
    pieces = cut_at_tags(html)
    return "".join(piece.replace("\r\n", "\n").replace("\r", "\n") for piece in pieces)
