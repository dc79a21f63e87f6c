"""A certificate authority for the tests of one run."""

from __future__ import annotations

import ssl
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory


class Authority:
    """Signs a certificate for the loopback; its own is in :attr:`ca_file` until :meth:`close`.

    Raises ModuleNotFoundError with the remedy where trustme is not installed.
    """

    def __init__(self) -> None:
        try:
            import trustme
        except ModuleNotFoundError:
            text = 'TLS in tests needs trustme: pip install "aiosmtpd[devtls]"'
            raise ModuleNotFoundError(text, name="trustme") from None
        self._authority = trustme.CA()
        self._folder = TemporaryDirectory(prefix="aiosmtpd-")
        #: A PEM file for clients to trust.
        self.ca_file = Path(self._folder.name) / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()

    @cached_property
    def server_context(self) -> ssl.SSLContext:
        """The context of a server for ``localhost``, ``127.0.0.1`` and ``::1``."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context of a client that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca_file))
