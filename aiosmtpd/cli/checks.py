"""What the options of the command line say together: places, certificates, the handler."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass, signature
from pathlib import Path
from typing import Any

from aiosmtpd.cli.options import COMMANDS, DEFAULT_CLASS, DEFAULT_HOST, DEFAULT_PORT
from aiosmtpd.listen.sockets import Listen, parse_listen
from aiosmtpd.process.users import users_of
from aiosmtpd.process.whole import one_line, passed_sockets


def complete(parser: ArgumentParser, settings: Namespace) -> None:
    """Check what was parsed and add ``places``, ``host`` and ``port``; a usage error if wrong."""
    _check_places(parser, settings)
    for name in "smtps", "tls":
        _check_certificate(parser, settings, name)
    _check_self_signed(parser, settings)
    settings.users = users_of(parser, settings)
    if not settings.setuid and (settings.user or settings.group):
        parser.error("--user and --group have no meaning with -n: leave one or the other out")


def _check_places(parser: ArgumentParser, settings: Namespace) -> None:
    texts = settings.listen or [""]
    try:
        settings.places = [place for text in texts for place in _places_of(text)]
    except ValueError as error:
        parser.error(str(error))
    certificate = settings.smtpscert or settings.tls
    if not certificate and any(place.scheme == "smtps" for place in settings.places):
        parser.error("smtps:// needs --smtpscert and --smtpskey, or --tls self-signed")
    implicit = settings.smtpscert and not all(place.scheme for place in settings.places)
    if settings.proxy_protocol and (implicit or "smtps" in {p.scheme for p in settings.places}):
        parser.error("A PROXY header comes before TLS: let the proxy end TLS, or use --tlscert")
    first = settings.places[0]
    settings.host, settings.port = first.host, first.port
    if first.path is None and first.fd is None:
        settings.host = DEFAULT_HOST if first.host is None else first.host
        settings.port = DEFAULT_PORT if first.port is None else first.port
    settings.listen = texts[0] if settings.listen else None


def _places_of(text: str) -> list[Listen]:
    """Parse a place; ``systemd`` and ``systemd:NAME`` are the sockets that systemd passes."""
    scheme, mark, place = text.rpartition("://")
    kind, _, name = place.partition(":")
    if kind != "systemd" or name.isdecimal():
        return [parse_listen(text)]
    sockets = passed_sockets()
    chosen = [fd for fd, its_name in sockets if name in ("", its_name)]
    if not chosen:
        names = ", ".join(its_name for _, its_name in sockets) or "none"
        raise ValueError(f"No socket for {text!r}: systemd has passed {names}")
    return [parse_listen(f"{scheme}{mark}fd:{fd}") for fd in chosen]


def _check_self_signed(parser: ArgumentParser, settings: Namespace) -> None:
    for name in "smtpscert", "tlscert":
        if settings.tls and getattr(settings, name):
            parser.error(f"--tls makes a certificate of its own: leave out --tls or --{name}")


def _check_certificate(parser: ArgumentParser, settings: Namespace, name: str) -> None:
    cert, key = getattr(settings, f"{name}cert"), getattr(settings, f"{name}key")
    if bool(cert) != bool(key):
        parser.error(f"--{name}cert and --{name}key must be specified together")
    for kind, path in ("Cert", cert), ("Key", key):
        if path and not Path(path).exists():
            parser.error(f"{kind} file {path} not found")


def _find(parser: ArgumentParser, classpath: str) -> Any:
    module_name, _, name = classpath.rpartition(":" if ":" in classpath else ".")
    if not module_name:
        module_name = "aiosmtpd.handlers"
    elif "" not in sys.path and os.getcwd() not in sys.path and not sys.flags.safe_path:
        # At the end, so that nothing in the folder hides an installed module.
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except Exception as error:
        parser.error(f"Cannot import {module_name} for -c {classpath}: {one_line(error)}")
    if not callable(found := getattr(module, name, None)):
        known = "Debugging, Mailbox, Sink, MODULE.CLASS or MODULE:FUNCTION"
        what = "function or class" if ":" in classpath else "class"
        parser.error(f"No {what} {name} in {module_name}: -c takes {known}")
    return found


def check_auth(parser: ArgumentParser, settings: Namespace) -> None:
    """Refuse ``--require-auth`` where nothing can tell a right password; a usage error."""
    mechanisms = any(name.startswith(("auth_", "handle_AUTH")) for name in dir(settings.handler))
    if settings.require_auth and settings.users is None and not mechanisms:
        parser.error("--require-auth needs somebody to let in: --auth, --auth-file or --auth-any")


def _make_printer(parser: ArgumentParser, settings: Namespace) -> Any:
    from aiosmtpd.mail.printing import JSONLines, Pretty

    if settings.classpath != DEFAULT_CLASS or settings.classargs:
        parser.error("--pretty and --json print messages themselves: leave out -c and CLASSARGS")
    if sys.stdout is None:
        parser.error("--pretty and --json need a standard output, and it is closed")
    return Pretty() if settings.pretty else JSONLines()


def make_handler(parser: ArgumentParser, settings: Namespace) -> Any:
    """Make the handler that the options name; a usage error where it cannot be."""
    if settings.pretty or settings.json:
        if settings.on_message is not None:
            parser.error("--on-message gets the messages that --pretty and --json would print")
        return _make_printer(parser, settings)
    if settings.on_message is not None:
        return _make_command_handler(parser, settings)
    if settings.classpath == DEFAULT_CLASS and settings.classargs:
        _advise(parser, settings.classargs[0])
    found = _find(parser, settings.classpath)
    if ":" in settings.classpath and not isclass(found):
        return _check_function(parser, settings, found)
    if hasattr(found, "from_cli"):
        return found.from_cli(parser, *settings.classargs)
    if settings.classargs:
        parser.error(f"Handler class {found.__module__} takes no arguments")
    return found()


def _advise(parser: ArgumentParser, word: str) -> None:
    """Refuse what somebody has written for a command or a place; a usage error."""
    if word == "help":
        parser.error(f"No command help: {parser.prog} --help lists what there is")
    if near := get_close_matches(word, COMMANDS, 1, 0.7):
        first = "" if word != near[0] else ", as the first argument"
        parser.error(f"No command {word} here: did you mean {parser.prog} {near[0]}{first}?")
    if re.fullmatch(r"[^/]*:?[0-9]+", word):
        parser.error(f"No argument {word} here: -l {word} listens there")


def _check_function(parser: ArgumentParser, settings: Namespace, function: Any) -> Any:
    """Return a function that is a handler; a usage error if it cannot be called with a Mail."""
    if settings.classargs:
        parser.error(f"Function {settings.classpath} takes no arguments of the command line")
    try:
        signature(function).bind(None)
    except ValueError:
        # Some written in C do not say what they take.
        pass
    except TypeError:
        text = "is called with one argument, a Mail: it takes other ones"
        parser.error(f"Function {settings.classpath} {text}")
    return function


def _make_command_handler(parser: ArgumentParser, settings: Namespace) -> Any:
    if settings.classpath != DEFAULT_CLASS or settings.classargs:
        parser.error("--on-message takes the place of a class: leave out -c and its arguments")
    if not settings.on_message.strip():
        parser.error("--on-message needs a command: --on-message 'cat >> messages'")
    from aiosmtpd.delivery.command import OnMessage

    return OnMessage(settings.on_message, settings.on_message_timeout)
