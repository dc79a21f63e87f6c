"""Check options together, and add what follows from them."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from aiosmtpd.cli.options import DEFAULT_HOST, DEFAULT_PORT
from aiosmtpd.cli.values import user_and_password
from aiosmtpd.listen.addresses import Listen, parse_listen
from aiosmtpd.process.activation import passed_sockets
from aiosmtpd.process.users import Users


def complete(parser: ArgumentParser, settings: Namespace) -> None:
    """Add ``places``, ``host``, ``port`` and ``users``; exit with a usage error if they are wrong.

    ``listen`` becomes the text of the first place.
    """
    _check_places(parser, settings)
    for name in "smtps", "tls":
        _check_certificate(parser, settings, name)
    _check_self_signed(parser, settings)
    settings.users = _users(parser, settings)
    if not settings.setuid and (settings.user or settings.group):
        parser.error("--user and --group have no meaning with -n: leave one or the other out")


def check_auth(parser: ArgumentParser, settings: Namespace, handler: Any = None) -> None:
    """Refuse ``--require-auth`` if neither the options nor *handler* can check a password."""
    mechanisms = any(name.startswith(("auth_", "handle_AUTH")) for name in dir(handler))
    if settings.require_auth and settings.users is None and not mechanisms:
        parser.error("--require-auth needs users: add --auth, --auth-file or --auth-any")


def _check_places(parser: ArgumentParser, settings: Namespace) -> None:
    texts = settings.listen or [""]
    try:
        settings.places = [place for text in texts for place in _places_of(text)]
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
            parser.error(f"--tls makes its own certificate: leave out --tls or --{name}")


def _check_certificate(parser: ArgumentParser, settings: Namespace, name: str) -> None:
    cert, key = getattr(settings, f"{name}cert"), getattr(settings, f"{name}key")
    if bool(cert) != bool(key):
        parser.error(f"--{name}cert and --{name}key must be specified together")
    for kind, path in ("Cert", cert), ("Key", key):
        if path and not Path(path).exists():
            parser.error(f"{kind} file {path} not found")


def _users(parser: ArgumentParser, settings: Namespace) -> Users | None:
    """Return the users that the options name, or None if they name none."""
    pairs = list(settings.auth or ())
    if settings.auth_file:
        if settings.auth_any:
            parser.error("argument --auth-any: not allowed with argument --auth-file")
        pairs += read_users(parser, settings.auth_file)
    if settings.auth_any:
        return Users(None)
    return Users(pairs) if pairs else None


def read_users(parser: ArgumentParser, path: str) -> list[tuple[str, str]]:
    """Read a ``USER:PASSWORD`` from each line, without empty lines and comments (``#``)."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        parser.error(f"Users file {path}: {reason[:1].lower()}{reason[1:]}")
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            try:
                pairs.append(user_and_password(line))
            except ArgumentTypeError as error:
                parser.error(f"Users file {path}, line {number}: {error}")
    if not pairs:
        parser.error(f"Users file {path} is empty: write USER:PASSWORD in a line")
    return pairs
