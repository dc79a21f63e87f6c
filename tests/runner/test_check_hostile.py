"""``--check`` of places and code that a server cannot use: one line each, never a traceback."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.runner.test_check import SPOOL, START, faults, untried, write_pair

HANDLER = START + 'handler = "json:loads"\n'
CODE = 'handler = "hostile:take"\n'


@pytest.mark.parametrize("host", ["a..b", "a" * 300])
def test_a_host_name_that_cannot_be(tmp_path: Path, host: str) -> None:
    text = HANDLER.replace("127.0.0.1:0", f"{host}:25") + f'admin.http = "{host}:9025"\n'
    assert untried(tmp_path, text) == [
        f":2: listen.1: {host} is not a host name",
        f":4: admin.http: {host} is not a host name",
    ]


def test_a_file_in_the_place_of_a_socket(tmp_path: Path) -> None:
    text = HANDLER.replace("127.0.0.1:0", f"unix:{tmp_path}/a.toml")
    text += f'admin.socket = "{tmp_path}"\n'
    assert untried(tmp_path, text) == [
        f":2: listen.1: {tmp_path}/a.toml is there, and is not a socket",
        f":4: admin.socket: {tmp_path} is there, and is not a socket",
    ]


def test_the_path_of_a_socket_is_short(tmp_path: Path) -> None:
    text = HANDLER.replace("127.0.0.1:0", f"unix:{tmp_path}/{'s' * 200}")
    assert "the path of a Unix socket has at most 10" in untried(tmp_path, text)[0]


def test_a_maildir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = SPOOL + 'to = "maildir:file"\nmatch = "a@*"\n[[route]]\nto = "maildir:gone/box"\n'
    first, second = faults(tmp_path, text)
    assert first == f":5: route.1.to: {tmp_path}/file is not a folder"
    assert second.endswith(f" finds no folder {tmp_path}/gone")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import sys; sys.exit(3)", ":3: handler: cannot import hostile:take: SystemExit: 3"),
        (r"import os; os.write(2, b'\xff'); take = os.getpid", ""),
        (r"import os; os.write(2, b'\xff'); os._exit(3)", r":3: handler: cannot be tried: \xff"),
        ("take = 'text'", ":3: handler: hostile:take is not a function, and has no hook such as"),
        ("class take:\n def __init__(self): exit()", ":3: handler: cannot make hostile:take: Sys"),
    ],
)
def test_hostile_code(tmp_path: Path, code: str, line: str) -> None:
    (tmp_path / "hostile.py").write_text(code)
    found = faults(tmp_path, START + CODE)
    assert [one[: len(line)] for one in found] == ([line] if line else [])


def test_a_function_of_a_module_that_exits(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit('bye')")
    (found,) = faults(tmp_path, SPOOL + 'to = "python:hostile:take"\nmatch = "*@a.test"\n')
    assert found == ":4: route.1: python:hostile:take: cannot import hostile: SystemExit: bye"


def test_the_current_folder_hides_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("open('run', 'w').close()")
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    assert faults(tmp_path / "config", HANDLER) == []
    assert not os.path.exists("run")


def test_a_module_is_found_as_workers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile.py").write_text("def take(mail): pass")
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    (found,) = faults(tmp_path / "config", START + CODE)
    assert "No module named 'hostile'" in found


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="Linux has files of this kind")
def test_a_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.key").touch(0o640)
    (found,) = untried(tmp_path, HANDLER + 'tls = { cert = "/proc/self/mem", key = "a.key" }\n')
    assert found == ":4: tls.cert: the two files cannot be read: Input/output error"


def test_a_key_with_a_pass_phrase(tmp_path: Path) -> None:
    write_pair(tmp_path)
    key = load_pem_private_key((tmp_path / "a.key").read_bytes(), None)
    (tmp_path / "a.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))
    )
    (found,) = untried(tmp_path, HANDLER + 'tls = { cert = "a.pem", key = "a.key" }\n')
    assert found == ":4: tls.key: the key has a pass phrase: store it without one"
