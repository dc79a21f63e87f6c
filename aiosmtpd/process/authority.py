"""Certificates for a server under development, by an authority in the user's cache folder."""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from aiosmtpd.process.whole import Failure, one_line

if TYPE_CHECKING:
    import trustme

ALWAYS = ("localhost", "127.0.0.1", "::1")
LIFETIME = timedelta(days=397)
"""Of a server's certificate: some clients refuse longer ones."""

AUTHORITY = "authority.pem"
CERTIFICATE = "ca.pem"


def cache_folder() -> Path:
    """Return where this user's programs keep what can be made again."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "aiosmtpd"


def self_signed(settings: Namespace) -> tuple[ssl.SSLContext, Path]:
    """Return a context with a new certificate, and the file of the authority that signed it.

    Clients that trust the file reach the server by any name it listens at. Raises Failure.
    """
    try:
        import_module("trustme")
    except ImportError:
        text = '--tls self-signed needs trustme: pip install "aiosmtpd[devtls]"'
        raise Failure(text) from None
    folder = cache_folder()
    try:
        authority = _authority(folder / AUTHORITY)
        _write(folder / CERTIFICATE, authority.cert_pem.bytes())
    except OSError as error:
        text = f"Cannot keep the certificate authority in {folder}: {error.strerror or error}"
        raise Failure(f"{text}; name another folder with XDG_CACHE_HOME") from error
    except Exception as error:
        file = folder / AUTHORITY
        raise Failure(f"{file} is no authority: remove it ({one_line(error)})") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf = authority.issue_cert(*_names(settings), not_after=datetime.now(UTC) + LIFETIME)
    leaf.configure_cert(context)
    return context, folder / CERTIFICATE


def _authority(file: Path) -> trustme.CA:
    import trustme

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        made = trustme.CA(organization_name=f"aiosmtpd on {socket.gethostname()}"[:64])
        # Another server that starts now may be first: its authority counts then.
        _write(file, made.private_key_pem.bytes() + made.cert_pem.bytes(), replace=False)
    pem = file.read_bytes()
    return trustme.CA.from_pem(pem, pem)


def _write(file: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that is there with all of its content or not at all, for this user's eyes."""
    with NamedTemporaryFile(dir=file.parent, delete=False) as new:
        new.write(content)
    try:
        if replace:
            os.replace(new.name, file)
        else:
            with suppress(FileExistsError):
                os.link(new.name, file)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(new.name)


def _names(settings: Namespace) -> Iterable[str]:
    hosts = [place.host for place in settings.places]
    names = [*ALWAYS, socket.gethostname(), settings.hostname, *hosts]
    known = (name for name in names if name and _can_be_certified(name))
    return dict.fromkeys(known)


def _can_be_certified(name: str) -> bool:
    if ":" in name:
        return "%" not in name
    return len(name) < 64 and re.fullmatch(r"[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*", name) is not None
