"""The notation of transcripts: text in, a `Transcript` of typed steps out.

A file holds transcripts. Each begins with a line `== title`; settings before the first title hold
for the whole file. Blank lines and lines that begin with `#` are comments.

    with: data_size_limit=20, authenticator=check_password    keywords of the server; a name is
                                                              looked up in cast.py
    handler: Sink         server: Small                       names in cast.py
    warns: DeprecationWarning: Use handler…                   a warning that is given, none other
    logs: ERROR                                               an ERROR record is written
    logs: TRACEBACK                                           the same with a traceback
    secret: AHUAcA==                                          must not be found in any log record
    differs: 1.4.6 has no BDAT                                1.4.6 answers otherwise, and why

    C: text       the client sends text and CRLF; in it \\xNN \\r \\n \\t \\0 \\\\ are single bytes
    C-raw: text   the same without CRLF
    S: text       the server sends exactly this line
    S~ regex      the server sends a line that matches the expression from end to end
    SYNC          what follows may be sent only when everything above was answered
    EOF           the client closes its sending side
    CLOSE         the server closes the connection

In both directions `{x*507}` stands for 507 times x and `{b64:…}` for its base64. The greeting is
expected in front unless the first step is one of the server's.
"""

import ast
import base64
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

HOSTNAME = "mx.test"
IDENT = "ESMTP under test"
GREETING = f"220 {HOSTNAME} {IDENT}"

_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[rnt0\\])")
_OCTETS = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_REPEAT = re.compile(r"\{([^{}*]+)\*(\d+)\}")
_BASE64 = re.compile(r"\{b64:([^{}]*)\}")
_SETTING = re.compile(r"(with|handler|server|warns|logs|secret|differs):\s*(.*)")


@dataclass(frozen=True)
class Send:
    """Bytes from the client."""

    data: bytes


@dataclass(frozen=True)
class Expect:
    """One line from the server, without its line end."""

    text: str
    is_pattern: bool = False

    def matches(self, line: bytes) -> bool:
        """Tell whether `line` (without CRLF) is this line."""
        found = line.decode("utf-8", "surrogateescape")
        if self.is_pattern:
            return re.fullmatch(self.text, found) is not None
        return found == self.text

    def __str__(self) -> str:
        return f"S~ {self.text}" if self.is_pattern else f"S: {self.text}"


@dataclass(frozen=True)
class Sync:
    """The client waits for every reply so far."""


@dataclass(frozen=True)
class Eof:
    """The client closes its sending side."""


@dataclass(frozen=True)
class Close:
    """The server closes the connection."""


Step = Send | Expect | Sync | Eof | Close


class NotationError(ValueError):
    """A transcript that cannot be read; the text names the file and the line."""


@dataclass(frozen=True)
class Transcript:
    """One dialogue and the server it is held with."""

    title: str
    source: str
    keywords: str = ""
    handler: str = "Nothing"
    server: str = "Plain"
    warns: tuple[str, ...] = ()
    logs: str = ""
    secrets: tuple[str, ...] = ()
    differs: str = ""
    steps: tuple[Step, ...] = field(default=())

    @property
    def expected(self) -> tuple[Expect, ...]:
        """Every line the server must send, in order."""
        return tuple(step for step in self.steps if isinstance(step, Expect))

    @property
    def client_octets(self) -> bytes:
        """All that the client sends."""
        return b"".join(step.data for step in self.steps if isinstance(step, Send))

    @property
    def ends_by_server(self) -> bool:
        """True if the server is the one that closes."""
        return bool(self.steps) and isinstance(self.steps[-1], Close)

    def __str__(self) -> str:
        return self.title


def octets(text: str) -> bytes:
    """Return what `C: text` sends, without a line end."""

    def one(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" else _OCTETS[code]

    def encoded(found: re.Match[str]) -> str:
        plain = _ESCAPE.sub(one, found[1].encode())
        return base64.b64encode(plain).decode()

    text = _BASE64.sub(encoded, _repeated(text))
    return _ESCAPE.sub(one, text.encode())


@functools.cache
def keyword_nodes(source: str) -> dict[str, ast.expr]:
    """Return the expressions of `with: a=1, b=NAME` by keyword."""
    call = ast.parse(f"f({source})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(source)
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def read_folder(folder: Path) -> Iterator[Transcript]:
    """Yield the transcripts of every `.txt` file in `folder`, in the order of their names."""
    for path in sorted(folder.glob("*.txt")):
        yield from read_text(path.read_text("utf-8"), f"{folder.name}/{path.stem}")


def read_text(text: str, name: str) -> Iterator[Transcript]:
    """Yield the transcripts in `text`; `name` stands for it in titles and errors."""
    common = current = Transcript(title="", source=name)
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}:{number}"
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("== "):
            if current.title:
                yield _finished(current)
            current = replace(common, title=f"{name}: {line[3:].strip()}", source=where)
        elif setting := _SETTING.fullmatch(line):
            current = _with_setting(current, setting[1], setting[2].strip(), where)
            common = common if current.title else current
        else:
            if not current.title:
                raise NotationError(f"{where}: a step before the first title")
            current = replace(current, steps=(*current.steps, _step(line, where)))
    if current.title:
        yield _finished(current)


def _with_setting(current: Transcript, key: str, value: str, where: str) -> Transcript:
    match key:
        case "with":
            joined = f"{current.keywords}, {value}" if current.keywords else value
            try:
                keyword_nodes(joined)
            except (SyntaxError, ValueError) as error:
                raise NotationError(f"{where}: {value}") from error
            return replace(current, keywords=joined)
        case "handler":
            return replace(current, handler=value)
        case "server":
            return replace(current, server=value)
        case "warns":
            return replace(current, warns=(*current.warns, value))
        case "logs":
            if value not in ("ERROR", "TRACEBACK"):
                raise NotationError(f"{where}: only ERROR and TRACEBACK are known")
            return replace(current, logs=value)
        case "secret":
            return replace(current, secrets=(*current.secrets, octets(value).decode()))
        case _:
            return replace(current, differs=value)


def _step(line: str, where: str) -> Step:
    if line == "SYNC":
        return Sync()
    if line == "EOF":
        return Eof()
    if line == "CLOSE":
        return Close()
    mark, separator, rest = line.partition(":")
    if separator and mark in ("C", "C-raw", "S"):
        rest = rest.removeprefix(" ")
        if mark == "S":
            return Expect(_repeated(_BASE64.sub(_base64_text, rest)))
        return Send(octets(rest) + (b"\r\n" if mark == "C" else b""))
    if line.startswith("S~ "):
        pattern = line.removeprefix("S~ ")
        try:
            re.compile(pattern)
        except re.error as error:
            raise NotationError(f"{where}: {error}") from error
        return Expect(pattern, is_pattern=True)
    raise NotationError(f"{where}: {line!r} is not a step")


def _base64_text(found: re.Match[str]) -> str:
    return base64.b64encode(octets(found[1])).decode()


def _repeated(text: str) -> str:
    return _REPEAT.sub(lambda found: found[1] * int(found[2]), text)


def _finished(transcript: Transcript) -> Transcript:
    steps = transcript.steps
    if not steps:
        raise NotationError(f"{transcript.source}: nothing is said")
    for step in steps[:-1]:
        if isinstance(step, Close):
            raise NotationError(f"{transcript.source}: something follows CLOSE")
    if not isinstance(steps[0], Expect | Close):
        steps = (Expect(GREETING), *steps)
    return replace(transcript, steps=steps)
