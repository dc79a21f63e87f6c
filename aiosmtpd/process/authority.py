"""A certificate authority for development and tests."""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from aiosmtpd.process.failure import Failure, one_line

if TYPE_CHECKING:
    import trustme

LOOPBACK = ("localhost", "127.0.0.1", "::1")
LIFETIME = timedelta(days=397)
"""How long a server's certificate is valid: some clients refuse longer ones."""

CA_FILE = "ca.pem"
"""The certificate, for clients to trust."""

KEY_FILE = "authority.pem"
"""The private key and the certificate."""

MISSING = 'needs trustme: pip install "aiosmtpd[devtls]"'


class Authority:
    """Signs certificates of servers; clients trust them by :attr:`ca_file`, a PEM file.

    The folder of the file must have changed a moment ago. Its time counts for the certificates: a
    test may have stopped Python's clock, and OpenSSL has another one.
    """

    def __init__(self, signer: trustme.CA, ca_file: Path) -> None:
        self._signer = signer
        self.ca_file = ca_file
        self._made = datetime.fromtimestamp(ca_file.parent.stat().st_mtime, UTC)

    def issue(self, names: Iterable[str | None] = ()) -> ssl.SSLContext:
        """Return the context of a server, with a new certificate for its names.

        The names of the loopback are always in it. Empty names, and those that no certificate can
        hold, are left out.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        hosts = certified_names(names)
        leaf = self._signer.issue_cert(*hosts, not_after=self._made + LIFETIME)
        leaf.configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.ca_file))


def new_signer(name: str | None = None) -> trustme.CA:
    """Make the key and the certificate of an authority, in memory.

    Raises ModuleNotFoundError, with a text that says what to install, if trustme is missing.
    """
    return _signers()(organization_name=name)


def _signers() -> type[trustme.CA]:
    try:
        import trustme
    except ModuleNotFoundError:
        raise ModuleNotFoundError(MISSING, name="trustme") from None
    return trustme.CA


def kept_authority(folder: Path) -> Authority:
    """Return the authority that is kept in a folder; make it if there is none. Raises Failure."""
    try:
        signer = kept_signer(folder / KEY_FILE)
        _write(folder / CA_FILE, signer.cert_pem.bytes())
    except ModuleNotFoundError as error:
        raise Failure(f"A development certificate {error}") from None
    except OSError as error:
        text = f"Cannot keep the certificate authority in {folder}: {error.strerror or error}"
        raise Failure(f"{text}; name another folder with {_variable()}") from error
    except Exception as error:
        text = f"{folder / KEY_FILE} is not an authority: remove it ({one_line(error)})"
        raise Failure(text) from error
    return Authority(signer, folder / CA_FILE)


def kept_signer(file: Path) -> trustme.CA:
    """Return the key and the certificate in a file, which is made if it does not exist.

    Raises OSError, ValueError for other contents, and what :func:`new_signer` raises.
    """
    signers = _signers()
    if not file.exists():
        made = new_signer(f"aiosmtpd on {socket.gethostname()}"[:64])
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # If another server writes one at the same time, the first counts for both.
        _write(file, made.private_key_pem.bytes() + made.cert_pem.bytes(), replace=False)
    pem = file.read_bytes()
    return signers.from_pem(pem, pem)


def cache_folder() -> Path:
    """Return this user's folder for files that can be made again; raises Failure without a home."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = _home() / "Library" / "Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(home) / "aiosmtpd"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        # Such as a user of a container that is only a number.
        text = "The certificate authority needs a folder, and this user has no home folder"
        raise Failure(f"{text}: name a folder with {_variable()}") from None


def _variable() -> str:
    """Return the variable of the environment that names the cache folder on this system."""
    return {"win32": "LOCALAPPDATA", "darwin": "HOME"}.get(sys.platform, "XDG_CACHE_HOME")


def certified_names(names: Iterable[str | None]) -> list[str]:
    """Return the names of a certificate: the loopback's, this machine's and the given ones."""
    known = (name for name in (*LOOPBACK, socket.gethostname(), *names) if name)
    return list(dict.fromkeys(name for name in known if _can_be_certified(name)))


def _can_be_certified(name: str) -> bool:
    if ":" in name:
        return "%" not in name
    return len(name) < 64 and re.fullmatch(r"[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*", name) is not None


def _write(file: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that only this user can read, and that exists complete or not at all."""
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
