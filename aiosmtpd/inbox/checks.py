"""Look for mistakes in a message, without the network: the same message gives the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, Literal, NamedTuple, TypeAlias

from public import public

from aiosmtpd.inbox import links, people
from aiosmtpd.inbox.letter import LONGEST_HTML, Letter
from aiosmtpd.inbox.pieces import PIECE, search
from aiosmtpd.mail import html_text
from aiosmtpd.mail.html_tokens import Tag, Tokens, attributes_of

Level: TypeAlias = Literal["error", "warn", "info"]

GMAIL_CLIP = 102_400
"""Bytes of HTML after which Gmail cuts a message."""

LONGEST_SUBJECT = 60
"""Characters of a subject that most lists show."""

LONGEST_LINE = 998
"""Bytes of a line without its CRLF (RFC 5321, section 4.5.3.1.6)."""

MANY_IMAGES = 1_000_000
"""Bytes of images in a message that take long on a phone."""

DAY = 86400.0

_ORDER = {"error": 0, "warn": 1, "info": 2}
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_PLACEHOLDER = re.compile(
    r"\{\{[^{}]{0,60}\}\}|\{%[^{}]{0,60}%\}|\$\{\w{1,40}\}|%\(\w{1,40}\)s|(?<![\w%])%s(?!\w)"
    r"|\blorem ipsum\b|\[object Object\]|\bundefined\b|(?<=[ ,:])\b(?:null|None|NaN)\b(?=[ ,.!]|$)",
    re.MULTILINE,
)
_AUTOMATIC = re.compile(
    r"(?i)(?:no|do-?not)[-_.]?reply|notifications?|alerts?|mailer|robot|bounces?"
)
_ONLINE = re.compile(r"(?i)view (?:this (?:e-?mail|message) )?(?:online|in (?:your|a|the) browser)")
_WANTED = frozenset({"alt", "width", "height", "src", "style"})
_REMOVED = ("script", "form", "iframe", "object", "embed", "video", "audio")
_WORD = re.compile(r"\w{4,}")


@public
class Finding(NamedTuple):
    """One thing that is likely to be wrong with a message."""

    id: str
    level: Level
    title: str
    detail: str = ""
    where: str = ""
    """``header``, ``subject``, ``text``, ``html``, ``source`` or ``part 1.2``; with the line after
    a colon, if it is known."""

    def json(self) -> dict[str, str]:
        """Return it as ``GET /api/message/{id}/checks`` lists it."""
        return self._asdict()


Findings: TypeAlias = Iterator[Finding]


@public
def check(letter: Letter) -> list[Finding]:
    """Return the findings, errors first."""
    found = [one for look in _CHECKS for one in look(letter)]
    return sorted(found, key=lambda one: _ORDER[one.level])


# The header.


def _fields(letter: Letter) -> Findings:
    names = [name.lower() for name, _ in letter.fields]
    wanted: dict[str, Level] = {"Date": "error", "From": "error", "Message-ID": "warn"}
    for name, level in wanted.items():
        if name.lower() not in names:
            title = f"There is no field {name}"
            yield Finding(f"no-{name.lower()}", level, title, "RFC 5322, section 3.6", "header")
    for name in ("Date", "From", "Message-ID", "To", "Cc", "Subject", "Reply-To", "MIME-Version"):
        if (count := names.count(name.lower())) > 1:
            title = f"The field {name} is there {count} times"
            yield Finding(
                f"repeated-{name.lower()}", "error", title, "RFC 5322, section 3.6", "header"
            )
    raw = next((name for name, value in letter.fields if not value.isascii()), None)
    if raw is not None:
        yield Finding(
            "raw-header",
            "warn",
            f"The field {raw} has characters that are not ASCII",
            "Without SMTPUTF8 they have to be encoded words (RFC 2047)",
            "header",
        )


def _date(letter: Letter) -> Findings:
    values = letter.values("date")
    if not values:
        return
    try:
        moment = parsedate_to_datetime(values[0][:200])
        if moment.tzinfo is None:
            # The zone -0000: RFC 5322 section 3.3.
            moment = moment.replace(tzinfo=UTC)
    except Exception:
        # The parser raises many exceptions for malformed dates.
        yield Finding(
            "bad-date", "error", "The field Date cannot be read", values[0][:80], "header"
        )
        return
    seconds = letter.received.timestamp() - moment.timestamp()
    if abs(seconds) > DAY:
        side = "before" if seconds > 0 else "after"
        detail = f"{abs(seconds) / DAY:,.0f} days {side} the message came"
        yield Finding("far-date", "warn", "The field Date is not of today", detail, "header")


def _people(letter: Letter) -> Findings:
    authors = [one for value in _raw(letter, "from") for one in people.read(value)]
    author = authors[0].address if authors else ""
    if _raw(letter, "from") and not author:
        yield Finding("bad-from", "error", "The field From has no address", "", "header")
    path = letter.stored.sender
    if author and path and _domain(author) != _domain(path):
        detail = f"From is {author}, the envelope has {path}: SPF checks the second"
        yield Finding("from-envelope", "info", "From and envelope differ", detail, "header")
    replies = [one.address for value in _raw(letter, "reply-to") for one in people.read(value)]
    if author and replies and _domain(replies[0]) != _domain(author):
        detail = f"answers go to {replies[0]}"
        yield Finding("reply-to", "info", "Reply-To has another domain than From", detail, "header")
    local = author.partition("@")[0]
    if _AUTOMATIC.search(local) and not letter.values("auto-submitted"):
        detail = "With Auto-Submitted: auto-generated (RFC 3834), other programs do not answer it"
        yield Finding(
            "auto-submitted", "info", "It looks automatic and does not say so", detail, "header"
        )


def _lists(letter: Letter) -> Findings:
    values, post = letter.values("list-unsubscribe"), letter.values("list-unsubscribe-post")
    if values and not re.search(r"<(?:https?://|mailto:)[^<>]+>", values[0]):
        detail = "It is to have addresses in <>, with mailto: or https:"
        yield Finding("unsubscribe", "warn", "List-Unsubscribe has no address", detail, "header")
    elif values and "<https://" in values[0] and not post:
        detail = "Large providers want List-Unsubscribe-Post, too (RFC 8058)"
        yield Finding("one-click", "info", "It has no unsubscribe by one click", detail, "header")
    if post and "".join(post[0].split()).lower() != "list-unsubscribe=one-click":
        detail = "It is to be List-Unsubscribe=One-Click (RFC 8058)"
        yield Finding("one-click", "warn", "List-Unsubscribe-Post is wrong", detail, "header")
    bulk = letter.values("precedence")
    if bulk:
        detail = f"Precedence: {bulk[0][:40]} has no standard; Auto-Submitted and List-Id have"
        yield Finding("precedence", "info", "It has the old field Precedence", detail, "header")
    if not values and (letter.values("list-id") or "bulk" in "".join(bulk).lower()):
        detail = "Large providers want List-Unsubscribe in mail to many"
        yield Finding("unsubscribe", "warn", "It has no List-Unsubscribe", detail, "header")


def _subject(letter: Letter) -> Findings:
    subject = letter.subject.strip()
    if not subject:
        yield Finding("no-subject", "warn", "The subject is empty", "", "subject")
    elif len(subject) > LONGEST_SUBJECT:
        detail = f"{len(subject)} characters: most lists show about {LONGEST_SUBJECT}"
        yield Finding("long-subject", "info", "The subject is long", detail, "subject")


# The bodies.


def _bodies(letter: Letter) -> Findings:
    html, text = letter.html, letter.text
    if not html.strip():
        if not text.strip():
            yield Finding("no-body", "warn", "There is no text and no HTML", "", "text")
        return
    if not text.strip():
        detail = "Some readers and filters want plain text beside the HTML"
        yield Finding("no-text", "warn", "There is no text part", detail, "text")
    elif _differ(text, letter.seen):
        detail = "Less than a fifth of the words of the HTML are in the text"
        yield Finding(
            "text-differs", "warn", "The text says other things than the HTML", detail, "text"
        )
    size = len(html.encode("utf-8", "replace"))
    if size > GMAIL_CLIP:
        detail = f"{size:,} bytes of HTML: Gmail shows about {GMAIL_CLIP:,} and cuts the rest"
        line = html.count("\n", 0, GMAIL_CLIP) + 1
        yield Finding("gmail-clip", "warn", "Gmail cuts the message", detail, f"html:{line}")


def _differ(text: str, seen: str) -> bool:
    wanted = set(_WORD.findall(seen.casefold()))
    there = set(_WORD.findall(text[:LONGEST_HTML].casefold()))
    return len(wanted) >= 5 and len(wanted & there) * 5 < len(wanted)


def _markup(letter: Letter) -> Findings:
    html = letter.page
    bare = sizeless = 0
    removed: dict[str, None] = {}
    for token in Tokens(html):
        if not isinstance(token, Tag) or token.closes:
            continue
        if token.name == "img":
            attributes = attributes_of(token.source, _WANTED)
            bare += "alt" not in attributes
            style = attributes.get("style", "")
            sizeless += not (attributes.keys() & {"width", "height"} or "width" in style)
        elif token.name in _REMOVED:
            removed[token.name] = None
        elif token.name == "link" and "stylesheet" in token.source.lower():
            removed["link"] = None
    if bare:
        detail = "Readers without images see nothing there"
        yield Finding("image-alt", "warn", f"{_count(bare, 'image')} without alt", detail, "html")
    if sizeless:
        detail = "The text moves when they arrive"
        yield Finding(
            "image-size", "info", f"{_count(sizeless, 'image')} without a width", detail, "html"
        )
    if removed:
        names = ", ".join(f"<{name}>" for name in removed)
        title = "Mail programs remove elements of the HTML"
        yield Finding("removed", "warn", title, names, "html")
    start = html_text.read(html[:20_000]).text.strip()[:150]
    if _ONLINE.match(start):
        detail = f"Lists show the first words: {start[:60]}"
        yield Finding("preheader", "info", "The preview is not about the message", detail, "html")


def _placeholders(letter: Letter) -> Findings:
    texts = {"subject": letter.subject, "text": letter.text}
    if letter.html:
        texts["html"] = letter.seen
    for place, text in texts.items():
        if match := search(_PLACEHOLDER, text[:1_000_000]):
            line = text.count("\n", 0, match.start()) + 1
            where = f"text:{line}" if place == "text" else place
            begin = max(match.start() - 20, 0)
            detail = " ".join(text[begin : match.end() + 20].split())
            title = f"A placeholder is left: {match[0][:40]}"
            yield Finding("placeholder", "warn", title, detail, where)


def _links(letter: Letter) -> Findings:
    found = [one for one in links.find(letter) if one.warnings]
    if found:
        detail = f"{found[0].url[:100] or 'a link'}: {found[0].warnings[0]}"
        title = f"{_count(len(found), 'link')} to look at"
        yield Finding("links", "info", title, detail, "links")


# The source.


def _parts(letter: Letter) -> Findings:
    images = 0
    for part in letter.root.walk():
        if part.notice:
            title = "A part cannot be read as its sender meant it"
            yield Finding("unreadable", "error", title, part.notice, f"part {part.number}")
        if part.type.startswith("image/"):
            images += part.size
    if images > MANY_IMAGES:
        detail = f"{images:,} bytes"
        yield Finding("image-bytes", "info", "The images take long on a phone", detail, "html")


def _source(letter: Letter) -> Findings:
    longest, number, bare, high = LONGEST_LINE, 0, 0, 0
    before = 0
    with letter.stored.open() as file:
        for block in _blocks(file):
            if _is_usual(block, longest, high=bool(high), bare=bool(bare)):
                before += block.count(b"\n")
                continue
            for line_number, line in enumerate(BytesIO(block), before + 1):
                size = len(line.rstrip(b"\r\n"))
                if size > longest:
                    longest, number = size, line_number
                if not bare and _BARE.search(line):
                    bare = line_number
                if not high and not line.isascii():
                    high = line_number
            before += block.count(b"\n")
    if number:
        detail = f"{longest:,} bytes: servers may refuse more than {LONGEST_LINE} (RFC 5321)"
        yield Finding("long-line", "warn", "A line is too long", detail, f"source:{number}")
    if bare:
        detail = "Lines of mail end with CRLF: servers may refuse a lone CR or LF"
        yield Finding("bare-line-end", "warn", "A line end is not CRLF", detail, f"source:{bare}")
    mail = next((one.text for one in letter.stored.transaction if one.who == "C"), "")
    if high and mail and not re.search(r"(?i)\b(?:BODY=8BITMIME|BODY=BINARYMIME|SMTPUTF8)", mail):
        detail = "MAIL had no BODY=8BITMIME (RFC 6152)"
        yield Finding(
            "8bit", "info", "Bytes of 8 bits were not announced", detail, f"source:{high}"
        )


def _blocks(file: Any) -> Iterator[bytes]:
    """Yield whole lines of a file in blocks; those of more than 1 MiB may be in several."""
    while block := file.read(PIECE):
        yield block if block.endswith(b"\n") else block + file.readline(1 << 20)


def _is_usual(block: bytes, longest: int, *, high: bool, bare: bool) -> bool:
    """Return True if no line of a block is longer, or has what was not found before."""
    lines = block.count(b"\r\n")
    return (
        (high or block.isascii())
        and (bare or lines == block.count(b"\n") == block.count(b"\r"))
        and max(map(len, block.split(b"\n"))) <= longest
    )


def _raw(letter: Letter, name: str) -> list[str]:
    return [value for key, value in letter.fields if key.lower() == name]


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_CHECKS: tuple[Callable[[Letter], Findings], ...] = (
    _fields,
    _date,
    _people,
    _lists,
    _subject,
    _bodies,
    _markup,
    _placeholders,
    _links,
    _parts,
    _source,
)
