"""The files of a certificate while they are loaded again."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from aiosmtpd.process.certificates import Certificate
from tests.unit.test_main import shown_by


def test_files_that_change_during_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first, second = (trustme.CA().issue_cert("mx.test") for _ in range(2))
    cert.write_bytes(first.cert_chain_pems[0].bytes())
    key.write_bytes(first.private_key_pem.bytes())
    certificate = Certificate(str(cert), str(key))
    before = shown_by(certificate.context)

    class Trial(ssl.SSLContext):
        """Loads the files a moment before a program writes the next certificate."""

        def load_cert_chain(self, *args: Any, **keywords: Any) -> None:
            super().load_cert_chain(*args, **keywords)
            cert.write_bytes(second.cert_chain_pems[0].bytes())

    with monkeypatch.context() as patch:
        patch.setattr(ssl, "create_default_context", lambda _: Trial(ssl.PROTOCOL_TLS_SERVER))
        certificate.reload()
    assert cert.read_bytes() == second.cert_chain_pems[0].bytes()
    assert shown_by(certificate.context) == before
    key.write_bytes(second.private_key_pem.bytes())
    certificate.reload()
    assert shown_by(certificate.context) not in (None, before)
