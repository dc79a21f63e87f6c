"""The machine's part of ``--check``: ports, certificates, folders, users and engines."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme

from aiosmtpd.runner import check as module
from aiosmtpd.runner.check import check
from aiosmtpd.runner.faults import WrongConfiguration
from aiosmtpd.runner.load import load
from aiosmtpd.runner.tables import RouteTable
from aiosmtpd.runner.tryout import try_out
from tests.runner.fleet import configuration

pwd = pytest.importorskip("pwd")
ME = pwd.getpwuid(os.geteuid()).pw_name
START = f'user = "{ME}"\nlisten = "127.0.0.1:0"\n'
SPOOL = START + 'spool.path = "spool"\n[[route]]\n'


def faults(folder: Path, text: str, *, online: bool = False, tried: bool = True) -> list[str]:
    """Return the lines of the faults of the machine, without the name of the file."""
    return lines(folder, text, online=online, tried=tried)[0]


def untried(folder: Path, text: str) -> list[str]:
    """Return the faults that need no process of the workers' user, which takes 0.2 s."""
    return faults(folder, text, tried=False)


def warnings(folder: Path, text: str, *, tried: bool = True) -> list[str]:
    found = lines(folder, text, tried=tried)
    assert found[0] == []
    return [line for line in found[1] if "rights of root" not in line]


def lines(
    folder: Path, text: str, *, online: bool = False, tried: bool = True
) -> tuple[list[str], list[str]]:
    file = folder / "a.toml"
    file.write_text(text)
    loaded = load(file, {}, outside=True)
    # A handler that the file names wrongly is not tried.
    wrong = [] if tried else [loaded.fault(("handler",), "wrong")]
    faults, warnings = check(loaded, wrong, online=online)
    stripped = [
        [str(one).removeprefix(str(file)) for one in each if one not in wrong]
        for each in (faults, warnings)
    ]
    return stripped[0], stripped[1]


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def write_pair(folder: Path, name: str = "a", not_after: datetime | None = None) -> str:
    """Write a certificate and its key; return the table that names them."""
    leaf = trustme.CA().issue_cert("a.test", not_after=not_after)
    (folder / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    (folder / f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
    (folder / f"{name}.key").chmod(0o640)
    return f'[tls]\ncert = "{name}.pem"\nkey = "{name}.key"\n'


def test_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch(0o600)
    assert warnings(tmp_path, SPOOL + 'to = "maildir:m"\n') == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_root_becomes_another_user(tmp_path: Path) -> None:
    found = lines(tmp_path, 'listen = "127.0.0.1:0"\nhandler = "json:loads"\n')
    assert found == ([], [": user: missing: started as root, workers become nobody"])


def test_a_port_that_is_taken(tmp_path: Path, taken: int) -> None:
    text = f'user = "{ME}"\nlisten = ["127.0.0.1:0", "127.0.0.1:{taken}"]\nhandler = "json:loads"\n'
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        other = server.getsockname()[1]
        found = untried(tmp_path, f'{text}[admin]\nhttp = "127.0.0.1:{other}"\n')
    assert found == [
        f":2: listen.2: 127.0.0.1:{taken} is used by another program",
        f":5: admin.http: 127.0.0.1:{other} is used by another program",
    ]


def test_a_port_that_this_server_holds(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'user = "{ME}"\nlisten = "127.0.0.1:{taken}"\nhandler = "json:loads"\n'
    monkeypatch.setattr(module, "servers_of", lambda file: [os.getpid()])
    assert untried(tmp_path, text) == []
    # A server of this file that holds other ports does not excuse it.
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        monkeypatch.setattr(module, "servers_of", lambda file: [other.pid])
        assert len(untried(tmp_path, text)) == 1
        other.communicate(b"\n")


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    text = f'user = "{ME}"\nlisten = "192.0.2.1:2525"\nhandler = "json:loads"\n'
    assert untried(tmp_path, text) == [
        ":2: listen.1: 192.0.2.1:2525: Cannot assign requested address"
    ]


def test_a_socket_whose_path_is_too_long(tmp_path: Path) -> None:
    path = f"{tmp_path}/{'x' * 100}"
    text = f'user = "{ME}"\nhandler = "json:loads"\nlisten = "127.0.0.1:0"\n'
    found = untried(tmp_path, f'{text}[admin]\nsocket = "{path}"\n')
    assert [one.partition(" has at most")[0] for one in found] == [
        ":5: admin.socket: the path of a Unix socket"
    ]


def test_a_socket_without_a_folder(tmp_path: Path) -> None:
    text = f'user = "{ME}"\nlisten = "unix:{tmp_path}/gone/s"\nhandler = "json:loads"\n'
    assert untried(tmp_path, text) == [f":2: listen.1: there is no folder {tmp_path}/gone"]


def test_a_socket_that_another_program_serves(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(tmp_path / "s"))
        text = f'user = "{ME}"\nlisten = "unix:{tmp_path}/s"\nhandler = "json:loads"\n'
        assert untried(tmp_path, text) == []
        server.listen()
        assert "is used by another program" in untried(tmp_path, text)[0]


def test_certificates(tmp_path: Path) -> None:
    table = write_pair(tmp_path)
    write_pair(tmp_path, "b")
    text = START + 'handler = "json:loads"\n'
    assert untried(tmp_path, text + table) == []
    assert untried(tmp_path, text + table.replace("a.key", "b.key")) == [
        ":6: tls.key: the key is not that of the certificate"
    ]
    assert untried(tmp_path, text + table.replace("a.pem", "gone.pem")) == [
        f":5: tls.cert: {tmp_path}/gone.pem: No such file or directory"
    ]
    (tmp_path / "b.key").write_text("no key")
    more = '[[tls.sni]]\ncert = "b.pem"\nkey = "b.key"\n'
    assert untried(tmp_path, text + table + more)[0].startswith(":9: tls.sni.1.key: not a PEM file")


def test_the_end_of_a_certificate(tmp_path: Path) -> None:
    text = START + 'handler = "json:loads"\n'
    now = datetime.now(UTC)
    table = write_pair(tmp_path, not_after=now + timedelta(days=3, hours=1))
    day = f"{now + timedelta(days=3, hours=1):%Y-%m-%d}"
    line = f":5: tls.cert: the certificate expires on {day}, in 3 days"
    assert line in warnings(tmp_path, text + table, tried=False)
    table = write_pair(tmp_path, not_after=now - timedelta(days=1))
    line = f":5: tls.cert: the certificate expired on {now - timedelta(days=1):%Y-%m-%d}"
    assert untried(tmp_path, text + table) == [line]


def test_a_key_that_all_can_read(tmp_path: Path) -> None:
    table = write_pair(tmp_path)
    (tmp_path / "a.key").chmod(0o644)
    text = START + 'handler = "json:loads"\n' + table
    assert ":6: tls.key: every user of this machine can read the key: chmod o-r" in warnings(
        tmp_path, text, tried=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root")
def test_a_key_that_root_alone_can_read(tmp_path: Path) -> None:
    table = write_pair(tmp_path)
    (tmp_path / "a.key").chmod(0o600)
    found = warnings(tmp_path, START + 'handler = "json:loads"\n' + table, tried=False)
    assert any("only root can read it" in line and "HUP" in line for line in found)


def test_credentials_of_systemd_are_not_looked_at(tmp_path: Path) -> None:
    text = SPOOL + (
        'to = "https://127.0.0.1/"\nsecret = "file:${CREDENTIALS_DIRECTORY}/hook"\n'
        '[tls]\ncert = "${CREDENTIALS_DIRECTORY}/cert"\nkey = "${CREDENTIALS_DIRECTORY}/key"\n'
    )
    found = warnings(tmp_path, text)
    assert len(found) == 1
    assert "LoadCredential" in found[0]


def test_a_spool_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    assert faults(tmp_path, SPOOL + 'to = "maildir:m"\n')[0] == (
        f":3: spool.path: {tmp_path}/spool is not a folder"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_spool_of_another_user(tmp_path: Path) -> None:
    found = faults(tmp_path, SPOOL.replace(f'"{ME}"', '"nobody"') + 'to = "maildir:m"\n')
    assert len(found) == 1
    assert found[0].startswith(f":3: spool.path: {tmp_path}/spool cannot be made in ")
    assert found[0].endswith(" by nobody")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_spool_that_root_makes_for_the_workers(open_path: Path) -> None:
    (open_path / "mail").mkdir()
    (open_path / "mail").chmod(0o777)
    text = SPOOL.replace(f'"{ME}"', '"nobody"')
    assert faults(open_path, text + 'to = "maildir:mail"\n') == []
    # The master makes one folder, not those above it.
    text = text.replace('"spool"', '"a/spool"')
    (found,) = faults(open_path, text + 'to = "maildir:mail"\n')
    assert found == f":3: spool.path: {open_path}/a/spool cannot be made in {open_path} by nobody"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_maildir_of_another_user(open_path: Path) -> None:
    text = SPOOL.replace(f'"{ME}"', '"nobody"') + 'to = "maildir:box"\n'
    (found,) = faults(open_path, text)
    assert found == f":5: route.1.to: {open_path}/box cannot be made in {open_path} by nobody"
    (open_path / "box").mkdir()
    (found,) = faults(open_path, text)
    assert found == f":5: route.1.to: {open_path}/box cannot be written by nobody"


def test_a_disk_without_room(tmp_path: Path) -> None:
    text = SPOOL.replace("[[route]]", 'spool.min_free = "9000T"\n[[route]]') + 'to = "maildir:m"\n'
    assert warnings(tmp_path, text)[0].startswith(":4: spool.min_free: mail is put off")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('handler = "json:gone"', ":3: handler: cannot import json:gone: AttributeError: module"),
        ('handler = "gone:x"', ":3: handler: cannot import gone:x: ModuleNotFoundError: No"),
        (
            'handler = { use = "json:JSONEncoder", depth = 3 }',
            ":3: handler: cannot make json:JSONEncoder: TypeError",
        ),
        ('handler = { use = "json:loads", depth = 3 }', ":3: handler: json:loads is not a class"),
    ],
)
def test_a_handler_that_cannot_be_made(text: str, line: str, tmp_path: Path) -> None:
    assert faults(tmp_path, START + text + "\n")[0].startswith(line)


def test_a_handler_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "shop_of_a_check.py").write_text(
        "print('loud')\nclass Mail:\n    handle_DATA = None\n    def __init__(self, depth): pass\n"
    )
    text = START + 'handler = { use = "shop_of_a_check:Mail", depth = 3 }\n'
    assert faults(tmp_path, text) == []
    assert "shop_of_a_check" not in sys.modules


@pytest.mark.parametrize(
    ("to", "text"),
    [
        ("python:json:gone", "no"),
        ("smtp://user:pass@127.0.0.1", "would send the password in plain text"),
        ("nats://127.0.0.1", "nats"),
    ],
)
def test_a_route_that_cannot_be_made(to: str, text: str, tmp_path: Path) -> None:
    found = faults(tmp_path, SPOOL + f'to = "{to}"\nmatch = "*@a.test"\n')
    assert len(found) == 1
    assert found[0].startswith(":4: route.1: ")
    assert text in found[0]
    assert "pass@" not in found[0]


def test_users_and_groups_that_are_not_there(tmp_path: Path) -> None:
    text = 'user = "gone-user"\ngroup = "gone-group"\nlisten = ":0"\nhandler = "json:loads"\n'
    assert faults(tmp_path, text) == [
        ":1: user: there is no user gone-user on this machine",
        ":2: group: there is no group gone-group on this machine",
    ]


def test_secrets_that_all_can_read(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("anne:secret\n")
    (tmp_path / "users").chmod(0o644)
    text = SPOOL + (
        'to = "smtps://anne:pass@127.0.0.1"\nmatch = "*@a.test"\n'
        "[auth]\nusers = 'users'\nrequire_tls = false\n"
    )
    (tmp_path / "a.toml").touch(0o644)
    found = [line.partition(": every user")[0] for line in warnings(tmp_path, text)]
    assert ":5: route.1.to" in found
    assert ":8: auth.users" in found
    (tmp_path / "hook").write_text("whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQ=")
    other = 'to = "https://127.0.0.1/"\nmatch = "*@a.test"\nsecret = "file:hook"\n'
    assert not any("secret" in line for line in warnings(tmp_path, SPOOL + other, tried=False))
    (tmp_path / "a.toml").chmod(0o600)
    assert not any("route.1.to" in line for line in warnings(tmp_path, text, tried=False))


def test_places_that_cannot_be_reached(tmp_path: Path, taken: int) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        text = SPOOL + (
            f'to = "lmtp://127.0.0.1:{port}"\nbounce = "smtp://127.0.0.1:{taken}"\n'
            f'[[route]]\nto = "http://127.0.0.1:{taken}/"\nmatch = "*@a.test"\n'
        )
        assert faults(tmp_path, text) == []
        found = faults(tmp_path, text, online=True)
    assert len(found) == 1
    assert found == [":5: route.1.to: cannot be reached: Connection refused"]


@pytest.mark.parametrize("mark", ["//", "//unix:"])
def test_a_socket_file_is_reached(tmp_path: Path, mark: str) -> None:
    with TemporaryDirectory() as folder, closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(f"{folder}/a b")
        server.listen()
        text = SPOOL + f'to = "lmtp:{mark}{folder}/a%20b"\n'
        assert faults(tmp_path, text, online=True) == []


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("smtp+starttls://relay.test", ("relay.test", 587)),
        ("smtp://ann:pa/ss#w@relay.test:2525#verify=no", ("relay.test", 2525)),
        ("https://ann:word@hook.test/mail", ("hook.test", 443)),
    ],
)
def test_a_place_is_reached_where_mail_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, wanted: tuple[str, int]
) -> None:
    reached: list[object] = []

    async def connect(*address: object) -> None:
        reached.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "")

    monkeypatch.setattr("asyncio.open_connection", connect)
    route = RouteTable(to="python:sink:take", bounce=url, name="sink")
    monkeypatch.setattr("aiosmtpd.runner.tryout.make_handler", lambda config: None)
    try_out(configuration(tmp_path, spool=None, route=(route,)), online=True)
    assert reached == [wanted]


def test_a_wrong_file_is_compared_with_the_machine_too(tmp_path: Path, taken: int) -> None:
    file = tmp_path / "a.toml"
    text = f'user = "{ME}"\nlisten = "127.0.0.1:{taken}"\nhandler = "json:gone"\nworkers = "x"\n'
    file.write_text(text + '[admin]\nhttp = "127.0.0.1"\n')
    with pytest.raises(WrongConfiguration) as caught:
        load(file, {})
    found, _ = check(caught.value.partial, caught.value.faults)
    assert [str(one).removeprefix(str(file)).partition(": ")[0] for one in found] == [
        ":2",
        ":3",
        ":4",
        ":6",
    ]
    assert "is used by another program" in str(found[0])
    assert "cannot import json:gone" in str(found[1])
