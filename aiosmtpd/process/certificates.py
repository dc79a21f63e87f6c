"""Certificates in files that are loaded again while the server runs."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
            content = Path(self._cert).read_bytes(), Path(self._key).read_bytes()
            # A failure halfway would leave the new certificate without a key: try it out first. The
            # files may change meanwhile.
            with in_file(content[0]) as cert, in_file(content[1]) as key:
                trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                trial.load_cert_chain(cert, key, self._refuse_to_ask)
                self.context.load_cert_chain(cert, key, self._refuse_to_ask)
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


@contextmanager
def in_file(content: bytes) -> Iterator[str]:
    """Return the path of a file with this content that no other user can read.

    The module ssl loads keys from files alone. On Linux the file is in memory.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("aiosmtpd")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    import tempfile

    descriptor, path = tempfile.mkstemp()
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)
