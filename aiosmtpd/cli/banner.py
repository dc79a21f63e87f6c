"""Texts about the places where the server listens, or why it cannot."""

from __future__ import annotations

import errno
import shlex
import socket
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from aiosmtpd._version import __version__
from aiosmtpd.cli.options import DEFAULT_SIZE
from aiosmtpd.listen import addresses as listening


def banner(
    settings: Namespace,
    where: str,
    addresses: Sequence[listening.Address],
    ca_file: Path | None = None,
) -> str:
    """Return the lines that a server which has just started prints to a terminal."""
    size = DEFAULT_SIZE if settings.size is None else settings.size
    smtps = settings.tls and any(place.scheme == "smtps" for place in settings.places)
    tls = ["from the start"] if settings.smtpscert or smtps else []
    if settings.tlscert or settings.tls:
        tls.append("STARTTLS required" if settings.requiretls else "STARTTLS offered")
    lines = [
        f"aiosmtpd {__version__} is listening on {where}",
        f"  size limit {f'{size:,} bytes' if size else 'none'}, "
        f"TLS: {', '.join(tls) or 'off'}, AUTH: {_about_auth(settings, bool(tls))}",
    ]
    if ca_file is not None:
        lines.append(f"  CA certificate: {ca_file}")
    lines += [f"  fails on purpose: {fault}" for fault in settings.fault or ()]
    if settings.deliver:
        from aiosmtpd.delivery.outlets import shown

        lines += [f"  delivers {shown(text)}" for text in settings.deliver]
    if settings.proxy_protocol:
        # "aiosmtpd send" sends no PROXY header.
        lines.append(f"  serves only the proxies in {', '.join(settings.proxy_protocol)}")
    else:
        lines.append(f"  send a test: {sending_command(settings, addresses[0], ca_file)}")
    return "\n".join([*lines, "  stop it with Ctrl-C"])


def _about_auth(settings: Namespace, tls: bool) -> str:
    if settings.users is None:
        return "off"
    need = "required" if settings.require_auth else "offered"
    users = "any password"
    if settings.users.names is not None:
        count = len(settings.users.names)
        users = f"{count} user{'s' if count > 1 else ''}"
    return f"{need}, {users}{'' if tls else ', in the clear'}"


def sending_command(settings: Namespace, address: listening.Address, ca_file: Path | None) -> str:
    """Return the command that sends a message to the first place."""
    if isinstance(address, str):
        where = f"unix:{address}"
    else:
        host, port = address
        where = listening.spell((listening.reachable(host), port))
    scheme = settings.places[0].scheme
    if scheme == "smtps" or (settings.smtpscert and scheme is None):
        where = f"smtps://{where}"
    elif scheme == "lmtp":
        where = f"lmtp://{where}"
    words = ["aiosmtpd", "send", where]
    if ca_file is not None:
        words += ["--cafile", str(ca_file)]
    if settings.require_auth and settings.users is not None:
        user = "me" if settings.users.names is None else settings.users.names[0]
        words += ["--auth", f"{user}:PASSWORD"]
    return shlex.join(words)


def why_not_listening(error: OSError, option: str = "-l") -> str:
    """Return one line about a place that cannot be bound: where, why, and what to do."""
    text = listening.explain(error)
    if isinstance(error, socket.gaierror):
        return f"Cannot listen: {text}; name a host or an address of this machine with {option}"
    hints = {
        errno.EADDRINUSE: "stop the program that listens there or choose another place",
        errno.EACCES: "this user must be able to write the folder: choose another place"
        if text.startswith("'")
        else "only root may use ports below 1024: choose another place",
        errno.EADDRNOTAVAIL: "name an address of this machine",
    }
    hint = hints.get(error.errno or 0, "choose another place")
    # The text about a descriptor is a sentence.
    mark = ":" if text.startswith("fd:") else " on"
    return f"Cannot listen{mark} {text}; {hint} with {option}"


def is_local(address: listening.Address) -> bool:
    """Return True if only this machine can reach an address."""
    return isinstance(address, str) or address[0] == "::1" or address[0].startswith("127.")
