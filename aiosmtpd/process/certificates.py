"""Certificates in files that are loaded again while the server runs."""

from __future__ import annotations

import logging
import ssl
from typing import NoReturn

from aiosmtpd.process.failure import Failure, one_line

log = logging.getLogger("mail.log")


class Certificate:
    """A certificate and its key in PEM files, and a TLS :attr:`context` that has loaded them.

    Raises Failure if the files cannot be loaded.
    """

    def __init__(self, cert: str, key: str) -> None:
        self._cert = cert
        self._key = key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self.context.load_cert_chain(cert, key)
        except OSError as error:
            raise Failure(self._explain(error)) from error

    def reload(self) -> None:
        """Read the files again for new connections; keep the old certificate if they are wrong."""
        try:
            # A failure halfway would leave the new certificate with the old key: try it out first.
            trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            trial.load_cert_chain(self._cert, self._key, self._refuse_to_ask)
            self.context.load_cert_chain(self._cert, self._key, self._refuse_to_ask)
        except (OSError, ValueError) as error:
            log.error("%s; the old certificate stays", self._explain(error))
        else:
            log.info("Certificate %s loaded again", self._cert)

    def _refuse_to_ask(self) -> NoReturn:
        raise ValueError("the pass phrase of the key can only be asked for at the start")

    def _explain(self, error: Exception) -> str:
        files = f"{self._cert} with key {self._key}"
        if isinstance(error, ssl.SSLError):
            if error.reason == "KEY_VALUES_MISMATCH":
                return f"Certificate {files}: they do not belong together"
            return f"Certificate {files}: one is not a PEM file of its kind ({one_line(error)})"
        return f"Certificate {files}: {getattr(error, 'strerror', None) or error}"
