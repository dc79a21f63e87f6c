"""``aiosmtpd inbox``: options of a mail catcher with a page in the browser and an API."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from aiosmtpd.cli import options, values
from aiosmtpd.cli.output import complain
from aiosmtpd.cli.parser import Parser

DEFAULT_PORT = 1025
WEB_PORT = 8025
DEFAULT_SIZE = 50 << 20

GENEROUS = ("max_errors", "max_junk_commands", "max_connections_per_host")
MOST = 1000
"""These limits of the server are this number: programs under development reuse connections, open
many, and are refused often."""

NEEDED = ("starlette", "uvicorn", "wsproto")
"""The packages of the extra ``inbox``."""

MISSING = 'the inbox needs {names}: pip install "aiosmtpd[inbox]"'

ABOUT = """\
Catches all mail and shows it in the
browser. Programs find it by an API,
which is that of Mailpit."""

EXAMPLES = """\
examples:
  {prog}
      SMTP port 1025, page on port 8025
  {prog} --store mail.db --keep 30d
      keep messages for the next start
  {prog} --inbox 'Shop=to:@shop.test'
      a list of its own for some mail
  {prog} --fault 'rcpt: 450 busy x2'
      fail on purpose, to test a program
  {prog} --check --wait 30
      for scripts: is it running?

Variables of Mailpit, such as
MP_SMTP_BIND_ADDR, are understood.

exit code: 0 at the end, 1 if --check
finds no inbox, 2 for a wrong option
"""


def main(args: Sequence[str], program: str) -> int:
    """Run the inbox as the arguments say; return the exit code."""
    parser = make_parser(program)
    settings, notes = parse(parser, args, os.environ)
    if settings.check:
        from aiosmtpd.cli.inbox_check import check

        return check(settings, program)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        parser.error(MISSING.format(names=", ".join(missing)))
    # Imported after parsing, so that --help is fast.
    from aiosmtpd.cli.inbox_program import run

    if not settings.quiet:
        for note in notes:
            complain(note)
    return run(parser, settings)


def parse(
    parser: ArgumentParser, args: Sequence[str], environment: os._Environ[str] | dict[str, str]
) -> tuple[Namespace, list[str]]:
    """Return the settings of a command line and of Mailpit's variables, and a line for each.

    An option of the command line takes precedence over a variable.
    """
    settings = options.parse(parser, args)
    notes: list[str] = []
    if any(name.startswith("MP_") for name in environment):
        from aiosmtpd.cli.mailpit import words_of

        words, notes = words_of(parser, args, environment)
        settings = options.parse(parser, [*words, *args])
    _check(parser, settings)
    return settings, notes


def _check(parser: ArgumentParser, settings: Namespace) -> None:
    if settings.wait is not None and not settings.check:
        parser.error("--wait needs --check")
    if settings.web_public and settings.web_auth:
        parser.error("--web-public and --web-auth exclude each other: leave one out")
    if settings.relay and settings.relay_allow is None:
        parser.error("--relay needs --relay-allow: '.' allows all addresses")
    if not settings.relay and (settings.relay_allow or settings.relay_block):
        parser.error("--relay-allow and --relay-block need --relay")


class _InboxParser(Parser):
    """Also knows the options of Mailpit's command line."""

    def _advice(self, name: str) -> str:
        from aiosmtpd.cli.mailpit import option_for

        if option := option_for(name):
            return f"Mailpit's {name} is {option} here"
        return super()._advice(name)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        # Mailpit's --max could be two options of ours.
        found = re.match("ambiguous option: ([^ =]+)", message)
        if found and "is --" in (advice := self._advice(found[1])):
            message = f"unrecognized arguments: {found[1]}; {advice}"
        super().error(message)


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = _InboxParser(program, "[OPTIONS]", ABOUT, EXAMPLES)
    # No other user, and addresses of all kinds.
    generous = dict.fromkeys(GENEROUS, MOST)
    parser.set_defaults(setuid=False, smtputf8=True, **generous)
    _add_smtp_options(parser)
    _add_tls_options(parser)
    options.add_auth_options(parser)
    _add_web_options(parser)
    _add_wall_options(parser)
    _add_mail_options(parser)
    _add_relay_options(parser)
    _add_webhook_options(parser)
    _add_store_options(parser)
    options.add_testing_options(parser)
    _add_process_options(parser)
    return parser


def _add_smtp_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("SMTP")
    options.add_listen(group, DEFAULT_PORT)
    options.add_size(group, DEFAULT_SIZE, "50M")
    options.add_limit(group, "max_recipients", "; 0 means any number")
    group.add_argument(
        "--allow-recipients",
        type=_expression,
        metavar="REGEX",
        help="Refuse recipients in whose address this regular expression does not match, with 550, "
        "such as '@shop[.]test$'; the case of letters does not matter.",
    )
    options.add_hostname(group)


def _add_tls_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("TLS")
    options.add_certificate(group, "tls", "STARTTLS and smtps:// places")
    options.add_self_signed(group)
    group.add_argument(
        "--require-tls",
        dest="requiretls",
        action="store_true",
        default=False,
        help="Refuse mail without STARTTLS.",
    )


def _add_web_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("page and API")
    group.add_argument(
        "--web",
        metavar="PLACE",
        default="",
        help="Where to serve the page and the API: HOST, :PORT, PORT or HOST:PORT. Port 0 is any "
        f"free port. Default: localhost:{WEB_PORT}.",
    )
    group.add_argument(
        "--web-root",
        type=_root,
        metavar="PATH",
        default="/",
        help="Serve all below this path, such as /mail/. Default: /.",
    )
    group.add_argument(
        "--web-tls",
        nargs=2,
        metavar=("CERTFILE", "KEYFILE"),
        help="Serve HTTPS with this certificate and its key, in PEM files.",
    )
    group.add_argument(
        "--browser", action="store_true", help="Open the page in your browser at the start."
    )
    group.add_argument(
        "--metrics",
        action="store_true",
        help="Serve numbers for Prometheus at /metrics, by the names of Mailpit.",
    )
    group.add_argument(
        "--label",
        metavar="TEXT",
        default="",
        help="A name for this inbox, which the API tells its clients.",
    )
    group.add_argument(
        "--inbox",
        action="append",
        type=_inbox,
        metavar="NAME=QUERY",
        help="Show the messages that a query finds as an inbox of its own, such as "
        "'Shop=to:@shop.test'; may be given several times.",
    )


def _add_mail_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("actions on the page")
    group.add_argument(
        "--no-delete-all",
        dest="delete_all",
        action="store_false",
        help="Refuse to delete all messages at once.",
    )
    group.add_argument(
        "--remote-images",
        action="store_true",
        help="Let the HTML of messages load images of other hosts.",
    )
    group.add_argument(
        "--link-check",
        action="store_true",
        help="Let the link check of Mailpit's API ask the hosts of the links, if they are public.",
    )


def _add_relay_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("release of messages")
    group.add_argument(
        "--relay",
        type=_relay,
        metavar="PLACE",
        help="Let clients of the API send a message on by this server: HOST:PORT, or a URL such as "
        "smtp+starttls://USER:PASSWORD@HOST:PORT or smtps://HOST. Needs --relay-allow. "
        "Default: no message leaves the inbox.",
    )
    group.add_argument(
        "--relay-allow",
        type=_expression,
        metavar="REGEX",
        help="Only to addresses in which this regular expression matches, such as "
        "'@shop[.]example$'; the case of letters does not matter.",
    )
    group.add_argument(
        "--relay-block",
        type=_expression,
        metavar="REGEX",
        help="To none of the addresses in which this one matches.",
    )


def _add_webhook_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("news of messages")
    group.add_argument(
        "--webhook",
        type=_webhook,
        metavar="URL",
        help="Send a POST to this URL for each new message, with the message as JSON, as lists of "
        "the API have it. Default: none.",
    )
    group.add_argument(
        "--webhook-limit",
        type=values.count_or_none,
        metavar="N",
        default=1,
        help="At most N of these requests in a second; messages that come faster are left out. 0 "
        "means any number. Default: 1.",
    )


def _add_wall_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("access to the page and API")
    group.add_argument(
        "--web-auth",
        action="append",
        type=_web_user,
        metavar="USER:PASSWORD",
        help="Ask for a user and a password (HTTP Basic); may be given several times.",
    )
    group.add_argument(
        "--web-auth-file",
        metavar="PATH",
        help="Ask for one of the users in a file with a USER:PASSWORD in each line, in plain text.",
    )
    group.add_argument(
        "--web-public",
        action="store_true",
        help="Allow a --web place that other machines can reach, without a password. All who reach "
        "it can read the mail.",
    )
    group.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="Allow a further name of this server in the address of the page; may be given several "
        "times. Addresses, names without a dot, and names in .localhost, .local, .internal, .test "
        "and .lan are always allowed.",
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="Let pages of another origin use the API, such as http://shop.test:3000; may be given "
        "several times.",
    )
    group.add_argument(
        "--trusted-proxy",
        action="append",
        type=values.network,
        metavar="NETWORK",
        help="Believe the X-Forwarded headers of the proxies in a network, such as 10.0.0.0/8 or "
        "one address; may be given several times.",
    )


def _add_store_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--store",
        metavar="FILE",
        help="Keep the messages in this file, an SQLite database. Default: a temporary file, which "
        "is removed at the end.",
    )
    group.add_argument(
        "--keep",
        type=_keep,
        metavar="N,SIZE,AGE",
        help="Remove the oldest messages if there are more than N, if they have more bytes than "
        "SIZE, such as 500M, or if they are older than AGE, such as 12h or 30d. Each may be left "
        "out; 'all' removes none. Default: 5000,1G.",
    )
    group.add_argument(
        "--durable",
        action="store_true",
        help="Answer 250 when a message will also survive a power cut. It takes longer.",
    )
    group.add_argument(
        "--ignore-duplicates",
        action="store_true",
        help="Do not store a message again whose Message-ID is stored.",
    )
    group.add_argument(
        "--tag",
        action="append",
        type=_tag,
        metavar="NAME=QUERY",
        help="Give a tag to each message that a query finds when it arrives, such as "
        "'Invoice=subject:invoice'; may be given several times.",
    )
    group.add_argument(
        "--no-tags",
        action="append",
        choices=("addresses", "header"),
        help="Make no tags of addresses such as ann+tag@shop.test, or of the field X-Tags; may be "
        "given twice.",
    )
    group.add_argument(
        "--maildir",
        metavar="DIR",
        help="Also write each message to this Maildir, for other programs.",
    )


def _add_process_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("process")
    group.add_argument(
        "--check",
        action="store_true",
        help="Ask an inbox with these options whether it is running; the exit code is 0 or 1.",
    )
    group.add_argument(
        "--wait",
        type=values.seconds,
        metavar="SECONDS",
        help="With --check: try again for so long.",
    )
    options.add_ready_file(group)
    options.add_log_options(group, "Print only errors.")


def _root(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9/_.@-]*", text) or {".", ".."} & set(text.split("/")):
        raise ArgumentTypeError(f"invalid path: {text!r} (write /mail/)")
    return "/".join(["", *filter(None, text.split("/")), ""])


def _web_user(text: str) -> tuple[str, str]:
    """Parse ``USER:PASSWORD``; quotation marks around it are likely not a part of it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ArgumentTypeError("quotation marks would be a part of the password: remove them")
    return values.user_and_password(text)


def _inbox(text: str) -> tuple[str, str]:
    return _named_query(text, "is:rejected")


def _tag(text: str) -> tuple[str, str]:
    from aiosmtpd.inbox.labels import cleaned  # seldom needed

    name, query = _named_query(text)
    if not cleaned(name):
        raise ArgumentTypeError(f"invalid tag: {name!r:.40} (use letters, digits and . - _ @)")
    return name, query


def _named_query(text: str, *more: str) -> tuple[str, str]:
    """Parse ``NAME=QUERY``; *more* are filters that only the page knows."""
    from aiosmtpd.inbox.search import WrongFilter, check  # seldom needed

    name, _, query = (part.strip() for part in text.partition("="))
    if not (name and query and text.isprintable()):
        raise ArgumentTypeError(f"invalid query: {text!r:.60} (write Shop=to:@shop.test)")
    try:
        check(query, more)
    except WrongFilter as error:
        raise ArgumentTypeError(f"{name:.40}: {error}; {error.hint}") from None
    return name, query


def _keep(text: str) -> str:
    """Return the limits as they are, if they are valid."""
    from aiosmtpd.inbox.keep import parse_keep  # seldom needed

    return str(values.parsed(parse_keep, text))


def _relay(text: str) -> str:
    from aiosmtpd.inbox.relay import outlet_for  # seldom needed

    values.parsed(outlet_for, text)
    return text


def _webhook(text: str) -> str:
    from aiosmtpd.inbox.webhook import Webhook  # seldom needed

    values.parsed(Webhook, text, "invalid URL: ")
    return text


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ArgumentTypeError(f"invalid regular expression: {error}") from None
    return text
