"""``aiosmtpd ctl``: look at a running ``aiosmtpd serve``, reload it, end it."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiosmtpd.cli.output import code_of, complain
from aiosmtpd.cli.parser import Parser
from aiosmtpd.listen.addresses import spell
from aiosmtpd.mail.terminal import json_line, safe_line

DEFAULT = "/run/aiosmtpd/ctl"
"""The socket, unless an option or the environment names another one."""

VARIABLE = "AIOSMTPD_ADMIN__SOCKET"

LONGEST = 16 << 20
"""Bytes of an answer, at most."""

PATIENCE = 15.0
"""Seconds in which the server must answer; a reload takes as long as it takes."""

ADVICE = {
    errno.ENOENT: 'if it runs, write socket = "{path}" into [admin] of its file and send it '
    "SIGHUP, or name its socket with --socket",
    errno.ECONNREFUSED: "the one that made this socket has ended",
    errno.EACCES: "only root and the user who started the server may ask it",
}
"""The next step for an operator, by the error of a connection."""

LEVELS = ("debug", "info", "warning", "error")

ABOUT = """\
Asks a running aiosmtpd serve by its
control socket, the key admin.socket of
its configuration."""

EXAMPLES = """\
examples:
  {prog} status
      workers, reload, certificates
  {prog} reload
      as SIGHUP; wait for the result
  {prog} sessions
      the open sessions
  {prog} log-level debug
      log more, until the next reload
  {prog} drain
      as SIGTERM

exit code: 0 if it was done, 1 if the
server says no or is not ready, 2 for
wrong options or if no server answers,
130 after Ctrl-C
"""


class NoServer(Exception):
    """The text says why no server answers."""


def main(args: Sequence[str], program: str) -> int:
    """Run the command; return the exit code."""
    parser = make_parser(program)
    settings = parser.parse_args(args)
    if (settings.action == "log-level") != (settings.level is not None):
        parser.error(f"log-level needs one of {', '.join(LEVELS)}; other actions take no word")
    return code_of(partial(_run, settings, program))


def _run(settings: Namespace, program: str) -> int:
    try:
        answer = ask(settings.socket, {"command": settings.action, "level": settings.level})
    except NoServer as error:
        complain(f"{program}: {error}")
        return 2
    if "error" in answer:
        complain(f"{program}: {answer['error']}")
        return 1
    return _show(settings, answer["value"])


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(program, "ACTION [OPTIONS]", ABOUT, EXAMPLES)
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=tuple(ACTIONS),
        help="status, reload, drain, sessions or log-level.",
    )
    parser.add_argument(
        "level", metavar="LEVEL", nargs="?", choices=LEVELS, help="With log-level: the new level."
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get(VARIABLE, DEFAULT),
        help=f"The control socket; without this option ${VARIABLE}, or {DEFAULT}.",
    )
    parser.add_argument("--json", action="store_true", help="Print the answer as JSON.")
    return parser


def ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the server; return its answer. Raises NoServer."""
    if not hasattr(socket, "AF_UNIX"):
        raise NoServer("this system has no Unix sockets")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(None if request["command"] == "reload" else PATIENCE)
            client.connect(path)
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as file:
                line = file.readline(LONGEST)
    except TimeoutError:
        raise NoServer(f"the server at {path} does not answer") from None
    except OSError as error:
        why = error.strerror or str(error)
        advice = ADVICE.get(error.errno or 0, "name its socket with --socket").format(path=path)
        raise NoServer(f"no server at {path}: {why}; {advice}") from error
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise NoServer(f"the server at {path} has ended, or is not an aiosmtpd serve") from None
    return answer


def _show(settings: Namespace, value: dict[str, Any]) -> int:
    if settings.json:
        print(json_line(value))
    else:
        for line in ACTIONS[settings.action](value):
            print(safe_line(line))
    return 1 if value.get("faults") or value.get("why_not") else 0


def _status(value: dict[str, Any]) -> Iterable[str]:
    yield f"{value['state']}, aiosmtpd {value['version']}, process {value['pid']}, up " + _age(
        value["uptime"]
    )
    yield from (f"  {reason}" for reason in value["why_not"])
    addresses = value["addresses"]
    places = [spell(one if isinstance(one, str) else (one[0], one[1])) for one in addresses]
    yield f"listening on {', '.join(places)}" if places else "listening no longer"
    reload, now = value["reload"], time.time()
    if not reload["ok"]:
        yield "the last reload failed:"
        yield from (f"  {fault}" for fault in reload["faults"])
    yield f"configuration {value['file'] or 'without a file'}, loaded " + (
        f"{_age(now - reload['at'])} ago"
    )
    for path, end in value["certificates"].items():
        yield f"certificate {path}: {(end - now) / 86400:.0f} days left"
    yield from _table(
        ("SLOT", "PID", "STATE", "FOR", "RESTARTS", "LEAVING", "OPEN", "MAILS", "SPOOL", "MIB"),
        (
            (
                one["slot"],
                one["pid"],
                one["state"],
                None if one["seconds"] is None else _age(one["seconds"]),
                one["restarts"],
                one["leaving"],
                one["connections"],
                one["messages"],
                one["spool"],
                None if one["memory"] is None else round(one["memory"] / (1 << 20)),
            )
            for one in value["workers"]
        ),
    )


def _sessions(value: dict[str, Any]) -> Iterable[str]:
    rows = [
        (
            one["slot"],
            one["session"],
            one["client"],
            one["listener"],
            _age(one["seconds"]),
            "yes" if one["tls"] else "no",
            "yes" if one["auth"] else "no",
            one["commands"],
            one["messages"],
            one["last"],
        )
        for one in value["sessions"]
    ]
    head = ("SLOT", "SESSION", "CLIENT", "AT", "FOR", "TLS", "AUTH", "LINES", "MAILS", "LAST")
    yield from _table(head, rows)
    yield from value["faults"]


def _reload(value: dict[str, Any]) -> Iterable[str]:
    if value["ok"]:
        yield "reloaded: all workers are new"
    else:
        yield "not reloaded, the old configuration stays:"
        yield from (f"  {fault}" for fault in value["faults"])


def _drain(value: dict[str, Any]) -> Iterable[str]:
    if value["now"]:
        yield "the server ends now"
    else:
        yield f"the server ends; its sessions have {value['seconds']:g} s at most"


def _log_level(value: dict[str, Any]) -> Iterable[str]:
    yield f"logging from {value['level']} on"
    yield from value["faults"]


ACTIONS: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "status": _status,
    "reload": _reload,
    "drain": _drain,
    "sessions": _sessions,
    "log-level": _log_level,
}


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """Yield lines with columns as wide as their longest word; numbers stand at the right."""
    cells = [list(head)]
    are_numbers = [True] * len(head)
    for row in rows:
        cells.append(["-" if value is None else str(value) for value in row])
        for column, value in enumerate(row):
            are_numbers[column] &= value is None or isinstance(value, int | float)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(line, widths, are_numbers, strict=True)
        ).rstrip()


def _age(seconds: float) -> str:
    """Return a time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
