"""``aiosmtpd wait``: a server that ends at the first message that fits, for shells and CI."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence

from aiosmtpd.cli import options as _options
from aiosmtpd.cli.options import Parser

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

A PATTERN is an address, or a piece of a
subject, a text or a link, in any case;
* ? and [] stand for other characters.
Between slashes it is a regular
expression: '/^Your code/'.

exit code: 0 if it came, 1 if not, 2 for
wrong options, 130 after Ctrl-C
"""


def main(args: Sequence[str], program: str) -> int:
    """Wait for a message as the arguments say; return the exit code."""
    parser = make_parser(program)
    settings = _settings(parser, args)
    # Behind the parsing, which --help does not survive.
    from aiosmtpd.cli.settings import check_auth, complete
    from aiosmtpd.cli.waiting import Waiter, wait

    complete(parser, settings)
    settings.handler = Waiter(settings)
    check_auth(parser, settings)
    return wait(parser, settings)


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(
        prog=program,
        usage=f"{program} [OPTIONS]",
        description=ABOUT,
        epilog=EXAMPLES.format(prog=program),
        formatter_class=_options._formatter,
    )
    _add_wanted_options(parser)
    _add_printing_options(parser)
    _options.add_network_options(parser)
    _options.add_tls_options(parser)
    _options.add_auth_options(parser)
    _options.add_testing_options(parser)
    _options.add_process_options(parser)
    return parser


def _settings(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    # What the server's own command line has and this one has not is as if it was not given.
    settings = _options.make_parser(parser.prog).parse_args([])
    return parser.parse_args(args, settings)


def _add_wanted_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what to wait for")
    for option, dest, what in (
        ("--to", "to", "one of the recipients"),
        ("--from", "sender", "the sender"),
        ("--subject", "subject", "the subject"),
        ("--text", "text", "the text, of HTML too"),
    ):
        group.add_argument(
            option, dest=dest, type=_pattern, metavar="PATTERN", help=f"A pattern for {what}."
        )
    group.add_argument(
        "--timeout",
        dest="patience",
        type=_options._seconds,
        metavar="SECONDS",
        help="Give up then, with exit code 1. Default: never.",
    )
    group.add_argument(
        "--ready-file",
        metavar="PATH",
        help="Write the addresses to this file, one in a line, once clients can connect; it goes "
        "at the end.",
    )


def _add_printing_options(parser: ArgumentParser) -> None:
    what = parser.add_argument_group("output, by default the whole message")
    group = what.add_mutually_exclusive_group()
    group.add_argument("--pretty", action="store_true", help="The message, decoded, for people.")
    group.add_argument("--json", action="store_true", help="The message as a line of JSON.")
    group.add_argument(
        "--link",
        nargs="?",
        const=re.compile(""),
        type=_pattern,
        metavar="PATTERN",
        help="The first link, or the first that fits; a message without one is not the one.",
    )
    group.add_argument(
        "--code",
        nargs="?",
        const=6,
        type=_digits,
        metavar="DIGITS",
        help="The first number of exactly so many digits, by default 6; a message without one is "
        "not the one.",
    )


def _digits(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) or not int(text):
        raise ArgumentTypeError(f"invalid number of digits: {text!r} (write 1 to 99)")
    return int(text)


def _pattern(text: str) -> str | re.Pattern[str]:
    if not text:
        raise ArgumentTypeError("an empty pattern fits nothing: leave the option out")
    if len(text) < 2 or not (text[0] == text[-1] == "/"):
        return text
    try:
        return re.compile(text[1:-1], re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ArgumentTypeError(f"{text!r:.60} is no regular expression: {error}") from None
