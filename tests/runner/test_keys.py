"""Certificates of the master and of the workers."""

import asyncio
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.certificates import Texts
from aiosmtpd.runner.keyring import Keyring
from aiosmtpd.runner.keys import Contexts, checked, facts_of
from aiosmtpd.runner.tables import TLS, Pair

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def write(folder: Path, name: str, *hosts: str, **keywords: Any) -> Pair:
    """Write a certificate for *hosts*, by an authority of its own, and its key."""
    leaf = trustme.CA().issue_cert(*hosts, **keywords)
    pair = Pair(cert=str(folder / f"{name}.pem"), key=str(folder / f"{name}.key"))
    leaf.private_key_pem.write_to_path(pair.key)
    leaf.cert_chain_pems[0].write_to_path(pair.cert)
    return pair


def texts_of(*pairs: Pair) -> list[Texts]:
    return [Texts(Path(one.cert).read_text(), Path(one.key).read_text()) for one in pairs]


def name_shown(contexts: Contexts, name: str | None) -> str:
    """Return the first host name of the certificate that a client gets."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = contexts.context.wrap_bio(to_server, to_client, server_side=True)
    for side in here, there, here, there:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    der = here.getpeercert(binary_form=True)
    assert der is not None
    return next(host for host in HOSTS if host.encode() in der)


HOSTS = ("mx.one.test", "two.test", "mx.new.test")


def test_facts_are_names_and_the_end(tmp_path: Path) -> None:
    pair = write(tmp_path, "one", "mx.one.test", "MX.other.test")
    facts = checked([pair])[0].facts
    assert facts.names == ("mx.one.test", "mx.other.test")
    assert facts.not_after > datetime.now(UTC).timestamp()


def test_comments_in_any_encoding(tmp_path: Path) -> None:
    pair = write(tmp_path, "one", "mx.one.test")
    for file, comment in (pair.cert, "Schlüssel\n".encode()), (pair.key, b"caf\xe9\n"):
        Path(file).write_bytes(comment + Path(file).read_bytes())
    texts = checked([pair])[0].texts
    assert name_shown(Contexts([texts], "1.2"), None) == "mx.one.test"


def test_one_file_for_both_is_sent_once(tmp_path: Path) -> None:
    pair = write(tmp_path, "one", "mx.one.test")
    both = Path(pair.cert).read_text() + Path(pair.key).read_text()
    Path(pair.cert).write_text(both)
    texts = checked([Pair(cert=pair.cert, key=pair.cert)])[0].texts
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    # Its certificates are not encrypted.
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    there = Contexts([texts], "1.2").context.wrap_bio(to_server, to_client, server_side=True)
    for side in client.wrap_bio(to_client, to_server), there:
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    der = ssl.PEM_cert_to_DER_cert(both[: both.index("-----BEGIN", 10)].strip())
    assert to_client.read().count(der) == 1


def test_an_expired_certificate_has_facts_too(tmp_path: Path) -> None:
    pair = write(tmp_path, "old", "mx.one.test", not_after=PAST)
    facts = checked([pair])[0].facts
    assert facts.not_after == PAST.timestamp()


async def test_a_keyring_sees_a_change(tmp_path: Path) -> None:
    pair = write(tmp_path, "one", "mx.one.test")
    keys = Keyring(TLS(cert=pair.cert, key=pair.key), checked([pair]))
    assert not await keys.read()
    before = keys.texts
    write(tmp_path, "one", "mx.new.test")
    assert await keys.read()
    assert keys.texts != before
    assert keys.facts[pair.cert].names == ("mx.new.test",)


async def test_a_keyring_names_each_certificate(tmp_path: Path) -> None:
    pairs = [write(tmp_path, "one", "mx.one.test"), write(tmp_path, "two", "two.test")]
    keys = Keyring(TLS(cert=pairs[0].cert, key=pairs[0].key, sni=(pairs[1],)))
    assert await keys.read()
    assert [keys.facts[one.cert].names for one in pairs] == [("mx.one.test",), ("two.test",)]


def test_a_wrong_certificate_leaves_the_old_one(tmp_path: Path) -> None:
    pair = write(tmp_path, "one", "mx.one.test")
    other = write(tmp_path, "two", "two.test")
    keys = Keyring(TLS(cert=pair.cert, key=pair.key), checked([pair]))
    before = keys.texts
    Path(pair.key).write_bytes(Path(other.key).read_bytes())
    with pytest.raises(Failure, match="they do not belong together"):
        asyncio.run(keys.read())
    Path(pair.key).write_text("not a key")
    with pytest.raises(Failure, match="one is not a PEM file of its kind"):
        asyncio.run(keys.read())
    Path(pair.key).unlink()
    with pytest.raises(Failure, match="No such file"):
        asyncio.run(keys.read())
    assert keys.texts == before
    assert not keys.is_checking


async def test_a_process_that_checks_nothing_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write(tmp_path, "one", "mx.one.test")
    monkeypatch.setattr("aiosmtpd.runner.reader.command", lambda *_: [sys.executable, "-c", ""])
    with pytest.raises(
        Failure, match=r"the process that reads the certificates has failed \(exit code 0\)"
    ):
        await Keyring(TLS(cert=pair.cert, key=pair.key)).read()


def test_no_table_means_no_certificate() -> None:
    assert Keyring(None).texts == []


def test_a_client_gets_the_certificate_it_asks_for(tmp_path: Path) -> None:
    pairs = [write(tmp_path, "one", "mx.one.test"), write(tmp_path, "two", "*.two.test")]
    contexts = Contexts(texts_of(*pairs), "1.2")
    assert name_shown(contexts, "shop.two.test") == "two.test"
    assert name_shown(contexts, "MX.one.test") == "mx.one.test"
    assert name_shown(contexts, "unknown.test") == "mx.one.test"
    assert name_shown(contexts, None) == "mx.one.test"


def test_new_handshakes_get_the_new_certificate(tmp_path: Path) -> None:
    contexts = Contexts(texts_of(write(tmp_path, "one", "mx.one.test")), "1.2")
    contexts.use(texts_of(write(tmp_path, "new", "mx.new.test")))
    assert name_shown(contexts, None) == "mx.new.test"


def test_the_lowest_version_is_that_of_the_table(tmp_path: Path) -> None:
    contexts = Contexts(texts_of(write(tmp_path, "one", "mx.one.test")), "1.3")
    assert contexts.context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_key_with_a_pass_phrase_is_refused(tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    pair = write(tmp_path, "one", "mx.one.test")
    key = serialization.load_pem_private_key(Path(pair.key).read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    Path(pair.key).write_bytes(locked)
    with pytest.raises(Failure, match="the key has a pass phrase: store it without one"):
        checked([pair])


def test_facts_are_those_of_a_context(tmp_path: Path) -> None:
    pair = write(tmp_path, "one", "mx.one.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    assert facts_of(context).names == ("mx.one.test",)


def test_texts_do_not_show_the_key(tmp_path: Path) -> None:
    (texts,) = texts_of(write(tmp_path, "one", "mx.one.test"))
    assert "PRIVATE" not in repr(texts)


def test_a_system_without_files_in_memory_has_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    contexts = Contexts(texts_of(write(tmp_path, "one", "mx.one.test")), "1.2")
    assert name_shown(contexts, None) == "mx.one.test"
    # No key stays on the disk.
    assert list((tmp_path / "temporary").iterdir()) == []
