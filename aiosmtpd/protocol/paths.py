"""Parse paths, mailboxes and parameters of MAIL and RCPT, in time linear in their length.

The grammar is that of RFC 5321 section 4.1.2 with RFC 6531 section 3.3. It also accepts what many
senders write: no angle brackets, blanks around the address, a local part that mixes atoms and
quoted strings or has dots anywhere, and domain labels that contain an underscore or begin with a
hyphen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NULL_PATH = "<>"
"""The null reverse-path, as ``envelope.mail_from`` spells it."""

_BLANKS = " \t\r"
_WORD = re.compile(rf"[^{_BLANKS}]++")
# Negated character classes: one that lists all of Unicode takes 5 ms to compile.
_ATEXT = r"[^\x00-\x20\"(),:;<>@\[\\\]\x7f]"
_LABEL = r"[^\x00-,./:-@\[-^`{-\x7f]++"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*+"
# All quantifiers are possessive: the engine never backtracks, so no input is slow.
_USUAL = re.compile(rf"[{_BLANKS}]*+<({_ATEXT}++@{_DOMAIN})>")
_OPENING = re.compile(rf"[{_BLANKS}]*+(<?)[{_BLANKS}]*+")
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f]++|\\[\x20-\x7e])*+"'
_WORD_OF_LOCAL = rf'(?:[^\x00-\x20"(),.:;<>@\[\\\]\x7f]++|{_QUOTED})?+'
_PARAMETER = re.compile(r"([0-9A-Za-z][0-9A-Za-z-]*+)(?:=([^\x00-\x20\x7f-\x9f]++))?+")

# Seldom needed: re compiles these when they are, which makes the import faster.
_LOCAL = rf"{_WORD_OF_LOCAL}(?:\.++{_WORD_OF_LOCAL})*+"
_ROUTE = rf"@{_DOMAIN}(?:,@{_DOMAIN})*+:"
_QUOTING = r'\\(.)|"'
_PLAIN_LOCAL = rf"{_ATEXT}++"
_LITERAL = r"\[([0-9A-Za-z.:]{1,64}+)\]"
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*+"
_XTEXT_CODE = r"\+([0-9A-F]{2})"


class MalformedPath(ValueError):
    """An address that the grammar does not allow."""


def parse(text: str, local_part_limit: int = 0) -> tuple[str, str]:
    """Parse the address at the start of *text*; return it and the text after it.

    Unneeded quotes of a local part and a source route (RFC 5321 appendix C) are dropped.
    *local_part_limit* is in characters without quotes; 0 means no limit. Raises
    :exc:`MalformedPath`.
    """
    if (usual := _USUAL.match(text)) is not None and not local_part_limit:
        address = usual[1]
        if not address.isascii():
            _refuse_invalid(address)
        rest = text[usual.end() :]
        return address, _rest(rest) if rest else rest
    opening = _OPENING.match(text)
    bracket, position = (opening[1], opening.end()) if opening else ("", 0)
    if bracket and text.startswith(">", position):
        if text[position - 1] != "<":
            raise MalformedPath("only blanks in the path")
        return NULL_PATH, text[position + 1 :].strip(_BLANKS)
    if bracket and (route := re.match(_ROUTE, text[position:])) is not None:
        position += route.end()
    begin = position
    local, position = _local_part(text, begin)
    if 0 < local_part_limit < len(local):
        raise MalformedPath("local part too long")
    # A local part of the same length had no quotes, and needs none.
    plain = position - begin == len(local) or re.fullmatch(_PLAIN_LOCAL, local)
    address = local if plain else _quote(local)
    if text.startswith("@", position):
        domain, position = _domain(text, position + 1)
        address = f"{address}@{domain}"
    elif not local:
        raise MalformedPath("empty path")
    _refuse_invalid(address)
    if not bracket:
        if position < len(text) and text[position] not in _BLANKS:
            raise MalformedPath("text after the address")
        return address, _rest(text[position:])
    rest = text[position:].lstrip(_BLANKS)
    if not rest.startswith(">"):
        raise MalformedPath("no closing bracket")
    return address, _rest(rest[1:])


def _local_part(text: str, position: int) -> tuple[str, int]:
    local = re.match(_LOCAL, text[position:])
    if local is None or not local.end():
        raise MalformedPath("no local part")
    position += local.end()
    # Only a quoted string can contain a quote or a backslash.
    if "\\" in (word := local.group()):
        return "".join(filter(None, re.split(_QUOTING, word))), position
    return word.replace('"', ""), position


def _quote(local: str) -> str:
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _domain(text: str, position: int) -> tuple[str, int]:
    if (domain := re.match(_DOMAIN, text[position:])) is not None:
        return domain.group(), position + domain.end()
    if (literal := re.match(_LITERAL, text[position:])) is None:
        raise MalformedPath("no domain")
    import ipaddress  # 1.5 ms, rarely needed

    try:
        if literal[1][:5].upper() == "IPV6:":
            ipaddress.IPv6Address(literal[1][5:])
        else:
            ipaddress.IPv4Address(literal[1])
    except ValueError:
        raise MalformedPath("bad address literal") from None
    return literal.group(), position + literal.end()


def _rest(text: str) -> str:
    """Return the text after an address. Refuse a comment, which RFC 5321 does not allow."""
    rest = text.strip(_BLANKS)
    if rest.startswith("("):
        raise MalformedPath("a comment")
    return rest


def _refuse_invalid(address: str) -> None:
    """Refuse an address that was not UTF-8, or that has C1 controls."""
    if not _is_utf8(address):
        raise MalformedPath("not UTF-8")
    if any("\x80" <= character < "\xa0" for character in address):
        raise MalformedPath("control character in the address")


def _is_utf8(text: str) -> bool:
    """Return False for a text with surrogates, which stand for invalid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def words(text: str) -> list[str]:
    """Split *text* at blanks only, not at control characters or Unicode spaces."""
    return _WORD.findall(text)


def parameters(words: Iterable[str]) -> dict[str, str | None] | None:
    """Return ``KEY[=value]`` words as a dict of upper-case keywords and values as sent.

    Return None if a word is not an ``esmtp-param`` (RFC 5321 section 4.1.2) or a keyword comes
    twice.
    """
    found: dict[str, str | None] = {}
    for word in words:
        parameter = _PARAMETER.fullmatch(word)
        if parameter is None or (keyword := parameter[1].upper()) in found:
            return None
        if not (word.isascii() or _is_utf8(word)):
            return None
        found[keyword] = parameter[2]
    return found


def xtext(text: str) -> str:
    """Decode *text* from xtext (RFC 3461 section 4); raises ValueError if it is not xtext."""
    if not re.fullmatch(_XTEXT, text):
        raise ValueError("not xtext")
    return re.sub(_XTEXT_CODE, lambda code: chr(int(code[1], 16)), text)
