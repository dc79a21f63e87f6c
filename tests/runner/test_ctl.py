"""The control socket and the command ``aiosmtpd ctl``."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.cli import ctl as cli
from aiosmtpd.runner.ctl import CLIENTS, REQUEST, Ctl
from tests.client import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

WORKER = {
    "slot": 0,
    "pid": 100,
    "state": "ready",
    "seconds": 7300.0,
    "restarts": 1,
    "leaving": 0,
    "connections": 3,
    "messages": 1234,
    "spool": None,
    "memory": 30 << 20,
}

STATUS = {
    "version": "1.5",
    "pid": 99,
    "uptime": 7300.0,
    "state": "not ready",
    "why_not": ["worker 1: not ready"],
    "file": "/etc/a.toml",
    "addresses": [["127.0.0.1", 25], ["::1", 25], "/run/lmtp"],
    "reload": {"ok": False, "at": 0.0, "faults": ["a.toml:3: user: no such user"]},
    "certificates": {"/etc/a.pem": 4e9},
    "workers": [WORKER, {**WORKER, "slot": 1, "pid": None, "seconds": None, "memory": None}],
}

SESSION = {
    "slot": 1,
    "session": "abcd",
    "client": "192.0.2.1",
    "listener": "smtp:25",
    "seconds": 90.0,
    "tls": True,
    "auth": False,
    "commands": 4,
    "messages": 1,
    "last": "RCPT",
}


async def status(request: dict[str, Any]) -> Any:
    return STATUS


async def sessions(request: dict[str, Any]) -> Any:
    return {"sessions": [SESSION], "faults": []}


async def reload(request: dict[str, Any]) -> Any:
    raise ValueError("no reload now")


async def drain(request: dict[str, Any]) -> Any:
    raise RuntimeError("a\nbug")


async def log_level(request: dict[str, Any]) -> Any:
    return {"level": request["level"], "faults": ["worker 1: gone"]}


COMMANDS = {
    "status": status,
    "sessions": sessions,
    "reload": reload,
    "drain": drain,
    "log-level": log_level,
}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Path]:
    """Serve the commands; yield the path of the socket."""
    ctl, path = Ctl(COMMANDS), folder / "ctl"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    await ctl.start([sock])
    try:
        yield path
    finally:
        ctl.stop()
        async with asyncio.timeout(PATIENCE):
            await ctl.idle()


async def asked(path: Path, line: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    writer.write_eof()
    answer: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    return answer


async def run(path: Path, *words: str) -> int:
    return await asyncio.to_thread(cli.main, [*words, "--socket", str(path)], "aiosmtpd ctl")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\n", "the commands are status, "),
        (b"[]\n", "the commands are status, "),
        (b'{"command": "stop"}\n', "the commands are status, "),
        (b'{"command": "reload"}\n', "no reload now"),
        (b'{"command": "drain"}\n', "RuntimeError: a bug"),
        (b"x" * 2 * REQUEST + b"\n", "the request is too long"),
    ],
    ids=["empty", "list", "unknown", "refused", "bug", "long"],
)
async def test_wrong_requests_get_an_error(tmp_path: Path, line: bytes, error: str) -> None:
    async with serving(tmp_path) as path:
        assert (await asked(path, line))["error"].startswith(error)


async def test_status_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path) as path:
        assert await run(path, "status") == 1
        assert await run(path, "status", "--json") == 1
    *lines, answer = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "not ready, aiosmtpd 1.5, process 99, up 2 h",
        "  worker 1: not ready",
        "listening on 127.0.0.1:25, [::1]:25, /run/lmtp",
        "the last reload failed:",
        "  a.toml:3: user: no such user",
    ]
    assert lines[6].startswith("certificate /etc/a.pem: ")
    assert [" ".join(line.split()) for line in lines[-3:]] == [
        "SLOT PID STATE FOR RESTARTS LEAVING OPEN MAILS SPOOL MIB",
        "0 100 ready 2 h 1 0 3 1234 - 30",
        "1 - ready - 1 0 3 1234 - -",
    ]
    assert json.loads(answer) == STATUS


async def test_other_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path) as path:
        assert await run(path, "sessions") == 0
        row = capsys.readouterr().out.splitlines()[1]
        assert " ".join(row.split()) == "1 abcd 192.0.2.1 smtp:25 90 s yes no 4 1 RCPT"
        assert await run(path, "log-level", "debug") == 1
        assert capsys.readouterr().out == "logging from debug on\nworker 1: gone\n"
        assert await run(path, "reload") == 1
        assert capsys.readouterr().err == "aiosmtpd ctl: no reload now\n"


async def test_a_client_too_many_gets_no_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        waiting = [await asyncio.open_unix_connection(str(path)) for _ in range(CLIENTS)]
        reader, writer = await asyncio.open_unix_connection(str(path))
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        for _, other in waiting:
            other.close()


def test_results_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(cli.ACTIONS["reload"]({"ok": True})) == ["reloaded: all workers are new"]
    found = list(cli.ACTIONS["reload"]({"ok": False, "faults": ["a.toml:1: x"]}))
    assert found == ["not reloaded, the old configuration stays:", "  a.toml:1: x"]
    found = list(cli.ACTIONS["drain"]({"ok": True, "now": False, "seconds": 40.0}))
    assert found == ["the server ends; its sessions have 40 s at most"]
    assert list(cli.ACTIONS["drain"]({"ok": True, "now": True})) == ["the server ends now"]
    ended = {**STATUS, "addresses": []}
    assert "listening no longer" in list(cli.ACTIONS["status"](ended))


@pytest.mark.parametrize("words", [["log-level"], ["status", "debug"], ["stop"], []])
def test_wrong_words_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words, "aiosmtpd ctl")
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_server_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--socket", str(tmp_path / "ctl")], "aiosmtpd ctl") == 2
    error = capsys.readouterr().err
    line = f'if it runs, write socket = "{tmp_path}/ctl" into [admin] of its file'
    assert f"No such file or directory; {line}" in error
    assert error.count("\n") == 1


def test_a_server_that_hangs_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "ctl"))
        sock.listen()
        assert cli.main(["status", "--socket", str(tmp_path / "ctl")], "aiosmtpd ctl") == 2
    assert capsys.readouterr().err == (
        f"aiosmtpd ctl: the server at {tmp_path}/ctl does not answer\n"
    )


def test_a_reader_that_goes_gets_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "ask", lambda *_: {"value": {"ok": True, "now": True}})
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["drain"], "aiosmtpd ctl") == 1


def test_complaint_without_a_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["status", "--socket", str(tmp_path / "ctl")], "aiosmtpd ctl") == 2
    assert capsys.readouterr().out == ""
