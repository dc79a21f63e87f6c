"""``aiosmtpd queue``: look into a spool, try messages again, drop or export them."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from aiosmtpd.cli.output import code_of, complain
from aiosmtpd.cli.parser import Parser
from aiosmtpd.mail.terminal import json_line, safe, safe_line, terminal_of

if TYPE_CHECKING:
    from aiosmtpd.delivery.backlog import Backlog, Delivery, Selection

ABOUT = """\
Shows the messages in a spool, tries
them again, drops or exports them. A
server may use the spool meanwhile: it
sees changes within a second."""

EXAMPLES = """\
examples:
  {prog} list --spool DIR
      a line for each delivery
  {prog} show ID --spool DIR
      one message: envelope, errors
  {prog} retry --all --spool DIR
      try everything now
  {prog} drop ID --spool DIR
      remove a message
  {prog} export ID - --spool DIR
      the message as it came, to a pipe

exit code: 0 if it was done, 1 if there
is no such message, 2 for wrong options
or an unusable spool, 130 after Ctrl-C
"""

HEADERS = 8192
"""Bytes of the header section that ``show`` prints."""

HEAD = f"{'ID':<18} {'AGE':>5} {'SIZE':>6} {'TRIES':>5} {'NEXT':>6} {'ROUTE':<12} FROM > TO"
"""The first line of ``list``."""

COPIED = 65536
"""Bytes that ``export`` copies at a time."""


class Missing(Exception):
    """The text says which message the spool does not have."""


def main(args: Sequence[str], program: str) -> int:
    """Run the command; return the exit code."""
    parser = make_parser(program)
    settings = parser.parse_args(args)
    settings.program = program
    _check(parser, settings)
    return code_of(partial(_run, settings, program))


def _run(settings: Namespace, program: str) -> int:
    # Imported after parsing, so that --help is fast.
    from aiosmtpd.delivery.backlog import Backlog
    from aiosmtpd.delivery.database import SpoolError

    try:
        with closing(Backlog(settings.spool)) as backlog:
            return ACTIONS[settings.action](backlog, settings)
    except BrokenPipeError:
        # The reader has gone.
        raise
    except Missing as error:
        _complain(program, error)
        return 1
    except (SpoolError, OSError) as error:
        hint = _hint(settings.spool)
        _complain(program, f"{error}{hint}" if hint else error)
        return 2


def _hint(folder: str) -> str:
    """Return the rest of a complaint if the spools of workers are in a folder, or an empty text."""
    has_spool = os.path.join(folder, "0", "spool.db")
    if os.path.exists(os.path.join(folder, "spool.db")) or not os.path.exists(has_spool):
        return ""
    return f", such as {os.path.join(folder, '0')}: each worker of aiosmtpd serve has one"


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(program, "ACTION [OPTIONS]", ABOUT, EXAMPLES)
    parser.intermixed = True
    parser.add_argument(
        "action",
        metavar="ACTION",
        type=_action,
        choices=tuple(ACTIONS),
        help="list, show, retry, drop or export.",
    )
    parser.add_argument(
        "ids",
        metavar="ID",
        nargs="*",
        help="The queue ids of messages, as in the server's log and in its replies, or the "
        "first letters of one, 4 at least, if they name one message. The last "
        "argument of export is the folder or the .eml file to write to, or - for the standard "
        "output.",
    )
    parser.add_argument("--spool", metavar="DIR", required=True, help="The folder of the spool.")
    group = parser.add_argument_group("selection")
    group.add_argument("--route", type=_name, metavar="NAME", help="Only deliveries by this route.")
    group.add_argument("--dead", action="store_true", help="Only deliveries that were given up.")
    group.add_argument(
        "--all", action="store_true", help="All messages, for retry, drop and export."
    )
    group = parser.add_argument_group("action")
    group.add_argument(
        "--to",
        type=_name,
        metavar="NAME",
        help="With retry: deliver by this route from now on, for example because the old one has "
        "another name or is gone.",
    )
    group.add_argument(
        "--json", action="store_true", help="Print one line of JSON for each result."
    )
    return parser


def _action(text: str) -> str:
    """Return the text; suggest an action if it is nearly the name of one."""
    if text not in ACTIONS:
        from difflib import get_close_matches  # seldom needed

        if near := get_close_matches(text, ACTIONS, 1):
            raise ArgumentTypeError(f"invalid choice: {text!a}; did you mean {near[0]}?")
    return text


def _name(text: str) -> str:
    """Return the name of a route; it is text, and not bytes of another encoding."""
    if not text.isprintable():
        raise ArgumentTypeError(f"invalid name of a route: {text!a}")
    return text


def _check(parser: ArgumentParser, settings: Namespace) -> None:
    """End the program with one line if the words do not fit together."""
    action, ids = settings.action, settings.ids
    settings.folder = None
    if action == "export":
        if not ids or (len(ids) == 1 and not settings.all):
            parser.error("export needs a folder: export ID DIR, or export --all DIR")
        settings.folder = ids.pop()
        if settings.folder == "-" and (settings.all or len(ids) != 1):
            parser.error("one message at a time can be exported to -: export ID -")
    if settings.to and action != "retry":
        parser.error("--to needs retry")
    if action == "show" and not ids:
        parser.error("show needs the ID of a message; list shows them")
    if action == "list" and ids:
        parser.error("list takes no ID; show ID prints one message")
    is_selected = settings.all or settings.route or settings.dead
    if action in ("retry", "drop") and not (ids or is_selected):
        parser.error(f"{action} needs an ID, --route NAME, --dead or --all")
    if action in ("show", "export") and (settings.route or settings.dead):
        parser.error(f"{action} needs an ID, not --route or --dead")
    if ids and settings.all:
        parser.error("name messages, or use --all")


def _selection(settings: Namespace, queue_id: str | None = None) -> Selection:
    from aiosmtpd.delivery.backlog import Selection

    return Selection(queue_id=queue_id, route=settings.route, dead=settings.dead)


def _whole(backlog: Backlog, text: str) -> str:
    """Return the id that a text is or begins; raise :exc:`Missing` unless it is one."""
    found = backlog.named(text)
    if len(found) > 1:
        raise Missing(f"more than one ID begins with {text}: add letters")
    if not found:
        raise _missing(text)
    return found[0]


# The actions.


def _list(backlog: Backlog, settings: Namespace) -> int:
    rows = backlog.deliveries(_selection(settings))
    if settings.json:
        for row in rows:
            print(json_line(_as_json(row)))
    elif not _print_table(rows, time.time()):
        print("No such deliveries." if settings.route or settings.dead else "The spool is empty.")
    return 0


def _show(backlog: Backlog, settings: Namespace) -> int:
    for text in settings.ids:
        queue_id = _whole(backlog, text)
        rows = list(backlog.deliveries(_selection(settings, queue_id)))
        if not rows:
            raise _missing(queue_id)
        if settings.json:
            for row in rows:
                print(json_line(_as_json(row)))
        else:
            _print_message(rows, _headers(backlog, queue_id))
    return 0


def _retry(backlog: Backlog, settings: Namespace) -> int:
    is_new = settings.to is not None and not backlog.has_route(settings.to)

    def retry(selection: Selection) -> int:
        nonlocal is_new
        changed = backlog.retry(selection, settings.to)
        if changed and is_new:
            is_new = False
            _complain(
                settings.program,
                f"no delivery in this spool had the route {settings.to} before: if the server has "
                "a route of that name it is tried at once, otherwise the message waits",
            )
        return changed

    return _change(backlog, settings, retry, "retried", "to be tried")


def _drop(backlog: Backlog, settings: Namespace) -> int:
    return _change(backlog, settings, backlog.drop, "dropped", "dropped")


def _change(
    backlog: Backlog,
    settings: Namespace,
    change: Callable[[Selection], int],
    key: str,
    result: str,
) -> int:
    """Change what is selected, and say how many deliveries that were."""
    total = 0
    missing: list[Missing] = []
    for text in settings.ids or [None]:
        try:
            queue_id = text and _whole(backlog, text)
            changed = change(_selection(settings, queue_id))
            total += changed
            if not changed and not settings.all:
                raise _missing(queue_id)
        except Missing as error:
            missing.append(error)
    if settings.json:
        print(json_line({key: total}))
    elif total or not missing:
        print(f"{total} {'delivery' if total == 1 else 'deliveries'} {result}")
    if missing:
        raise missing[0]
    return 0


def _export(backlog: Backlog, settings: Namespace) -> int:
    if settings.folder == "-":
        _export_to_output(backlog, _whole(backlog, settings.ids[0]))
        return 0
    if not _is_one_file(settings):
        os.makedirs(settings.folder, 0o700, exist_ok=True)
    skipped = 0
    for text in backlog.messages() if settings.all else settings.ids:
        try:
            queue_id = text if settings.all else _whole(backlog, text)
            _export_to_file(backlog, queue_id, settings)
        except Missing:
            # With --all, it was delivered meanwhile.
            if not settings.all:
                raise
        except FileExistsError:
            if not settings.all:
                raise
            skipped += 1
    if skipped:
        files = "1 file that exists" if skipped == 1 else f"{skipped} files that exist"
        _complain(settings.program, f"skipped {files} in {settings.folder}")
    return 0


def _is_one_file(settings: Namespace) -> bool:
    """Return True if the target of ``export`` is a file, and not a folder for files."""
    target: str = settings.folder
    return len(settings.ids) == 1 and target.endswith(".eml") and not os.path.isdir(target)


def _export_to_file(backlog: Backlog, queue_id: str, settings: Namespace) -> None:
    """Write a message to a new file; leave no part of one."""
    path = settings.folder
    if not _is_one_file(settings):
        path = os.path.join(path, f"{os.path.basename(queue_id)}.eml")
    with _pieces(backlog, queue_id) as pieces:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(pieces)
        except BaseException:
            # Otherwise a second export would skip it.
            os.unlink(path)
            raise
    if settings.json:
        print(json_line({"id": queue_id, "path": path}))
    else:
        print(safe_line(path))


def _export_to_output(backlog: Backlog, queue_id: str) -> None:
    if sys.stdout.isatty():
        raise OSError("a message is not printed on a terminal: name a file, or use show")
    with _pieces(backlog, queue_id) as pieces:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@contextmanager
def _pieces(backlog: Backlog, queue_id: str) -> Iterator[Iterator[bytes]]:
    """Open a message; raise :exc:`Missing` if the spool does not have it."""
    content = backlog.content(queue_id)
    if content is None:
        raise _missing(queue_id)
    if isinstance(content, bytes):
        yield iter([content])
    else:
        with content as file:
            yield iter(lambda: file.read(COPIED), b"")


ACTIONS: dict[str, Callable[[Backlog, Namespace], int]] = {
    "list": _list,
    "show": _show,
    "retry": _retry,
    "drop": _drop,
    "export": _export,
}
"""The actions by name."""


# The output.


def _print_table(rows: Iterator[Delivery], now: float) -> int:
    """Print a line for each delivery, and one for its error; return how many."""
    terminal = terminal_of(sys.stdout)
    number = 0
    for number, row in enumerate(rows, 1):
        if number == 1:
            print(terminal.dim(HEAD))
        when = "dead" if row.dead else _span(row.due - now)
        line = (
            f"{row.queue_id:<18} {_span(now - row.arrival.time):>5} {_size(row.size):>6} "
            f"{row.attempts:>5} {when:>6} {row.route:<12} {_path(row.sender)} > {_paths(row)}"
        )
        print(safe_line(line))
        if row.error:
            print(terminal.dim(f"    {safe_line(row.error)}"))
    return number


def _print_message(rows: Sequence[Delivery], headers: bytes) -> None:
    first, now = rows[0], time.time()
    arrival = first.arrival
    facts = [
        ("Id", first.queue_id),
        ("Arrived", f"{_clock(arrival.time)} ({_span(now - arrival.time)} ago)"),
        ("Size", f"{first.size:,} bytes"),
        ("From", _path(first.sender)),
        ("Client", f"{arrival.client or 'local'} ({arrival.helo or 'no name'})"),
        ("TLS", arrival.tls),
        ("User", arrival.user),
        ("Options", " ".join(arrival.mail_options)),
    ]
    for name, value in facts:
        if value:
            print(safe_line(f"{name + ':':<9}{value}"))
    for row in rows:
        when = "given up" if row.dead else f"next try {_clock(row.due)}"
        print(safe_line(f"{'Route:':<9}{row.route}, {when}, {_tries(row.attempts)} so far"))
        for recipient in row.recipients:
            options = " ".join(arrival.rcpt_options.get(recipient, ()))
            print(safe_line(f"   {_path(recipient)} {options}".rstrip()))
        if row.error:
            print(safe_line(f"   {row.error}"))
    print()
    print(safe(headers.decode("utf-8", "replace")).rstrip("\n"))


def _headers(backlog: Backlog, queue_id: str) -> bytes:
    """Return the header section of a message, or its beginning."""
    begin = b""
    with suppress(Missing), _pieces(backlog, queue_id) as pieces:
        begin = next(pieces, b"")[:HEADERS]
    return begin.replace(b"\r\n", b"\n").partition(b"\n\n")[0]


def _as_json(row: Delivery) -> dict[str, Any]:
    import attrs

    return {
        "id": row.queue_id,
        "route": row.route,
        "sender": row.sender,
        "recipients": row.recipients,
        "size": row.size,
        "attempts": row.attempts,
        "due": row.due,
        "dead": row.dead,
        "error": row.error,
        "arrival": attrs.asdict(row.arrival),
    }


def _complain(program: str, error: Exception | str) -> None:
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}; name another file or folder"
    complain(f"{program}: {text}")


def _missing(queue_id: str | None) -> Missing:
    if queue_id is not None:
        return Missing(f"no message {queue_id} in the spool")
    return Missing("no such deliveries in the spool")


def _path(address: str) -> str:
    return address if address.startswith("<") else f"<{address}>"


def _paths(row: Delivery) -> str:
    """Return the recipients, the first three by name."""
    more = len(row.recipients) - 3
    shown = ", ".join(map(_path, row.recipients[:3]))
    return f"{shown} and {more} more" if more > 0 else shown


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"


def _clock(when: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    except (ValueError, OverflowError, OSError):
        return "?"


def _span(seconds: float) -> str:
    """Return a time in one unit: ``now``, ``40s``, ``3m``, ``5h``, ``2d``."""
    for unit, name in (86400, "d"), (3600, "h"), (60, "m"), (1, "s"):
        if seconds >= unit:
            return f"{min(seconds, 1e9) / unit:.0f}{name}"
    return "now"


def _size(number: int) -> str:
    for unit, name in (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)
