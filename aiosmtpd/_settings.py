"""What the options of the command line say together: places, certificates, the handler."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from aiosmtpd._options import DEFAULT_CLASS, DEFAULT_HOST, DEFAULT_PORT
from aiosmtpd._process import one_line
from aiosmtpd._users import users_of
from aiosmtpd.engine.listening import parse_listen


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
        settings.places = [parse_listen(text) for text in texts]
    except ValueError as error:
        parser.error(str(error))
    certificate = settings.smtpscert or settings.tls
    if not certificate and any(place.scheme == "smtps" for place in settings.places):
        parser.error("smtps:// needs --smtpscert and --smtpskey, or --tls self-signed")
    first = settings.places[0]
    settings.host, settings.port = first.host, first.port
    if first.path is None and first.fd is None:
        settings.host = DEFAULT_HOST if first.host is None else first.host
        settings.port = DEFAULT_PORT if first.port is None else first.port
    settings.listen = texts[0] if settings.listen else None


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


def _find_class(parser: ArgumentParser, classpath: str) -> Any:
    module_name, _, name = classpath.rpartition(".")
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
        known = "Debugging, Mailbox, Sink or MODULE.CLASS"
        parser.error(f"No class {name} in {module_name}: -c takes {known}")
    return found


def check_auth(parser: ArgumentParser, settings: Namespace) -> None:
    """Refuse ``--require-auth`` where nothing can tell a right password; a usage error."""
    mechanisms = any(name.startswith(("auth_", "handle_AUTH")) for name in dir(settings.handler))
    if settings.require_auth and settings.users is None and not mechanisms:
        parser.error("--require-auth needs somebody to let in: --auth, --auth-file or --auth-any")


def _make_printer(parser: ArgumentParser, settings: Namespace) -> Any:
    from aiosmtpd.inbox.printing import JSONLines, Pretty

    if settings.classpath != DEFAULT_CLASS or settings.classargs:
        parser.error("--pretty and --json print messages themselves: leave out -c and CLASSARGS")
    return Pretty() if settings.pretty else JSONLines()


def make_handler(parser: ArgumentParser, settings: Namespace) -> Any:
    """Make the handler that ``-c`` names; a usage error where it cannot be."""
    if settings.pretty or settings.json:
        return _make_printer(parser, settings)
    handler_class = _find_class(parser, settings.classpath)
    if hasattr(handler_class, "from_cli"):
        return handler_class.from_cli(parser, *settings.classargs)
    if settings.classargs:
        parser.error(f"Handler class {handler_class.__module__} takes no arguments")
    return handler_class()
