"""The command ``aiosmtpd serve``, without running the server."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import pytest

from aiosmtpd.cli.serve import main, make_parser
from aiosmtpd.runner.load import load
from aiosmtpd.runner.show import show

pwd = pytest.importorskip("pwd")
ME = pwd.getpwuid(os.geteuid()).pw_name

Run: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in an empty folder; return its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        try:
            code = main(args, "aiosmtpd serve")
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return run


def test_a_first_file_passes_its_check(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--init")
    assert (code, err) == (0, "")
    assert out.startswith("aiosmtpd.toml is written")
    file = tmp_path / "aiosmtpd.toml"
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    text = file.read_text().replace("127.0.0.1:8025", f"127.0.0.1:{port}")
    file.write_text(text.replace("#user = ", f'user = "{ME}" #'))
    code, out, err = run("--check", "aiosmtpd.toml")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("aiosmtpd.toml: ")
    assert "fault" not in out.replace("no fault", "")


def test_each_comment_of_the_first_file_is_a_key(run: Run, tmp_path: Path) -> None:
    run("--init")
    file = tmp_path / "aiosmtpd.toml"
    lines = [line[1:] if line[:2] in _KEYS or line[:3] == "#[[" else line for line in _lines(file)]
    file.write_text("\n".join(lines))
    (tmp_path / "webhook").write_text("whsec_")
    text = file.read_text().replace("/etc/aiosmtpd/webhook", "webhook")
    file.write_text(text)
    config = load(file, {"SHOP_TOKEN": "t"}).config
    assert config.tls is not None
    assert config.admin.http == "127.0.0.1:9025"
    assert [route.name for route in config.routes] == ["app", "shop"]


_KEYS = {f"#{letter}" for letter in "[abcdefghijklmnopqrstuvwxyz"}


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_file_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    assert run("--init", "mine.toml") == (
        2,
        "",
        "aiosmtpd serve: mine.toml exists: name another file\n",
    )
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert run("--init", "gone/mine.toml")[0] == 2


def test_a_check_prints_all_faults(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('workers = "x"\nlisten = ":0"\nhandler = 3\nuser = 4\n')
    assert run("--check", "a.toml") == (
        2,
        'a.toml:1: workers: expected a number from 1 to 1024, or "auto", not "x"\n'
        "a.toml:3: handler: expected a text, not 3\n"
        'a.toml:4: user: expected a name such as "mail", not 4\n'
        "a.toml: 3 faults\n",
        "",
    )


def test_a_check_prints_warnings(run: Run, tmp_path: Path) -> None:
    text = f'user = "{ME}"\nlisten = ":0"\nhandler = "json:loads"\nsmtp.bare_newline = "accept"\n'
    (tmp_path / "a.toml").write_text(text)
    code, out, _ = run("--check", "a.toml")
    assert code == 0
    assert 'a.toml:4: smtp.bare_newline: "accept" lets clients smuggle' in out
    assert "(warning)\na.toml: " in out


def test_a_wrong_file_is_not_served(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("listen = 3\n")
    code, out, err = run("a.toml")
    assert (code, out) == (2, "")
    assert err.startswith("a.toml:1: listen: expected a list of places")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "name a file (--init writes one, aiosmtpd.toml), or give --spool and --deliver"),
        (["a.toml", "-l", ":25"], "-l, --spool and --deliver are for a server without a file"),
        (["-l", ":25", "--spool", "S"], "--spool DIR and --deliver URL need each other"),
        (["a.toml", "--show"], "--show needs --check"),
        (["a.toml", "--online"], "--online needs --check"),
        (["a.toml", "--notify-reload"], "--notify-reload needs --systemd-unit"),
        (["--init", "-l", ":25"], "--init writes a file"),
        (["--check", "--init"], "not allowed with argument"),
    ],
)
def test_wrong_options(args: list[str], text: str, run: Run) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def test_a_check_without_a_file(run: Run) -> None:
    code, out, _ = run(
        "--check", "-l", "127.0.0.1:0", "--spool", "S", "--deliver", "*@a.test=smpt://a.test"
    )
    assert code == 2
    assert out.startswith(
        'command line: route.1.to: "smpt://a.test" is not a place to deliver to: did you mean smtp?'
    )


def test_values_in_force(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSMTPD_LIMITS__ERRORS", "7")
    monkeypatch.setenv("TOKEN", "hidden1")
    (tmp_path / "hook").write_text("whsec_aGlkZGVuMmhpZGRlbjJoaWRkZW4y")
    (tmp_path / "users").write_text("anne:hidden3\n")
    (tmp_path / "a.toml").write_text(
        f'preset = "mx"\nuser = "{ME}"\nlisten = "[::1]:0"\nspool.path = "spool"\n[[route]]\n'
        'to = "https://x:hidden4@a.test/${TOKEN}"\nmatch = "*@a.test"\nsecret = "file:hook"\n'
        'headers = { X = "hidden5" }\nretry = "remote"\n'
        "[auth]\nusers = 'users'\nrequire_tls = false\n"
    )
    out = "\n".join(show(load("a.toml")))
    for line in (
        'preset = "mx"  # line 1',
        'listen = ["[::1]:0"]  # line 3',
        "errors = 7  # AIOSMTPD_LIMITS__ERRORS",
        'bare_newline = "reject"  # preset',
        'size = "25M"  # preset',
        'grace = "30s"  # default',
        'secret = "***"',
        'to = "***"  # line 6',
    ):
        assert line in out.splitlines()
    assert "hidden" not in out
    _, printed, _ = run("--check", "--show", "a.toml")
    assert printed.startswith('listen = ["[::1]:0"]')
    assert "hidden" not in printed


def test_secrets_of_a_handler_are_masked(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'listen = ":25"\n[handler]\nuse = "a:B"\napi_key = "hidden"\ndepth = 3\n'
    )
    lines = list(show(load(tmp_path / "a.toml", {})))
    assert '# api_key = "***"' in lines
    assert "# depth = 3" in lines


def test_the_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = make_parser("aiosmtpd serve").format_help().splitlines()
    assert max(map(len, lines)) <= 40


def test_nothing_of_it_is_imported_without_need() -> None:
    code = (
        "import sys, aiosmtpd.cli.serve as serve; serve.make_parser('x').format_help();"
        "print([name for name in sys.modules if name.startswith('aiosmtpd.runner')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert find_spec("aiosmtpd.runner") is not None


@pytest.mark.parametrize("option", ["--check", "--init", "--systemd-unit"])
def test_a_reader_that_goes_gets_no_traceback(tmp_path: Path, option: str) -> None:
    (tmp_path / "a.toml").write_text("x = 1\n" * (option != "--systemd-unit"))
    name = "new.toml" if option == "--init" else "a.toml" if option == "--check" else None
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "aiosmtpd", "serve", option, *filter(None, [name])]
    for unbuffered in ("", "1"):
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(
            command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, env=env
        )
        (tmp_path / "new.toml").unlink(missing_ok=True)
        assert (done.returncode, done.stderr) == (1, "")
    os.close(writer)


def test_ctrl_c_ends_a_check(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.toml").write_text("")
    monkeypatch.setattr("aiosmtpd.runner.check.check", stop)
    assert run("--check", "a.toml") == (130, "", "")


def test_a_name_of_any_bytes_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "aiosmtpd", "serve", "--check", "\udcff.toml"]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 2
    assert rb"\udcff.toml: 1 fault" in done.stdout
    assert done.stderr == b""


def test_secrets_inside_the_settings_of_a_handler(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text("class Mail:\n def __init__(self, **_): self.handle_DATA = 1")
    (tmp_path / "a.toml").write_text(
        f'listen = "127.0.0.1:0"\nuser = "{ME}"\n[handler]\nuse = "shop:Mail"\n'
        'store = "postgres://shop:hunter2@db.test/mail"\nmore = ["${WORD}"]\n'
        'db = { host = "db.test", password = "hunter2", x = "${WORD}", y = ["a://b:hunter2@c"] }\n'
    )
    monkeypatch.setenv("WORD", "hunter2")
    code, out, err = run("--check", "--show", "a.toml")
    assert (code, err) == (0, "")
    assert "hunter2" not in out
    assert '# store = "postgres://***@db.test/mail"\n' in out
    assert '"host": "db.test", "password": "***", "x": "***", "y": ["a://***@c"]' in out
