"""The options of the command line, and how their values are written."""

from __future__ import annotations

import re
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    HelpFormatter,
    RawDescriptionHelpFormatter,
)
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from aiosmtpd._version import __version__

if TYPE_CHECKING:
    from aiosmtpd.observers.faults import Fault

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8025
DEFAULT_CLASS = "aiosmtpd.handlers.Debugging"
DEFAULT_USER = "nobody"
DEFAULT_SIZE = 2**25
NARROW = 60
"""Columns of a terminal below which an option and what it does share no line."""

EXTENSIONS = ("all", "classic", "modern")


class Command(NamedTuple):
    """What a first argument runs in place of the server.

    ``function`` is ``module:function``; it gets the arguments behind the command's name and what
    the program is called with it, and returns the exit code. The module has a
    ``make_parser(program)`` too, for completion and the documentation.
    """

    function: str
    about: str


COMMANDS: dict[str, Command] = {
    "send": Command("aiosmtpd.cli.send:main", "send a message, show the dialogue"),
    "wait": Command("aiosmtpd.cli.wait:main", "wait for a message, print it"),
}
"""By name."""

ABOUT = """\
A server for SMTP and LMTP. It prints
messages to localhost:8025, or hands
them to a Python class of yours."""

EXAMPLES = """\
examples:
  aiosmtpd -l :8025
      print messages to port 8025
  aiosmtpd --pretty --show-dialogue
      read them, and watch clients
  aiosmtpd -c Mailbox incoming
      keep them in a Maildir
  aiosmtpd -c mymodule:function
      call a function with each
  aiosmtpd --tls self-signed --auth-any
      be like a provider's server
  aiosmtpd -l :8025 -l unix:socket
      listen at two places
"""


class Parser(ArgumentParser):
    """A parser whose errors are one line, with what to do where an option is unknown."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line; leaves with exit code 2 if it is wrong."""
        settings, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # What stands behind the sign may be a secret.
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            name = word.partition("=")[0]
            self.error(f"unrecognized arguments: {name}; {self._advice(name)}")
        return settings

    def _advice(self, name: str) -> str:
        from difflib import get_close_matches  # seldom needed

        known = [option for action in self._actions for option in action.option_strings]
        if "-l" in known and name in ("-p", "--port", "--host", "--address", "--bind"):
            return "-l HOST:PORT says where to listen"
        if near := get_close_matches(name, known, 1):
            return f"did you mean {near[0]}?"
        return f"{self.prog} --help lists what there is"

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong and leave with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _size(text: str) -> int:
    """Parse a number of octets; K, M and G are powers of 1024, a B or iB may follow."""
    match = re.fullmatch(r"([0-9][0-9_]*)([kmg]?)(?:i?b)?", text.strip(), re.ASCII | re.IGNORECASE)
    # int() refuses thousands of digits with an error of its own.
    if not match or len(text) > 30:
        raise ArgumentTypeError(f"invalid size: {text!r} (write 33554432, 500K, 10M or 1G)")
    factor = {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    return int(match[1].replace("_", "")) << factor


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e9:
        raise ArgumentTypeError(f"invalid number of seconds: {text!r} (write 300 or 2.5)")
    return seconds


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) == 0:
        raise ArgumentTypeError(f"invalid number: {text!r} (write 1 or more)")
    return int(text)


def _count_or_none(text: str) -> int | None:
    try:
        return None if text == "0" else _count(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"invalid number: {text!r} (write 0 for none, or more)") from None


def user_and_password(text: str) -> tuple[str, str]:
    """Parse ``USER:PASSWORD``; raises ArgumentTypeError without the text, which is a secret."""
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\0" in text:
        raise ArgumentTypeError("no user and password (write USER:PASSWORD)")
    return user, password


def _hostname(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ArgumentTypeError(f"invalid host name: {text!r} (write mx.example.com)")
    return text


def _network(text: str) -> str:
    from aiosmtpd.protocol.networks import parse  # seldom needed

    try:
        parse(text)
    except ValueError:
        what = "write 10.0.0.0/8, 2001:db8::/32 or an address"
        raise ArgumentTypeError(f"invalid network: {text!r} ({what})") from None
    return text


def _fault(text: str) -> Fault:
    from aiosmtpd.observers.faults import parse_fault  # seldom needed

    try:
        return parse_fault(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _formatter(prog: str) -> HelpFormatter:
    narrow = get_terminal_size().columns < NARROW
    return RawDescriptionHelpFormatter(prog, max_help_position=6 if narrow else 24)


def _epilog(program: str) -> str:
    text = EXAMPLES.replace("  aiosmtpd ", f"  {program} ")
    if COMMANDS:
        text += "\ncommands, as the first argument:\n"
    for name, command in COMMANDS.items():
        text += f"  {program} {name}\n      {command.about}\n"
    return text


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of the command line of *program*."""
    parser = Parser(
        prog=program,
        usage=f"{program} [OPTIONS] [CLASSARGS]",
        description=ABOUT,
        epilog=_epilog(program),
        formatter_class=_formatter,
    )
    version = f"{program} {__version__}"
    parser.add_argument("-v", "--version", action="version", version=version)
    add_handler_options(parser)
    add_output_options(parser)
    add_mail_options(parser)
    add_network_options(parser)
    add_tls_options(parser)
    add_auth_options(parser)
    add_limit_options(parser)
    add_testing_options(parser)
    add_process_options(parser)
    add_script_options(parser)
    parser.add_argument(
        "classargs",
        metavar="CLASSARGS",
        nargs="*",
        default=(),
        help="What CLASS needs to know; see its documentation.",
    )
    return parser


def add_handler_options(parser: ArgumentParser) -> None:
    """Add the group of who gets the mail."""
    group = parser.add_argument_group("handler")
    group.add_argument(
        "-c",
        "--class",
        metavar="CLASSPATH",
        dest="classpath",
        default=DEFAULT_CLASS,
        help="What gets the mail: a class by its name in aiosmtpd.handlers (Debugging, Mailbox, "
        "Sink, ...), MODULE.CLASS with hooks, or MODULE:FUNCTION, which is called with each Mail; "
        "also from the current folder. Default: Debugging, which prints messages.",
    )
    group.add_argument(
        "--on-message",
        metavar="COMMAND",
        help="Run a command of the shell for each message in place of CLASS: the message is on its "
        "standard input, the envelope in SMTP_MAIL_FROM, SMTP_RCPT_TO and others. Exit code 0 "
        "accepts it, 75 asks the client to try again, others refuse it.",
    )
    group.add_argument(
        "--on-message-timeout",
        type=_seconds,
        metavar="SECONDS",
        default=60.0,
        help="How long a command may run before it is killed. Default: 60.",
    )


def add_mail_options(parser: ArgumentParser) -> None:
    """Add the group of what is accepted."""
    group = parser.add_argument_group("mail")
    group.add_argument(
        "-s",
        "--size",
        type=_size,
        help="The largest message in octets; 500K, 10M and 1G are understood, 0 means any size. "
        f"Default: {DEFAULT_SIZE:,}.",
    )
    group.add_argument(
        "-u",
        "--smtputf8",
        action="store_true",
        help="Accept addresses and headers in UTF-8: the SMTPUTF8 extension (RFC 6531).",
    )
    group.add_argument(
        "--extensions",
        choices=EXTENSIONS,
        default="modern",
        help="Service extensions: those of 1.4 (classic), what the server itself can honour "
        "(modern, the default), or also what only CLASS can keep (all).",
    )
    group.add_argument(
        "--hostname",
        type=_hostname,
        metavar="NAME",
        help="What the server calls itself in its greeting. Default: this machine's full name.",
    )
    group.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="How long to wait for a client's next command. Default: 300.",
    )


def add_output_options(parser: ArgumentParser) -> None:
    """Add the group of how messages are printed."""
    group = parser.add_argument_group("output").add_mutually_exclusive_group()
    group.add_argument(
        "--pretty",
        action="store_true",
        help="Print messages for people: the envelope, the decoded subject, the text, what is "
        "attached; in colours on a terminal, unless NO_COLOR is set.",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="Print messages for programs: one line of JSON for each.",
    )


def add_network_options(parser: ArgumentParser) -> None:
    """Add the group of where to listen."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "-l",
        "--listen",
        action="append",
        metavar="PLACE",
        help="Where to listen: HOST, :PORT, PORT, HOST:PORT, [IPV6]:PORT, unix:PATH, fd:NUMBER or, "
        "for what systemd passes, systemd or systemd:NAME; smtp://, smtps:// or lmtp:// may stand "
        "in front. May be given several times; port 0 takes any free one. "
        f"Default: {DEFAULT_HOST}:{DEFAULT_PORT}.",
    )
    group.add_argument(
        "--proxy-protocol",
        action="append",
        type=_network,
        metavar="NETWORK",
        help="Expect the PROXY header of HAProxy and others from hosts of this network, as "
        "10.0.0.0/8 or one address, and refuse other hosts; may be given several times.",
    )


def add_tls_options(parser: ArgumentParser) -> None:
    """Add the group of certificates."""
    group = parser.add_argument_group("TLS")
    for name, what in ("smtps", "TLS from the first octet (SMTPS)"), ("tls", "STARTTLS"):
        group.add_argument(
            f"--{name}cert",
            metavar="CERTFILE",
            help=f"The PEM file with the certificate for {what}; needs --{name}key.",
        )
        group.add_argument(
            f"--{name}key",
            metavar="KEYFILE",
            help=f"The PEM file with the private key for {what}; needs --{name}cert.",
        )
    group.add_argument(
        "--tls",
        choices=("self-signed",),
        help="Make a certificate at each start, for STARTTLS and for smtps:// places, signed by an "
        "authority that is kept in your cache folder and that clients may trust. Needs trustme: "
        "pip install aiosmtpd[devtls].",
    )
    group.add_argument(
        "--no-requiretls",
        dest="requiretls",
        action="store_false",
        help="Accept mail without STARTTLS too, where it is offered.",
    )


def add_auth_options(parser: ArgumentParser) -> None:
    """Add the group of who may send."""
    group = parser.add_argument_group("AUTH")
    who = group.add_mutually_exclusive_group()
    who.add_argument(
        "--auth",
        action="append",
        type=user_and_password,
        metavar="USER:PASSWORD",
        help="Offer AUTH and know this user; may be given several times. Other users of the "
        "machine may see a command line: --auth-file hides it from them. Without a certificate "
        "AUTH is offered in the clear.",
    )
    who.add_argument(
        "--auth-any", action="store_true", help="Offer AUTH and accept any user and password."
    )
    group.add_argument(
        "--auth-file",
        metavar="PATH",
        help="Know the users of a file with a USER:PASSWORD in each line.",
    )
    group.add_argument(
        "--require-auth", action="store_true", help="Refuse mail from who has not used AUTH."
    )
    group.add_argument(
        "--max-auth-failures",
        type=_count,
        metavar="N",
        default=3,
        help="End a connection at the next AUTH after so many failures. Default: 3.",
    )


LIMITS = {
    "max_errors": (20, "End a connection with so many errors and no message between"),
    "max_junk_commands": (100, "End a connection with more commands that send no mail"),
    "max_connections_per_host": (50, "Refuse more connections of one host at a time"),
    "max_connection_rate": (None, "Refuse more new connections of one host in a minute"),
    "max_recipients": (1000, "Refuse more recipients of one message"),
}
"""Keywords of the server that are options too, with what is theirs on the command line."""


def add_limit_options(parser: ArgumentParser) -> None:
    """Add the group of how much a client may do."""
    group = parser.add_argument_group("limits, each a number or 0 for none")
    for name, (default, text) in LIMITS.items():
        group.add_argument(
            "--" + name.replace("_", "-"),
            type=_count_or_none,
            metavar="N",
            default=default,
            help=f"{text}. Default: {'no limit' if default is None else default}.",
        )


def add_testing_options(parser: ArgumentParser) -> None:
    """Add the group of what goes wrong on purpose."""
    group = parser.add_argument_group("testing")
    group.add_argument(
        "--fault",
        action="append",
        type=_fault,
        metavar="FAULT",
        help="Fail on purpose: STAGE [PATTERN]: EFFECT [TIMES], such as 'rcpt *@slow.test: 450 "
        "4.2.1 busy x2', 'end-of-data: delay 5 20%%' or 'data: drop every 3'. May be given several "
        "times.",
    )


def add_process_options(parser: ArgumentParser) -> None:
    """Add the group of who the process is and what it says."""
    group = parser.add_argument_group("process")
    group.add_argument(
        "-n",
        "--nosetuid",
        dest="setuid",
        action="store_false",
        help="Stay who you are. Without it a server started by root listens first and then "
        f"becomes {DEFAULT_USER}; other users stay who they are anyway.",
    )
    group.add_argument(
        "--user", metavar="NAME", help=f"Become this user. Default: {DEFAULT_USER}, from root."
    )
    group.add_argument(
        "--group", metavar="NAME", help="Become this group. Default: the user's own groups."
    )
    group.add_argument(
        "--show-dialogue",
        action="store_true",
        help="Show on the standard error what clients and server say, with times; passwords are "
        "masked.",
    )
    noise = group.add_mutually_exclusive_group()
    noise.add_argument(
        "-d",
        "--debug",
        action="count",
        default=0,
        help="Tell more: connections and messages; twice: commands; three times: asyncio's debug "
        "mode.",
    )
    noise.add_argument(
        "-q", "--quiet", action="store_true", help="Say nothing but messages and errors."
    )


def add_script_options(parser: ArgumentParser) -> None:
    """Add the group of what scripts want to know and to say."""
    group = parser.add_argument_group("scripts")
    group.add_argument(
        "--exit-after",
        type=_count,
        metavar="N",
        help="End with exit code 0 when so many messages were answered.",
    )
    group.add_argument(
        "--ready-file",
        metavar="PATH",
        help="Write the addresses to this file, one in a line, once clients can connect; it goes "
        "at the end.",
    )
