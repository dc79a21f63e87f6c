"""``aiosmtpd serve``: run the server that a configuration file describes, or check the file."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TextIO

from aiosmtpd.cli.output import code_of, complain
from aiosmtpd.cli.parser import Parser
from aiosmtpd.process.exit import open_standard_streams
from aiosmtpd.process.failure import Failure

if TYPE_CHECKING:
    from aiosmtpd.runner.config import Config
    from aiosmtpd.runner.early import Early
    from aiosmtpd.runner.faults import Fault
    from aiosmtpd.runner.load import Loaded
    from aiosmtpd.runner.reader import Reading, Source

NAME = "aiosmtpd.toml"
"""The file that ``--init`` writes if no other name is given."""

WRONG = 2
"""The exit code for wrong options and for a wrong configuration."""

ABOUT = """\
Run a mail server with several worker
processes, as a configuration file says."""

EXAMPLES = """\
examples:
  {prog} --init
      write a first file, aiosmtpd.toml
  {prog} --check FILE
      look for mistakes in it
  {prog} FILE
      run the server
  {prog} --systemd-unit FILE
      print a service for systemd
  {prog} -l :2525 --spool S \\
      --deliver maildir:M
      run without a file

SIGHUP reads the file, the certificates
and the code of handlers again. SIGTERM
lets the open sessions end.

exit code: 0, 1 if it cannot start, 2
for wrong options and a wrong
configuration, 74 if the disk of the
spool fails
"""


def main(args: Sequence[str], program: str) -> int:
    """Do what the arguments say; return the exit code."""
    parser = make_parser(program)
    settings = parser.parse_args(args)
    _check_options(parser, settings)
    return code_of(partial(_run, settings, program))


def _run(settings: Namespace, program: str) -> int:
    try:
        if settings.init:
            return _init(settings.file or NAME)
        if settings.check or settings.systemd_unit:
            return _look(settings)
        return _serve(settings)
    except Failure as failure:
        complain(f"{program}: {failure}")
        return failure.code


def make_parser(program: str) -> ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(program, "[OPTIONS] [FILE]", ABOUT, EXAMPLES)
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="The configuration, a file in TOML."
    )
    actions = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    actions.add_argument(
        "--check",
        action="store_true",
        help="Print each fault of the file, with its line, and what does not fit this machine: "
        "ports, certificates, folders, users. The exit code is 2 if there is a fault; warnings "
        "tell what makes the server less safe.",
    )
    actions.add_argument(
        "--init",
        action="store_true",
        help=f"Write a first file with comments, {NAME} if no name is given.",
    )
    actions.add_argument(
        "--systemd-unit",
        action="store_true",
        help="Print a service for systemd that runs this file without root.",
    )
    parser.add_argument(
        "--online", action="store_true", help="With --check: connect to the places of routes too."
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="With --check: print the values that are in force and their sources, without secrets.",
    )
    parser.add_argument(
        "--notify-reload",
        action="store_true",
        help="With --systemd-unit: use Type=notify-reload, which systemd has from version 253 on. "
        "Debian 12 has 252.",
    )
    _add_options_without_a_file(parser)
    return parser


def _add_options_without_a_file(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("without a file")
    group.add_argument(
        "-l",
        "--listen",
        action="append",
        default=[],
        metavar="PLACE",
        help="A place to listen at, such as :25, smtps://[::]:465 or lmtp://unix:PATH; may be "
        "given several times. Default: :8025 on this machine.",
    )
    group.add_argument("--spool", metavar="DIR", help="The folder of messages to deliver.")
    group.add_argument(
        "--deliver",
        action="append",
        default=[],
        metavar="[PATTERN=]URL",
        help="A place for the messages to addresses that match; may be given several times. The "
        "first that matches counts, and other recipients are refused.",
    )


def _check_options(parser: ArgumentParser, settings: Namespace) -> None:
    alone = settings.listen or settings.spool is not None or settings.deliver
    if settings.file is not None and alone:
        parser.error("-l, --spool and --deliver are for a server without a file: write keys in it")
    for name, action in ("online", "check"), ("show", "check"), ("notify_reload", "systemd_unit"):
        if getattr(settings, name) and not getattr(settings, action):
            option, needed = name.replace("_", "-"), action.replace("_", "-")
            parser.error(f"--{option} needs --{needed}")
    if settings.init:
        if alone:
            parser.error("--init writes a file: leave out -l, --spool and --deliver")
    elif alone and (settings.spool is None or not settings.deliver):
        parser.error("--spool DIR and --deliver URL need each other: give both")
    elif settings.file is None and not alone and not settings.systemd_unit:
        parser.error(f"name a file (--init writes one, {NAME}), or give --spool and --deliver")


def _source(settings: Namespace) -> Source:
    from aiosmtpd.runner.reader import Source

    return Source(
        file=settings.file,
        listen=tuple(settings.listen),
        spool=settings.spool,
        deliver=tuple(settings.deliver),
    )


def _init(name: str) -> int:
    from aiosmtpd.runner.example import example

    try:
        with open(name, "x", encoding="utf-8") as file:
            file.write(example(name))
    except FileExistsError:
        raise Failure(f"{name} exists: name another file") from None
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from error
    print(f"{name} is written: change it, then run aiosmtpd serve --check {name}")
    return 0


def _print_unit(settings: Namespace) -> int:
    import shutil  # only needed here, and the memory of the master counts

    from aiosmtpd.runner.unit import unit

    loaded = None if settings.file is None else _source(settings).load(outside=True)
    file = os.path.abspath(settings.file or f"/etc/aiosmtpd/{NAME}")
    program = shutil.which(sys.argv[0]) or shutil.which("aiosmtpd") or "/usr/bin/aiosmtpd"
    text = unit(
        None if loaded is None else loaded.config,
        os.path.abspath(program),
        file,
        credentials=() if loaded is None else tuple(loaded.sources.unseen.values()),
        notify_reload=settings.notify_reload,
    )
    print(text, end="")
    return 0


def _check(settings: Namespace) -> int:
    """Print the faults and the warnings of a configuration, and those of this machine."""
    from aiosmtpd.runner.check import check
    from aiosmtpd.runner.faults import WrongConfiguration

    wrong: Sequence[Fault] = ()
    try:
        loaded: Loaded | None = _source(settings).load(outside=True)
    except WrongConfiguration as error:
        wrong, loaded = error.faults, error.partial
    faults: list[Fault] = list(wrong)
    warnings: list[Fault] = []
    if loaded is not None:
        faults, warnings = check(loaded, wrong, online=settings.online)
    if settings.show and loaded is not None and not wrong:
        from aiosmtpd.runner.show import show

        for line in show(loaded):
            print(line)
        print()
    _print_faults(faults, sys.stdout)
    for warning in warnings:
        print(f"{warning} (warning)")
    print(_summary(settings, len(faults), len(warnings)))
    return WRONG if faults else 0


def _summary(settings: Namespace, faults: int, warnings: int) -> str:
    name = settings.file or "command line"
    parts = [
        f"{number} {noun}{'' if number == 1 else 's'}"
        for number, noun in ((faults, "fault"), (warnings, "warning"))
        if number
    ]
    return f"{name}: {' and '.join(parts) or 'no fault'}"


def _print_faults(faults: Sequence[Fault], file: TextIO) -> None:
    for fault in faults:
        print(fault, file=file)


def _look(settings: Namespace) -> int:
    """Do what needs the file, and no server."""
    from aiosmtpd.runner.faults import WrongConfiguration

    try:
        return _check(settings) if settings.check else _print_unit(settings)
    except WrongConfiguration as error:
        _print_faults(error.faults, sys.stderr)
        return WRONG


def _serve(settings: Namespace) -> int:
    open_standard_streams()
    from aiosmtpd.runner.early import Early, Ended
    from aiosmtpd.runner.reader import Reading

    early = Early()
    try:
        reading = Reading(_source(settings))
        try:
            code = _run_master(settings, reading, early)
        finally:
            reading.stop()
    except Ended:
        code = 0
    except BaseException:
        early.close()
        raise
    if code:
        early.close()
    else:
        early.ignore()
    return code


def _run_master(settings: Namespace, reading: Reading, early: Early) -> int:
    # Imported while the other process reads.
    if sys.platform != "win32":
        from aiosmtpd.process.lean import import_asyncio_without_tls

        # Workers have TLS, and the master does not.
        import_asyncio_without_tls()
    from aiosmtpd.runner.faults import WrongConfiguration
    from aiosmtpd.runner.logs import set_up
    from aiosmtpd.runner.master import Master
    from aiosmtpd.runner.reader import read_again
    from aiosmtpd.runner.watch import Watch

    try:
        first = reading.result()
    except WrongConfiguration as error:
        _print_faults(error.faults, sys.stderr)
        return WRONG
    # A key for the hashes of addresses; the watch of the master sets another one.
    set_up(first.config.log, key=os.urandom(16))
    _log_warnings(first.warnings)

    async def reload() -> Config:
        again = await read_again(_source(settings))
        _log_warnings(again.warnings)
        return again.config

    master = Master(first.config, reload, watch=Watch(first.config))
    early.hand_over(master)
    return master.run()


def _log_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        logging.getLogger("mail.log").warning("%s", warning)
