"""``aiosmtpd wait``: options of a server that ends at the first matching message."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence

from aiosmtpd.cli import options, values
from aiosmtpd.cli.parser import Parser

ABOUT = """\
A server that waits for one message,
prints it, or a link or a code in it,
and ends."""

EXAMPLES = """\
examples:
  {prog} --to anna@example.org
      print the first message to Anna
  link=$({prog} --link /reset)
      a link in a message
  code=$({prog} --code 6)
      the code in the next message

A PATTERN is an address, or a part of a
subject, a text or a link, in any case;
* ? and [] are wildcards. In slashes it
is a regular expression: '/^Your code/'.

exit code: 0 if a message matched, 1 if
none did, 2 for wrong options, 130 after
Ctrl-C
"""


def main(args: Sequence[str], program: str) -> int:
    """Wait for a message as the arguments say; return the exit code."""
    parser = make_parser(program)
    settings = options.parse(parser, args)
    # Imported after parsing, so that --help is fast.
    if settings.inbox is not None:
        from aiosmtpd.cli.inbox_wait import ask

        return ask(parser, settings)
    from aiosmtpd.cli.checks import check_auth, complete
    from aiosmtpd.cli.one_message import Waiter, wait

    complete(parser, settings)
    check_auth(parser, settings)
    settings.handler = Waiter(settings)
    return wait(parser, settings)


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(program, "[OPTIONS]", ABOUT, EXAMPLES)
    _add_wanted_options(parser)
    _add_printing_options(parser)
    options.add_network_options(parser)
    options.add_tls_options(parser)
    options.add_auth_options(parser)
    options.add_testing_options(parser)
    options.add_process_options(parser)
    return parser


def _add_wanted_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("message to wait for")
    for option, dest, what in (
        ("--to", "to", "one of the recipients"),
        ("--from", "sender", "the sender"),
        ("--subject", "subject", "the subject"),
        ("--text", "text", "the text, also that of HTML"),
    ):
        group.add_argument(
            option, dest=dest, type=_pattern, metavar="PATTERN", help=f"A pattern for {what}."
        )
    group.add_argument(
        "--timeout",
        dest="patience",
        type=values.seconds,
        metavar="SECONDS",
        help="Give up after this time, with exit code 1. Default: never.",
    )
    options.add_ready_file(group)
    group.add_argument(
        "--inbox",
        metavar="URL",
        help="Do not listen: wait for the message in the aiosmtpd inbox at this address, such as "
        "http://127.0.0.1:8025/. Messages that are there count, the newest first.",
    )


def _add_printing_options(parser: ArgumentParser) -> None:
    output = parser.add_argument_group("output, by default the whole message")
    group = output.add_mutually_exclusive_group()
    group.add_argument(
        "--pretty", action="store_true", help="Print the message decoded and easy to read."
    )
    group.add_argument("--json", action="store_true", help="Print the message as one line of JSON.")
    group.add_argument(
        "--link",
        nargs="?",
        const=re.compile(""),
        type=_pattern,
        metavar="PATTERN",
        help="Print the first link (that matches PATTERN); skip messages without one.",
    )
    group.add_argument(
        "--code",
        nargs="?",
        const=6,
        type=_digits,
        metavar="DIGITS",
        help="Print the first number of exactly DIGITS digits, by default 6; skip messages without "
        "one.",
    )


def _digits(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) or not int(text):
        raise ArgumentTypeError(f"invalid number of digits: {text!r} (write 1 to 99)")
    return int(text)


def _pattern(text: str) -> str | re.Pattern[str]:
    if not text:
        raise ArgumentTypeError("an empty pattern matches nothing: leave the option out")
    if len(text) < 2 or not (text[0] == text[-1] == "/"):
        return text
    try:
        return re.compile(text[1:-1], re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ArgumentTypeError(f"{text!r:.60} is not a regular expression: {error}") from None
