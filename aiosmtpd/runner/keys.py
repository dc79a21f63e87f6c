"""Certificates as the module ssl has them: checked for the master, and used by the workers.

``python -m aiosmtpd.runner.keys PAIRS`` checks the files for the master, which has no TLS.
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import attrs

from aiosmtpd.process.certificates import in_file
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.runner.certificates import Checked, Facts, Texts, read, spelled, texts_of
from aiosmtpd.runner.tables import Pair

NO_TIME_CHECK = 0x200000
"""OpenSSL's flag to verify a certificate that has expired; the module ssl has no name for it."""

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Contexts:
    """The TLS of a worker: one :attr:`context` for its life, in which certificates change.

    A client gets the certificate that has the name it asks for, else the first one.
    """

    def __init__(self, texts: Sequence[Texts], min_version: str) -> None:
        self._version = VERSIONS[min_version]
        self._first, self._by_name = self._made(texts)
        self.context = self._fresh()
        self.context.sni_callback = self._choose

    def use(self, texts: Sequence[Texts]) -> None:
        """Use other certificates in new handshakes."""
        self._first, self._by_name = self._made(texts)

    def _made(self, texts: Sequence[Texts]) -> tuple[ssl.SSLContext, dict[str, ssl.SSLContext]]:
        contexts = [_context_of(one, self._fresh()) for one in texts]
        by_name: dict[str, ssl.SSLContext] = {}
        for context in contexts if len(contexts) > 1 else ():
            for name in facts_of(context).names:
                by_name.setdefault(name, context)
        return contexts[0], by_name

    def _fresh(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = self._version
        return context

    def _choose(self, connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        wanted = (name or "").lower()
        star = "*." + wanted.partition(".")[2]
        by_name = self._by_name
        connection.context = by_name.get(wanted) or by_name.get(star) or self._first


def checked(pairs: Iterable[Pair]) -> list[Checked]:
    """Read and check the files; raises Failure with one line if a server cannot use them."""
    found = []
    for pair in pairs:
        texts = texts_of(pair)
        try:
            found.append(Checked(texts, facts_of(_context_of(texts))))
        except (OSError, ValueError, KeyError) as error:
            raise Failure(_explain(pair, error)) from error
    return found


def facts_of_files(pair: Pair) -> Facts:
    """Return what a certificate says; raises OSError or ValueError if a server cannot use it."""
    return facts_of(_context_of(read(pair)))


def _explain(pair: Pair, error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{spelled(pair)}: they do not belong together"
        return f"{spelled(pair)}: one is not a PEM file of its kind ({one_line(error)})"
    if isinstance(error, OSError):
        return f"{spelled(pair)}: {error.strerror or error}"
    return f"{spelled(pair)}: {error}"


def _context_of(texts: Texts, context: ssl.SSLContext | None = None) -> ssl.SSLContext:
    """Load a certificate and its key; raises OSError, and ValueError for a pass phrase."""
    if context is None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Two files: one that has both the certificate and the key may be named twice.
    certificate, secret = texts.cert.encode("latin-1"), texts.key.encode("latin-1")
    with in_file(certificate) as cert, in_file(secret) as key:
        context.load_cert_chain(cert, key, _refuse_to_ask)
    return context


def _refuse_to_ask() -> NoReturn:
    raise ValueError("the key has a pass phrase: store it without one")


def facts_of(server: ssl.SSLContext) -> Facts:
    """Return what the certificate of a context says, by a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    here = trusting.wrap_bio(to_client, to_server)
    _shake(here, there)
    der = here.getpeercert(binary_form=True)
    if der is None:
        raise ValueError("no certificate")
    return _parsed(server, der)


def _parsed(server: ssl.SSLContext, der: bytes) -> Facts:
    """Return the facts of a certificate: the module ssl parses only one that it trusts."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(NO_TIME_CHECK)
    trusting.load_verify_locations(cadata=der)
    here = trusting.wrap_bio(to_client, to_server)
    _shake(here, there)
    found: Any = here.getpeercert()
    names = [value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        subject = dict(pair for group in found.get("subject", ()) for pair in group)
        names = [subject["commonName"]] if "commonName" in subject else []
    end = float(ssl.cert_time_to_seconds(found["notAfter"]))
    return Facts(tuple(name.lower() for name in names), end)


def _shake(here: ssl.SSLObject, there: ssl.SSLObject) -> None:
    for side in (here, there, here, there):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass


def answer(pairs: Iterable[Pair]) -> dict[str, Any]:
    """Check certificates; return the values for a keyring."""
    try:
        return {"certificates": [attrs.asdict(one) for one in checked(pairs)]}
    except Failure as failure:
        return {"failure": str(failure), "code": failure.code}
    except Exception as error:
        return {"failure": one_line(error), "code": 1}


def main() -> None:
    """Check the certificates that the first argument names, and print them."""
    print(json.dumps(answer(Pair(cert=cert, key=key) for cert, key in json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
