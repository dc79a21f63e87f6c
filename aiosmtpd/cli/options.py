"""The options of the command line, by groups, and the commands."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from aiosmtpd._version import __version__
from aiosmtpd.cli import values
from aiosmtpd.cli.parser import Parser

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8025
DEFAULT_CLASS = "aiosmtpd.handlers.Debugging"
DEFAULT_USER = "nobody"
DEFAULT_SIZE = 2**25

CLASSES = ("Debugging", "Delivery", "Mailbox", "Sink")
"""Handlers with short names for ``-c``."""

EXTENSIONS = ("all", "classic", "modern")


class Command(NamedTuple):
    """A program that runs instead of the server if its name is the first argument.

    ``function`` is ``module:function``. The function gets the arguments after the name of the
    command and the name of the program, which includes that of the command; it returns the exit
    code. The module also has ``make_parser(program)``, for completion and the documentation.
    """

    function: str
    about: str


COMMANDS: dict[str, Command] = {
    "send": Command("aiosmtpd.cli.send:main", "send a message, show the dialogue"),
    "serve": Command("aiosmtpd.cli.serve:main", "run a server from a file"),
    "ctl": Command("aiosmtpd.cli.ctl:main", "look at a running serve, reload it"),
    "queue": Command("aiosmtpd.cli.queue:main", "look into a spool, retry messages"),
    "inbox": Command("aiosmtpd.cli.inbox:main", "catch mail, show it in the browser"),
    "wait": Command("aiosmtpd.cli.wait:main", "wait for a message, print it"),
}
"""The commands by name."""

ABOUT = """\
A server for SMTP and LMTP. It prints
messages to localhost:8025, or hands
them to a Python class of yours."""

EXAMPLES = """\
examples:
  {prog} -l :8025
      print messages to port 8025
  {prog} --pretty --show-dialogue
      decode messages, show sessions
  {prog} -c Mailbox incoming
      store messages in a Maildir
  {prog} -c mymodule:function
      call a function with each one
  {prog} --tls self-signed --auth-any
      act like a provider's server
  {prog} -l :8025 -l unix:socket
      listen at two places
  {prog} --spool S --deliver maildir:M
      store first, then deliver

commands, as the first argument:
"""

EXIT_CODES = """
exit code: 0 after Ctrl-C, 1 if root's
rights cannot be dropped or the reader
of the output has gone, 74 if the disk
of the spool fails, 2 for other errors
"""


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of the server's command line, for a program of this name."""
    commands = (f"  {{prog}} {name}\n      {COMMANDS[name].about}\n" for name in COMMANDS)
    examples = "".join([EXAMPLES, *commands, EXIT_CODES])
    parser = Parser(program, "[OPTIONS] [CLASSARGS]", ABOUT, examples)
    version = f"{program} {__version__}"
    parser.add_argument("-v", "--version", action="version", version=version)
    add_handler_options(parser)
    add_delivery_options(parser)
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
        help="Arguments of CLASS; see its documentation.",
    )
    return parser


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Parse the command line of a command that runs a server.

    Options that only the server's own command line has get their defaults.
    """
    defaults = vars(make_parser(parser.prog).parse_args([])) | vars(parser.parse_args([]))
    return parser.parse_args(args, Namespace(**defaults))


def add_handler_options(parser: ArgumentParser) -> None:
    """Add the options that choose the handler."""
    group = parser.add_argument_group("handler")
    group.add_argument(
        "-c",
        "--class",
        metavar="CLASSPATH",
        dest="classpath",
        default=DEFAULT_CLASS,
        help="The handler of the mail: a class by its name in aiosmtpd.handlers "
        f"({', '.join(CLASSES)}, ...), MODULE.CLASS with hooks, or MODULE:FUNCTION, which is "
        "called with each Mail. A module may be in the current folder. Default: Debugging, which "
        "prints messages.",
    )
    group.add_argument(
        "--on-message",
        metavar="COMMAND",
        help="Run a shell command for each message instead of CLASS. The message is its standard "
        "input; SMTP_MAIL_FROM, SMTP_RCPT_TO and other variables hold the envelope. Exit code 0 "
        "accepts the message, 75 asks the client to try again, any other refuses it.",
    )
    group.add_argument(
        "--on-message-timeout",
        type=values.seconds,
        metavar="SECONDS",
        default=60.0,
        help="Kill a command that runs longer. Default: 60.",
    )


def add_delivery_options(parser: ArgumentParser) -> None:
    """Add the options that store messages and deliver them."""
    group = parser.add_argument_group("delivery")
    group.add_argument(
        "--spool",
        metavar="DIR",
        help="Answer 250 once a message is on the disk, in this folder, and bring it to the places "
        "of --deliver. A place that cannot take it now is tried again for five days.",
    )
    group.add_argument(
        "--deliver",
        action="append",
        metavar="[PATTERN=]URL",
        help="A place for the messages to addresses that match, such as '*@example.com': "
        "smtp://HOST:PORT, smtp+starttls://, smtps://, lmtp://HOST:PORT, lmtp:///SOCKET, "
        "maildir:/FOLDER, python:MODULE:FUNCTION, command:COMMAND, https://HOST/PATH, "
        "nats://HOST/SUBJECT, or reject. May be given several times: the first that matches "
        "counts, and other recipients are refused. Needs --spool.",
    )


def add_mail_options(parser: ArgumentParser) -> None:
    """Add the options that say which mail is accepted."""
    group = parser.add_argument_group("mail")
    add_size(group, None, f"{DEFAULT_SIZE:,}")
    group.add_argument(
        "--line-length",
        type=values.size,
        metavar="BYTES",
        default=0,
        help="The longest line in bytes, with its CRLF; 0 means any length. RFC 5321 lets servers "
        "refuse lines of more than 1000. Default: 0.",
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
        help="Service extensions: those of aiosmtpd 1.4 (classic), those that the server supports "
        "without CLASS (modern, the default), or all.",
    )
    add_hostname(group)
    group.add_argument(
        "--timeout",
        type=values.seconds,
        metavar="SECONDS",
        help="Disconnect a client that sends no command for this long. Default: 300.",
    )


def add_output_options(parser: ArgumentParser) -> None:
    """Add the options that say how messages are printed."""
    group = parser.add_argument_group("output").add_mutually_exclusive_group()
    group.add_argument(
        "--pretty",
        action="store_true",
        help="Print messages decoded and easy to read: the envelope, the subject, the text and the "
        "names of attachments; in colours on a terminal, unless NO_COLOR is set.",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="Print each message as one line of JSON.",
    )


def add_network_options(parser: ArgumentParser) -> None:
    """Add the options that say where to listen."""
    group = parser.add_argument_group("network")
    add_listen(group, DEFAULT_PORT)
    group.add_argument(
        "--proxy-protocol",
        action="append",
        type=values.network,
        metavar="NETWORK",
        help="Expect the PROXY header of HAProxy and other proxies from the hosts of a network, "
        "such as 10.0.0.0/8 or one address, and refuse all other hosts; may be given several "
        "times.",
    )


def add_tls_options(parser: ArgumentParser) -> None:
    """Add the options for certificates."""
    group = parser.add_argument_group("TLS")
    for name, use in ("smtps", "TLS from the start (SMTPS)"), ("tls", "STARTTLS"):
        add_certificate(group, name, use)
    add_self_signed(group)
    group.add_argument(
        "--no-requiretls",
        dest="requiretls",
        action="store_false",
        help="Accept mail without STARTTLS too, even if STARTTLS is offered.",
    )


def add_auth_options(parser: ArgumentParser) -> None:
    """Add the options for users and their passwords."""
    group = parser.add_argument_group("AUTH")
    users = group.add_mutually_exclusive_group()
    users.add_argument(
        "--auth",
        action="append",
        type=values.user_and_password,
        metavar="USER:PASSWORD",
        help="Offer AUTH and accept this user; may be given several times. Other users of this "
        "machine may see the command line: --auth-file hides the password from them. Without a "
        "certificate, passwords are sent in the clear.",
    )
    users.add_argument(
        "--auth-any", action="store_true", help="Offer AUTH and accept any user and password."
    )
    group.add_argument(
        "--auth-file",
        metavar="PATH",
        help="Offer AUTH and accept the users in a file with a USER:PASSWORD in each line.",
    )
    group.add_argument(
        "--require-auth",
        action="store_true",
        help="Reject mail until the client has authenticated.",
    )
    group.add_argument(
        "--max-auth-failures",
        type=values.count,
        metavar="N",
        default=3,
        help="Disconnect at the next AUTH after N failures. Default: 3.",
    )


LIMITS = {
    "max_errors": (20, "Disconnect after N errors without a message between them"),
    "max_junk_commands": (100, "Disconnect after N commands without a message, such as NOOP"),
    "max_connections_per_host": (50, "Allow N connections of one host at a time"),
    "max_connection_rate": (None, "Allow N new connections of one host in a minute"),
    "max_recipients": (1000, "Allow N recipients of one message"),
}
"""Keywords of the server that are options too: the default on the command line, and the help."""


def add_limit_options(parser: ArgumentParser) -> None:
    """Add the options that limit a client."""
    group = parser.add_argument_group("limits, each a number or 0 for none")
    for name in LIMITS:
        add_limit(group, name)


def add_testing_options(parser: ArgumentParser) -> None:
    """Add the options that let things fail."""
    group = parser.add_argument_group("testing")
    group.add_argument(
        "--fault",
        action="append",
        type=values.fault,
        metavar="FAULT",
        help="Fail on purpose: STAGE [PATTERN]: EFFECT [TIMES], such as 'rcpt *@slow.test: 450 "
        "4.2.1 busy x2', 'end-of-data: delay 5 20%%' or 'data: drop every 3'. May be given several "
        "times.",
    )


def add_process_options(parser: ArgumentParser) -> None:
    """Add the options for the user of the process and for its log."""
    group = parser.add_argument_group("process")
    group.add_argument(
        "-n",
        "--nosetuid",
        dest="setuid",
        action="store_false",
        help="Do not switch users. By default, a server started as root binds its ports and then "
        f"runs as {DEFAULT_USER}.",
    )
    group.add_argument(
        "--user",
        metavar="NAME",
        help=f"Run as this user. Default: {DEFAULT_USER} if started as root.",
    )
    group.add_argument(
        "--group", metavar="NAME", help="Run as this group. Default: the groups of the user."
    )
    add_log_options(group, "Print only messages and errors.")


def add_script_options(parser: ArgumentParser) -> None:
    """Add the options for scripts that start the server."""
    group = parser.add_argument_group("scripts")
    group.add_argument(
        "--exit-after",
        type=values.count,
        metavar="N",
        help="Exit with code 0 once N messages have been answered.",
    )
    add_ready_file(group)


# Options that several commands have.


class Group(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **settings: Any) -> Action:
        """Add an option."""

    def add_mutually_exclusive_group(self) -> Group:
        """Add options that exclude each other."""


def add_listen(group: Group, default_port: int) -> None:
    """Add ``-l``."""
    group.add_argument(
        "-l",
        "--listen",
        action="append",
        metavar="PLACE",
        help="Where to listen: HOST, HOST:PORT, [IPV6]:PORT, :PORT or PORT for this machine only, "
        "unix:PATH, fd:NUMBER, or systemd or systemd:NAME for sockets that systemd passes; "
        "smtp://, smtps:// or lmtp:// may stand in front. May be given several times; port 0 is "
        f"any free port. Default: {DEFAULT_HOST}:{default_port}.",
    )


def add_size(group: Group, default: int | None, shown: str) -> None:
    """Add ``-s``."""
    group.add_argument(
        "-s",
        "--size",
        type=values.size,
        default=default,
        help="The largest message in bytes, such as 500K, 10M or 1G; 0 means any size. "
        f"Default: {shown}.",
    )


def add_hostname(group: Group) -> None:
    """Add ``--hostname``."""
    group.add_argument(
        "--hostname",
        type=values.host_name,
        metavar="NAME",
        help="The server's name in its greeting. Default: the full name of this machine.",
    )


def add_certificate(group: Group, name: str, use: str) -> None:
    """Add the two options for a certificate in files."""
    group.add_argument(
        f"--{name}cert",
        metavar="CERTFILE",
        help=f"The PEM file with the certificate for {use}; needs --{name}key.",
    )
    group.add_argument(
        f"--{name}key",
        metavar="KEYFILE",
        help=f"The PEM file with the private key for {use}; needs --{name}cert.",
    )


def add_self_signed(group: Group) -> None:
    """Add ``--tls``."""
    group.add_argument(
        "--tls",
        choices=("self-signed",),
        help="Make a certificate at each start, for STARTTLS and for smtps:// places. It is signed "
        "by an authority in your cache folder, which clients can trust. Needs trustme: "
        'pip install "aiosmtpd[devtls]".',
    )


def add_ready_file(group: Group) -> None:
    """Add ``--ready-file``."""
    group.add_argument(
        "--ready-file",
        metavar="PATH",
        help="Write the addresses to this file, one in a line, once clients can connect. The file "
        "is removed at the end.",
    )


def add_log_options(group: Group, quiet: str) -> None:
    """Add ``--show-dialogue``, ``-d`` and ``-q``, which has the help *quiet*."""
    group.add_argument(
        "--show-dialogue",
        action="store_true",
        help="Print what clients and server say to the standard error, with times; passwords are "
        "masked.",
    )
    noise = group.add_mutually_exclusive_group()
    noise.add_argument(
        "-d",
        "--debug",
        action="count",
        default=0,
        help="Log connections and messages; given twice, also commands; given three times, turn "
        "asyncio's debug mode on.",
    )
    noise.add_argument("-q", "--quiet", action="store_true", help=quiet)


def add_limit(group: Group, name: str, more: str = "") -> None:
    """Add the option for a limit of :data:`LIMITS`; *more* follows its help."""
    default, text = LIMITS[name]
    group.add_argument(
        "--" + name.replace("_", "-"),
        type=values.count_or_none,
        metavar="N",
        default=default,
        help=f"{text}{more}. Default: {'no limit' if default is None else default}.",
    )
