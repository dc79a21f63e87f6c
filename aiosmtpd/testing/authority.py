"""A certificate authority for the tests of one run."""

from __future__ import annotations

import ssl
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

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
        self._folder = TemporaryDirectory(prefix="aiosmtpd-")
        super().__init__(signer, Path(self._folder.name) / authority.CA_FILE)
        signer.cert_pem.write_to_path(str(self.ca_file))

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()

    @cached_property
    def server_context(self) -> ssl.SSLContext:
        """The context of a server for ``localhost``, ``127.0.0.1`` and ``::1``."""
        return self.issue()
