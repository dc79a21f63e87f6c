"""Copy a message as a test, as a program or as a command that sends it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from public import public

from aiosmtpd.inbox.letter import Letter
from aiosmtpd.mail.criteria import found

LARGEST_LITERAL = 64 << 10
"""Bytes of the largest message that is written into a program; larger ones are read from a file."""

LARGEST_READ = 1 << 20
"""Bytes of the largest message whose links and codes become a part of a test."""

LONGEST_NAME = 50
"""Characters of the name of a test, without its ``test_``."""

_WORD = re.compile(r"[a-z0-9]+")
_RANDOM = re.compile(r"[^/]*[0-9][^/]*|[^/]{16,}")


@public
class Places(NamedTuple):
    """The addresses that a copy names."""

    smtp: str = "127.0.0.1:1025"
    web: str = "http://127.0.0.1:8025/"
    """The page, with its web root and a slash at the end."""


@public
def copy(letter: Letter, kind: str, places: Places) -> str:
    """Return a message as ``pytest``, ``python``, ``send``, ``curl`` or ``wait``.

    Raises LookupError for another kind.
    """
    return _KINDS[kind](letter, places)


def kinds() -> tuple[str, ...]:
    """Return the kinds of copies."""
    return tuple(_KINDS)


def _as_pytest(letter: Letter, places: Places) -> str:
    wanted = [f"to={literal(one)}" for one in letter.recipients[:1]]
    if letter.subject.strip():
        wanted.append(f"subject={literal(letter.subject)}")
    lines = [
        f"def test_{slug(letter.subject)}(smtp_inbox):",
        "    ...  # here your program sends the message",
        f"    mail = smtp_inbox.wait({', '.join(wanted)})",
        f"    assert mail.sender == {literal(letter.sender)}",
        *(f"    {line}" for line in _assertions(letter)),
    ]
    return "\n".join([*lines, ""])


def _assertions(letter: Letter) -> Iterator[str]:
    """Yield a line for each thing that the message has and that the next one will have, too."""
    if letter.size <= LARGEST_READ:
        links = letter.links
        if links and (pattern := stable_part(links[0])) and found(pattern, links[0]):
            yield f"assert mail.link({literal(pattern)})"
        with suppress(LookupError):
            yield f"assert mail.code()  # {letter.code()} in the message that was copied"
    names = [one.name for one in letter.attached]
    if any(names):
        listed = ", ".join(map(literal, names))
        yield f"assert [one.name for one in mail.attachments] == [{listed}]"


def stable_part(url: str) -> str:
    """Return the part of an address that is likely to be the same in the next message.

    ``""`` if the text is not an address.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    kept = []
    for segment in parts.path.split("/")[1:]:
        if not segment or _RANDOM.fullmatch(segment):
            break
        kept.append(segment)
    if not kept:
        return f"{parts.scheme}://{parts.netloc}"
    path = "/" + "/".join(kept)
    return path if path == parts.path else f"{path}/"


def _as_python(letter: Letter, places: Places) -> str:
    host, _, port = places.smtp.rpartition(":")
    content = letter.content
    if len(content) > LARGEST_LITERAL:
        head = "import smtplib\nfrom pathlib import Path\n\n"
        name = f"{letter.stored.id}.eml"
        head += f"# Its source: {_source(letter, places)}\n"
        head += f"message = Path({literal(name)}).read_bytes()\n"
    else:
        lines = content.splitlines(keepends=True) or [b""]
        body = "".join(f"    {line!r}\n" for line in lines)
        head = f"import smtplib\n\nmessage = (\n{body})\n"
    options = _options(letter)
    last = f", mail_options={options!r}" if options else ""
    sender = literal(letter.stored.sender)
    recipients = ", ".join(map(literal, letter.recipients))
    return (
        f"{head}\nwith smtplib.SMTP({literal(host.strip('[]'))}, {port}) as client:\n"
        f"    client.sendmail({sender}, [{recipients}], message{last})\n"
    )


def _options(letter: Letter) -> list[str]:
    paths = "".join([letter.stored.sender, *letter.recipients])
    if not paths.isascii():
        return ["SMTPUTF8", "BODY=8BITMIME"]
    return [] if letter.content.isascii() else ["BODY=8BITMIME"]


def _as_send(letter: Letter, places: Places) -> str:
    # With "=", an address may begin with "-".
    words = ["aiosmtpd", "send", places.smtp, f"--from={letter.stored.sender}"]
    words += [f"--to={one}" for one in letter.recipients]
    return _with_source(letter, places, [*words, "--eml", f"{letter.stored.id}.eml"])


def _as_curl(letter: Letter, places: Places) -> str:
    words = ["curl", f"smtp://{places.smtp}", "--mail-from", letter.stored.sender]
    for one in letter.recipients:
        words += ["--mail-rcpt", one]
    return _with_source(letter, places, [*words, "--upload-file", f"{letter.stored.id}.eml"])


def _as_wait(letter: Letter, places: Places) -> str:
    wanted = [("to", one) for one in letter.recipients[:1]]
    if letter.subject.strip():
        wanted.append(("subject", letter.subject))
    query = urlencode(wanted, quote_via=quote, safe="@", errors="replace")
    return f"{places.web}api/wait?{query}\n"


def _source(letter: Letter, places: Places) -> str:
    return f"{places.web}api/message/{letter.stored.id}/copy?as=eml"


def _with_source(letter: Letter, places: Places, words: list[str]) -> str:
    """Return two commands: one that gets the source, and one that sends it."""
    get = ["curl", "-o", f"{letter.stored.id}.eml", _source(letter, places)]
    return f"{_command(get)}\n{_command(words)}\n"


def _command(words: list[str]) -> str:
    return shlex.join(word.encode("utf-8", "replace").decode() for word in words)


def literal(text: str) -> str:
    """Return a string of Python, in double quotes if that needs no escapes."""
    spelt = repr(text)
    return f'"{spelt[1:-1]}"' if spelt[0] == "'" and '"' not in spelt else spelt


def slug(text: str) -> str:
    """Return the name of a test for a subject."""
    name = "_".join(_WORD.findall(text.lower()))
    if len(name) > LONGEST_NAME:
        # Whole words, if they fit.
        name = name[: LONGEST_NAME + 1].rpartition("_")[0] or name[:LONGEST_NAME]
    return name or "the_message"


_KINDS: dict[str, Callable[[Letter, Places], str]] = {
    "pytest": _as_pytest,
    "python": _as_python,
    "send": _as_send,
    "curl": _as_curl,
    "wait": _as_wait,
}
