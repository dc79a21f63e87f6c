"""The ways into a real NATS server: TLS, a password, a token, credentials; and the wrong ones."""

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from aiosmtpd.delivery.item import Later, Misconfigured
from aiosmtpd.delivery.outlets import make_outlet
from tests.delivery.nats_keys import Realm
from tests.delivery.nats_support import REAL, SUBJECT, NatsServer, mail, running
from tests.delivery.support import delivering, messages, route

pytestmark = pytest.mark.engines

SECRET = "s3cret"
PASSWORD = {"authorization": f"{{user: app, password: {SECRET}}}"}
TOKEN = {"authorization": f"{{token: {SECRET}}}"}

Start = Callable[..., NatsServer]


@pytest.fixture(params=REAL)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a server with these lines of configuration."""
    with ExitStack() as stack:
        yield lambda **lines: stack.enter_context(running(request.param, tmp_path, **lines))


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def encrypted(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """Return the line of a server with a certificate for its address."""
    leaf, file = authority.issue_cert("127.0.0.1"), tmp_path / "server.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(str(file))
    return {"tls": f'{{cert_file: "{file}", key_file: "{file}"}}'}


def trust(authority: trustme.CA, folder: Path) -> str:
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return str(folder / "ca.pem")


def url_of(server: NatsServer, login: str) -> str:
    return f"nats://{login}127.0.0.1:{server.port}/{SUBJECT}"


async def deliver(url: str, **options: Any) -> None:
    """Open an outlet and deliver a message; secrets must not be in what it says."""
    outlet = make_outlet(url, **options)
    assert SECRET not in repr(outlet)
    try:
        await outlet.open()
        assert await outlet.put(mail()) is None
    finally:
        await outlet.close()


async def refused(url: str, match: str, **options: Any) -> None:
    """Check the one line that an outlet refuses to open with; its messages wait."""
    outlet = make_outlet(url, **options)
    with pytest.raises((ConnectionError, Misconfigured), match=match) as error:
        await outlet.open()
    with pytest.raises(Later) as later:
        await outlet.put(mail())
    await outlet.close()
    for text in str(error.value), str(later.value), later.value.reply:
        assert SECRET not in text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "login", "access", "wrong"),
    [
        (PASSWORD, f"app:{SECRET}@", {"user": "app", "password": SECRET}, f"app:x{SECRET}@"),
        (TOKEN, f"{SECRET}@", {"token": SECRET}, f"x{SECRET}@"),
    ],
    ids=["password", "token"],
)
async def test_a_login(
    start: Start, lines: dict[str, str], login: str, access: dict[str, str], wrong: str
) -> None:
    server = start(**lines)
    server.access = access
    await server.add_stream()
    await deliver(url_of(server, login), fsync=True)
    assert len(await server.stored()) == 1
    for other in wrong, "":
        await refused(url_of(server, other), "^no server lets us in at .*Authorization Violation")


async def test_credentials(start: Start, tmp_path: Path) -> None:
    realm = Realm()
    server = start(**realm.lines(tmp_path))
    credentials = realm.credentials(tmp_path)
    server.access = {"user_credentials": credentials}
    await server.add_stream()
    await deliver(server.url, credentials=credentials, fsync=True)
    assert len(await server.stored()) == 1
    other = Realm().credentials(tmp_path)
    no_login = "^no server lets us in at .*Authorization Violation"
    await refused(server.url, no_login, credentials=other)
    await refused(server.url, no_login)
    missing = str(tmp_path / "missing.creds")
    await refused(server.url, "credentials: .*missing.creds: No such file", credentials=missing)
    (tmp_path / "bad.creds").write_text("nothing\n")
    bad = str(tmp_path / "bad.creds")
    await refused(server.url, "credentials: .*bad.creds: no credentials of NATS", credentials=bad)


async def test_tls(
    start: Start, authority: trustme.CA, encrypted: dict[str, str], tmp_path: Path
) -> None:
    server = start(**encrypted, **PASSWORD)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server.access = {"tls": context, "user": "app", "password": SECRET}
    await server.add_stream()
    url = url_of(server, f"app:{SECRET}@")
    cafile = trust(authority, tmp_path)
    await deliver(url, tls=context, fsync=True)
    await deliver(f"{url}#cafile={cafile}&fsync=yes")
    # Authorities of the system, and one of another.
    not_trusted = "^cannot reach .*: its certificate is not trusted: [a-z -]+$"
    await refused(url, not_trusted)
    await refused(url, not_trusted, cafile=trust(trustme.CA(), tmp_path))
    await refused(url, "cafile: .*missing.pem: No such file", cafile=str(tmp_path / "missing.pem"))


async def test_a_certificate_for_another_name(
    start: Start, authority: trustme.CA, encrypted: dict[str, str], tmp_path: Path
) -> None:
    server = start(**encrypted)
    cafile = trust(authority, tmp_path)
    await refused(
        server.url.replace("127.0.0.1", "localhost"), "not trusted: .*mismatch", cafile=cafile
    )


@pytest.mark.parametrize("lines", [PASSWORD, {}], ids=["password", "open"])
async def test_a_server_without_tls_gets_no_secret(
    start: Start, authority: trustme.CA, lines: dict[str, str], tmp_path: Path
) -> None:
    server = start(**lines)
    url = url_of(server, f"app:{SECRET}@")
    await refused(url, "offers no TLS", cafile=trust(authority, tmp_path))


def test_the_log_masks_secrets(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start(**PASSWORD)
    one = route(url_of(server, f"app:x{SECRET}@"), reply_timeout=2.0)
    with delivering(tmp_path, one):
        pass
    assert "Route app cannot be reached now: ConnectionError: no server lets us in" in messages(
        caplog, logging.WARNING
    )
    assert SECRET not in caplog.text
