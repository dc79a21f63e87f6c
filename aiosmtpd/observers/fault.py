"""Faults as values: their stages, effects and patterns, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any

from attrs import Attribute, field, frozen
from public import public

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Reply

STAGES = {
    "connect": "client",
    "ehlo": "client",
    "starttls": "client",
    "auth": "client",
    "mail": "sender",
    "rcpt": "recipient",
    "data": "recipient",
    "end-of-data": "recipient",
    "quit": "client",
}
"""Every stage, and what a pattern without a name is about there."""

DRIP = 0.1
"""Seconds between two bytes of a ``drip`` that does not give them."""

_KEYS = {"from": "sender", "to": "recipient", "client": "client"}
_KNOWN = {"client": ["client"], "sender": ["client", "sender"], "recipient": list(_KEYS.values())}
_EFFECTS = (
    "a reply (450 4.2.1 busy), say TEXT, delay SECONDS, drip [SECONDS], drop, drop after, "
    "truncate [OCTETS] or tls-failure"
)
_SHAPE = "write 'STAGE [PATTERN]: EFFECT [TIMES]', as 'rcpt *@slow.test: 450 4.2.1 busy x2'"
_NUMBER = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_REPLY_CODE = re.compile(r"[2-5][0-9][0-9]")
_PERCENT = re.compile(r"([0-9]{1,9})%")
_PER_MINUTE = re.compile(r"([0-9]{1,9})/min")
_LONGEST_PATTERN = 500


def _check_pattern(_: Any, attribute: Attribute[Any], pattern: str | None) -> None:
    if pattern is None:
        return
    shown = f"the pattern {pattern!r:.60}"
    if not pattern or not pattern.isprintable() or " " in pattern:
        raise ValueError(f"{shown} is to be one printable word: write ? or \\s for a blank")
    if pattern.endswith(":"):
        raise ValueError(f"{shown} must not end with a colon: write [:]")
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"{shown} has more than {_LONGEST_PATTERN} characters")
    try:
        _compiled(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"{shown} is not a regular expression: {error}") from None


def _check_number(_: Any, attribute: Attribute[Any], number: int | None) -> None:
    highest = 100 if attribute.name == "percent" else 999_999_999
    if number is not None and not 0 < number <= highest:
        raise ValueError(f"{attribute.name} is to be a number from 1 to {highest}, not {number}")


def _normal(text: str) -> str:
    """Return one line with one blank between words; raises ValueError if that cannot be."""
    text = re.sub(" +", " ", text).strip(" ")
    if not text.isprintable():
        raise ValueError(f"{text!r:.60} is to be one line of printable characters")
    return text


@public
@frozen
class Fault:
    """One rule by which something goes wrong: where, what, for whom and how often.

    *stage* is one of ``connect``, ``ehlo`` (HELO and LHLO too), ``starttls``, ``auth``, ``mail``,
    ``rcpt``, ``data`` (the reply to DATA), ``end-of-data`` (the reply to the message) and
    ``quit``. *effect* is one of these texts:

    * a reply such as ``450 4.2.1 busy``, in place of the command, which is not done whatever the
      reply says: a 250 at ``end-of-data`` loses the message;
    * ``say TEXT``: a line that need not be a reply, in the same way;
    * ``delay SECONDS``: wait, then do the command;
    * ``drip [SECONDS]``: do it and send the reply byte by byte, so many seconds apart;
    * ``drop``: close the connection in place of the command; ``drop after``: do the command, send
      the reply, close;
    * ``truncate [OCTETS]``: do the command, send so much of the reply and close, by default
      half of its last line;
    * ``tls-failure``: let the TLS handshake after STARTTLS fail.

    *sender*, *recipient* and *client* (its address) are patterns that have to match, in any case
    of letters: globs such as ``*@slow.test``, or regular expressions between slashes, which match
    anywhere. At most one of the others says how often: the first *times*, each *every*-th time,
    *percent* of the times (by random numbers from *seed*, so that it is the same in each run), or
    what is more than *per_minute* in a minute. ``str()`` gives the text that
    :func:`parse_fault` reads. Raises ValueError, with one line, for a fault that cannot be.
    """

    stage: str = field()
    effect: str = field(converter=_normal)
    sender: str | None = field(default=None, kw_only=True, validator=_check_pattern)
    recipient: str | None = field(default=None, kw_only=True, validator=_check_pattern)
    client: str | None = field(default=None, kw_only=True, validator=_check_pattern)
    times: int | None = field(default=None, kw_only=True, validator=_check_number)
    every: int | None = field(default=None, kw_only=True, validator=_check_number)
    percent: int | None = field(default=None, kw_only=True, validator=_check_number)
    seed: int = field(default=0, kw_only=True)
    per_minute: int | None = field(default=None, kw_only=True, validator=_check_number)

    @stage.validator
    def _check_stage(self, _: Attribute[Any], stage: str) -> None:
        if stage not in STAGES:
            raise ValueError(f"unknown stage {stage!r:.40}: write one of {', '.join(STAGES)}")

    @effect.validator
    def _check_effect(self, _: Attribute[Any], effect: str) -> None:
        kind, _value = parse_effect(effect)
        if kind == "tls-failure" and self.stage != "starttls":
            raise ValueError(f"tls-failure is an effect of starttls, not of {self.stage}")

    @seed.validator
    def _check_seed(self, _: Attribute[Any], seed: int) -> None:
        if not 0 <= seed <= 999_999_999:
            raise ValueError(f"seed is to be a number from 0 to 999999999, not {seed}")

    def __attrs_post_init__(self) -> None:
        for name in _KEYS.values():
            if getattr(self, name) is not None and name not in _KNOWN[STAGES[self.stage]]:
                raise ValueError(f"the {name} is not known at {self.stage}")
        given = [self.times, self.every, self.percent, self.per_minute]
        if len(given) - given.count(None) > 1:
            raise ValueError("a fault has one of times, every, percent and per_minute")
        if self.seed and self.percent is None:
            raise ValueError("a seed is for a fault with percent")

    def matches(
        self, stage: str, *, sender: str | None, recipients: Iterable[str], client: str
    ) -> bool:
        """Tell whether this is about an event: one of the recipients is enough."""
        return (
            stage == self.stage
            and (self.sender is None or _fits(self.sender, [sender or ""]))
            and (self.recipient is None or _fits(self.recipient, recipients))
            and (self.client is None or _fits(self.client, [client]))
        )

    def __str__(self) -> str:
        patterns = [f" {key}={value}" for key in _KEYS if (value := getattr(self, _KEYS[key]))]
        when = ""
        if self.times is not None:
            when = f" x{self.times}"
        elif self.every is not None:
            when = f" every {self.every}"
        elif self.percent is not None:
            when = f" {self.percent}%" + (f" seed {self.seed}" if self.seed else "")
        elif self.per_minute is not None:
            when = f" over {self.per_minute}/min"
        elif len(_split_times(self.effect.split(" "))[0]) < len(self.effect.split(" ")):
            # The effect's own last word would be read as how often.
            when = " always"
        return f"{self.stage}{''.join(patterns)}: {self.effect}{when}"


@public
def parse_fault(text: str) -> Fault:
    """Return the fault that *text* says: ``STAGE [PATTERN ...]: EFFECT [TIMES]``.

    A PATTERN is ``from=``, ``to=`` or ``client=`` and a glob or ``/regular expression/``; without
    a name it is about the sender at ``mail``, about the recipient at ``rcpt``, ``data`` and
    ``end-of-data``, and about the client's address elsewhere. TIMES is ``xN`` (the first N),
    ``every N``, ``N%`` or ``N% seed M``, ``over N/min``, or ``always``, which is the default.
    Raises ValueError with a text of one line.
    """
    head, colon, effect = f"{_normal(text)} ".partition(": ")
    words = head.split(" ")
    if not colon or not words[0]:
        raise ValueError(f"{text!r:.60} is not a fault: {_SHAPE}")
    stage = words[0]
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r:.40}: write one of {', '.join(STAGES)}")
    patterns: dict[str, str] = {}
    for word in words[1:]:
        key, mark, pattern = word.partition("=")
        name = _KEYS[key] if mark and key in _KEYS else STAGES[stage]
        if name in patterns:
            raise ValueError(f"two patterns for the {name}: {patterns[name]:.60} and {word:.60}")
        patterns[name] = pattern if mark and key in _KEYS else word
    left, times = _split_times(effect.strip().split(" "))
    parts: dict[str, Any] = {**patterns, **times}
    return Fault(stage, " ".join(left), **parts)


def _split_times(words: Sequence[str]) -> tuple[Sequence[str], dict[str, int]]:
    """Split what says how often off the end of an effect, if there is any."""
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "always":
        return words[:-1], {}
    if last.startswith("x") and _NUMBER.fullmatch(last[1:]):
        return words[:-1], {"times": int(last[1:])}
    if before == "every" and _NUMBER.fullmatch(last):
        return words[:-2], {"every": int(last)}
    if found := _PERCENT.fullmatch(last):
        return words[:-1], {"percent": int(found[1])}
    if before == "over" and (found := _PER_MINUTE.fullmatch(last)):
        return words[:-2], {"per_minute": int(found[1])}
    if before == "seed" and _NUMBER.fullmatch(last) and len(words) > 2:
        left, times = _split_times(words[:-2])
        if "percent" in times:
            return left, {**times, "seed": int(last)}
    return words, {}


def parse_effect(text: str) -> tuple[str, Any]:
    """Return the kind of an effect, and what it needs to know; raises ValueError."""
    word, _, rest = text.partition(" ")
    if _REPLY_CODE.fullmatch(word):
        return "reply", Reply(text)
    if word == "say" and rest:
        line = Reply("220", "")
        line.octets = replies.octets(rest)
        return "reply", line
    if word in ("delay", "drip") and _SECONDS.fullmatch(rest):
        return word, float(rest)
    if text == "drip":
        return "drip", DRIP
    if text in ("drop", "drop after", "tls-failure"):
        return text, None
    if word == "truncate" and (not rest or _NUMBER.fullmatch(rest)):
        return "truncate", int(rest) if rest else None
    raise ValueError(f"unknown effect {text!r:.60}: write {_EFFECTS}")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > 1 and pattern[0] == pattern[-1] == "/":
        return re.compile(pattern[1:-1], re.IGNORECASE)
    return re.compile(rf"\A{translate(pattern)}", re.IGNORECASE)


def _fits(pattern: str, values: Iterable[str]) -> bool:
    return any(_compiled(pattern).search(value) for value in values)
