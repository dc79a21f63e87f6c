"""A certificate authority for the tests of one run."""

from __future__ import annotations

import ssl
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

from aiosmtpd.process import authority


class Authority(authority.Authority):
    """Signs certificates for the loopback; :attr:`ca_file` exists until :meth:`close`.

    Raises ModuleNotFoundError, with a text that says what to install, if trustme is missing.
    """

    def __init__(self) -> None:
        try:
            signer = authority.new_signer()
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"TLS in tests {error}", name=error.name) from None
        super().__init__(signer, self._new_file())
        self._write()

    def _new_file(self) -> Path:
        folder = Path(mkdtemp(prefix="aiosmtpd-"))
        # Also for an inbox that never starts: no one closes its authority.
        self._remove = finalize(self, rmtree, folder, ignore_errors=True)
        return folder / authority.CA_FILE

    def _write(self) -> None:
        self._signer.cert_pem.write_to_path(str(self.ca_file))

    def open(self) -> None:
        """Make the file again, under another name, if it has been removed."""
        if not self._remove.alive:
            self.ca_file = self._new_file()
            self._write()

    def close(self) -> None:
        """Remove the file."""
        self._remove()

    @cached_property
    def server_context(self) -> ssl.SSLContext:
        """The context of a server for ``localhost``, ``127.0.0.1`` and ``::1``."""
        return self.issue()
