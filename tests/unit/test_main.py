"""The command line by itself: how options are read, and how they combine."""

import ast
import asyncio
import errno
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

import aiosmtpd
from aiosmtpd import main
from aiosmtpd.cli import banner as _banner, options as _options
from aiosmtpd.cli.program import Program
from aiosmtpd.listen.addresses import Listen
from aiosmtpd.process import rights, signals
from aiosmtpd.process.certificates import Certificate
from aiosmtpd.process.failure import Failure
from tests.conftest import Certificates
from tests.rows import each_row

parseargs = main.parseargs


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on the standard error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


def usage_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main.main(args)
    assert caught.value.code == 2
    return one_line(capsys)


# The package.


def test_every_name_is_importable_from_the_top() -> None:
    for name in vars(aiosmtpd)["__all__"]:
        assert getattr(aiosmtpd, name) is not None
        assert name in dir(aiosmtpd)


def test_every_name_is_declared_for_type_checkers() -> None:
    source = Path(aiosmtpd.__file__).read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for node in ast.walk(blocks[0]) if isinstance(node, ast.ImportFrom)]
    declared = {
        (alias.name, node.module)
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith("aiosmtpd.")
    }
    assert declared == set(aiosmtpd._HOMES.items())
    assert {name for name, _ in declared} == set(vars(aiosmtpd)["__all__"]) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        aiosmtpd.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_top_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import aiosmtpd;"
        "print(sorted(set(sys.modules) - before - {'aiosmtpd', '__future__', 'typing'}))"
    )
    folder = Path(aiosmtpd.__file__).parent.parent
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, stdout=subprocess.PIPE)
    assert {"asyncio", "ssl", "email", "attr", "aiosmtpd.smtp"}.isdisjoint(
        ast.literal_eval(run.stdout.decode())
    )


# Help and commands.


def run_alone(code: str, *args: str, **more: str) -> str:
    """Return the output of a fresh interpreter."""
    folder = Path(aiosmtpd.__file__).parent.parent
    command = [sys.executable, "-c", code, *args]
    env = {**os.environ, **more}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


HELP = """
import runpy, sys
try:
    runpy.run_module("aiosmtpd", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code
print(sorted(sys.modules))
"""


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_imports_nothing_heavy(flag: str) -> None:
    modules = ast.literal_eval(run_alone(HELP, flag).splitlines()[-1])
    assert "aiosmtpd.main" in modules
    assert {"asyncio", "attr", "attrs", "email", "logging", "socket", "ssl"}.isdisjoint(modules)


def test_help_tells_of_every_option() -> None:
    for action in main._parser()._actions:
        assert action.help, action.dest


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = main._parser().format_help()
    assert max(map(len, text.splitlines())) <= columns
    assert "\nnetwork:\n" in text
    assert "\nexamples:\n" in text
    assert "\nexit code: " in text


def test_the_defaults_that_help_tells_are_the_true_ones() -> None:
    from aiosmtpd.protocol.settings import PRESETS
    from aiosmtpd.smtp import DATA_SIZE_DEFAULT

    assert tuple(sorted(PRESETS)) == _options.EXTENSIONS
    assert DATA_SIZE_DEFAULT == _options.DEFAULT_SIZE


def say(args: list[str], program: str) -> int:
    """Run as a command."""
    print(program, args)
    return 3


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a command that prints its arguments."""
    known = _options.Command(f"{__name__}:say", "say something")
    monkeypatch.setitem(_options.COMMANDS, "speak", known)
    monkeypatch.setattr(main, "PROGRAM", "other")


@pytest.mark.usefixtures("command")
def test_a_command_is_the_first_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["speak", "-x", "y"])
    assert caught.value.code == 3
    monkeypatch.setattr(sys, "argv", ["other", "speak"])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().out == "other speak ['-x', 'y']\nother speak []\n"
    assert "  other speak\n      say something\n" in main._parser().format_help()


@pytest.mark.usefixtures("command")
def test_a_command_after_an_option_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = usage_error(capsys, "-n", "speak")
    assert "Unknown command 'speak': did you mean other speak, as the first argument?" in error


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--hepl"], "unrecognized arguments: --hepl; did you mean --help?"),
        (["--auth-=joe:secret"], "ambiguous option: --auth- could match --auth-any, --auth-file"),
        (["--auht=joe:secret"], "unrecognized arguments: --auht; did you mean --auth?"),
        (["--port=25"], "unrecognized arguments: --port; use -l HOST:PORT to say where to listen"),
        (["-n", "-p", "25"], "unrecognized arguments: -p; use -l HOST:PORT to say where to listen"),
        (["--zzz"], "unrecognized arguments: --zzz; see other --help"),
        (["speek"], "Unknown command 'speek': did you mean other speak?"),
        (["help"], "Unknown command 'help'. See other --help."),
        (["8025"], "Unexpected argument '8025': to listen there, write -l 8025"),
        (
            ["localhost:25"],
            "Unexpected argument 'localhost:25': to listen there, write -l localhost:25",
        ),
        (["neither"], "Debugging usage: [stdout|stderr]"),
        (["--max-errors", "-1"], "invalid number: '-1' (write 0 for none, or more)"),
    ],
)
def test_errors_suggest_the_right_option(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage_error(capsys, *args) == f"other: error: {said}\n".replace(
        "error: invalid number", "error: argument --max-errors: invalid number"
    )


@pytest.mark.parametrize("name", _options.COMMANDS)
def test_every_command_is_there(name: str) -> None:
    module, _, function = _options.COMMANDS[name].function.partition(":")
    assert callable(getattr(import_module(module), function))
    parser = import_module(module).make_parser(f"aiosmtpd {name}")
    assert parser.prog == f"aiosmtpd {name}"
    assert all(action.help for action in parser._actions)


def test_json_needs_a_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", None)
        with pytest.raises(SystemExit):
            parseargs(["-n", "--json"])
    assert "need a standard output, and it is closed" in one_line(capsys)


# Sizes, seconds and names.


@each_row(
    ("text", "size"),
    [
        ("0", 0),
        ("33554432", 33554432),
        ("33_554_432", 33554432),
        ("500K", 500 * 1024),
        ("10M", 10 * 1024**2),
        ("10m", 10 * 1024**2),
        ("10MB", 10 * 1024**2),
        ("10MiB", 10 * 1024**2),
        ("1G", 1024**3),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parseargs(["-s", text])[1].size == size


@pytest.mark.parametrize("text", ["", "x", "-5", "1.5M", "M", "1T", "_1", "1 M", "٣", "9" * 5000])
def test_invalid_sizes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "argument -s/--size: invalid size" in usage_error(capsys, f"--size={text}")


def test_seconds() -> None:
    assert parseargs(["--timeout", "2.5"])[1].timeout == 2.5
    assert parseargs([])[1].timeout is None


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf", "1e400", ""])
def test_invalid_seconds(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "argument --timeout: invalid" in usage_error(capsys, f"--timeout={text}")


@pytest.mark.parametrize("text", ["", "a b", "mx\r\n250 OK", "mx.\xe4", "x" * 256])
def test_invalid_host_names(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "argument --hostname: invalid host name" in usage_error(capsys, f"--hostname={text}")


# Places.


@pytest.mark.parametrize(
    ("texts", "places", "host", "port"),
    [
        ([], [Listen()], "localhost", 8025),
        (["8026"], [Listen(port=8026)], "localhost", 8026),
        (["::1"], [Listen(host="::1")], "::1", 8025),
        (["[::1]:8028"], [Listen(host="::1", port=8028)], "::1", 8028),
        (["unix:/a/b"], [Listen(path="/a/b")], None, None),
        (["fd:3"], [Listen(fd=3)], None, None),
        (
            ["smtp://a:1", "lmtp://unix:b"],
            [Listen("smtp", host="a", port=1), Listen("lmtp", path="b")],
            "a",
            1,
        ),
    ],
)
def test_places(texts: list[str], places: list[Listen], host: str | None, port: int | None) -> None:
    namespace = parseargs([part for text in texts for part in ("-l", text)])[1]
    assert namespace.places == places
    assert (namespace.host, namespace.port) == (host, port)
    assert namespace.listen == (texts[0] if texts else None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:99999", "Invalid port number: 99999"),
        ("http://a", "Unknown scheme 'http'"),
        ("unix:", "No socket path"),
        ("smtps://:0", "smtps:// needs --smtpscert and --smtpskey"),
    ],
)
def test_invalid_places(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in usage_error(capsys, "-l", text)


# Classes.


@pytest.mark.parametrize("name", ["Debugging", "Sink"])
def test_short_names(name: str) -> None:
    assert type(parseargs(["-c", name])[1].handler).__name__ == name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder that is not on the path yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in "handler_here", "handler_broken":
        sys.modules.pop(name, None)


def test_a_class_of_the_current_folder(folder: Path) -> None:
    (folder / "handler_here.py").write_text("class Here: pass\ndef make(): return Here()\n")
    assert type(parseargs(["-c", "handler_here.Here"])[1].handler).__name__ == "Here"
    assert type(parseargs(["-c", "handler_here.make"])[1].handler).__name__ == "Here"
    assert sys.path.count(str(folder)) == 1
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize("source", ["1 / 0", "class", "import nowhere_at_all"])
def test_a_class_that_fails_to_import(
    source: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "handler_broken.py").write_text(source)
    assert "Cannot import handler_broken for -c" in usage_error(capsys, "-c", "handler_broken.H")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c", "Nothing"], "No class Nothing in aiosmtpd.handlers: -c takes Debugging, "),
        (["-c", "aiosmtpd.handlers.Nothing"], "No class Nothing in aiosmtpd.handlers"),
        (["-c", "nowhere_at_all.H"], "No module named 'nowhere_at_all'"),
        (["-c", "Proxy"], "missing 2 required positional arguments"),
        (["-c", "Message"], "abstract"),
        (["-n", "--user", "root"], "--user and --group have no meaning with -n"),
        (["-d", "-q"], "not allowed with argument"),
    ],
)
def test_usage_errors(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in usage_error(capsys, *args)


# Certificates.


def write(blobs: list[trustme.Blob], path: Path) -> str:
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return str(path)


@pytest.fixture
def pair(certificates: Certificates, tmp_path: Path) -> tuple[str, str]:
    """The files of a certificate and its key."""
    made = issue(certificates)
    return (
        write(list(made.cert_chain_pems), tmp_path / "cert.pem"),
        write([made.private_key_pem], tmp_path / "key.pem"),
    )


def issue(certificates: Certificates) -> trustme.LeafCert:
    return certificates.authority.issue_cert("localhost")


def test_a_key_of_another_certificate(
    pair: tuple[str, str], certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    cert, key = pair
    write([issue(certificates).private_key_pem], Path(key))
    error = usage_error(capsys, "-n", "--tlscert", cert, "--tlskey", key)
    assert "do not belong together" in error


@pytest.mark.parametrize("text", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("index", [0, 1])
def test_no_pem(
    text: str, index: int, pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(pair[index]).write_text(text)
    error = usage_error(capsys, "-n", "--smtpscert", pair[0], "--smtpskey", pair[1])
    assert "is not a PEM file of its kind" in error


def test_a_folder_as_certificate_is_an_error(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = usage_error(capsys, "-n", "--tlscert", str(tmp_path), "--tlskey", pair[1])
    assert f"Certificate {tmp_path} with key" in error


def shown_by(context: ssl.SSLContext) -> bytes | None:
    """Return the certificate that a client of this context sees."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up)
    theirs = context.wrap_bio(up, down, server_side=True)
    for side in (ours, theirs) * 2:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return ours.getpeercert(binary_form=True)


def test_a_certificate_is_loaded_again(
    pair: tuple[str, str], certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(*pair)
    before = shown_by(certificate.context)
    new = issue(certificates)
    write(list(new.cert_chain_pems), Path(pair[0]))
    write([new.private_key_pem], Path(pair[1]))
    with caplog.at_level(logging.INFO, "mail.log"):
        certificate.reload()
    assert shown_by(certificate.context) not in (None, before)
    assert "loaded again" in caplog.text


@pytest.mark.parametrize("what", ["other certificate", "junk", "gone"])
def test_the_old_certificate_stays(
    what: str,
    pair: tuple[str, str],
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificate = Certificate(*pair)
    before = shown_by(certificate.context)
    if what == "gone":
        Path(pair[0]).unlink()
    elif what == "junk":
        Path(pair[0]).write_text("junk")
    else:
        write(list(issue(certificates).cert_chain_pems), Path(pair[0]))
    certificate.reload()
    assert shown_by(certificate.context) == before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the old certificate stays" in caplog.text
    assert caplog.records[0].exc_info is None


def test_no_pass_phrase_is_asked_for_while_serving(
    pair: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(*pair)
    encrypt(Path(pair[1]))
    certificate.reload()
    assert "the pass phrase of the key can only be asked for at the start" in caplog.text


def encrypt(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


# Addresses that cannot be bound.


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EADDRINUSE, "error while attempting to bind on address ('a', 1): in use"),
            "Cannot listen on a:1: in use; stop the program that listens there",
        ),
        (OSError(errno.EADDRINUSE, "('::1', 25, 0, 0): in use"), "Cannot listen on [::1]:25: in"),
        (OSError(errno.EACCES, "('a', 1): denied"), "only root may use ports below 1024"),
        (OSError(errno.EACCES, "'/a/b': denied"), "denied; this user must be able to write the"),
        (OSError(errno.EADDRNOTAVAIL, "('a', 1): no"), "name an address of this machine"),
        (OSError(errno.ENOENT, "'/a': no"), "Cannot listen on '/a': no; choose another place"),
        (OSError("odd"), "Cannot listen on odd; choose another place"),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known: a"),
            "Cannot listen: Name or service not known: a; name a host or an address",
        ),
    ],
)
def test_why_not_listening(error: OSError, said: str) -> None:
    assert said in _banner.why_not_listening(error)


# Users.

POSIX = pytest.mark.skipif(os.name != "posix", reason="there are no users to become")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """A process of root that only records its changes of user."""
    made: list[tuple[str, object]] = []
    for name in "setgroups", "setgid", "setuid":
        monkeypatch.setattr(os, name, lambda value, name=name: made.append((name, value)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def become(*args: str) -> None:
    program = Program(parseargs(args)[1], pwd=main.pwd)
    identity = program._identity()
    if identity is not None:
        program._drop_rights(identity)


@POSIX
def test_the_groups_go_first(calls: list[tuple[str, object]]) -> None:
    import pwd

    become()
    nobody = pwd.getpwnam("nobody")
    assert calls == [
        ("setgroups", os.getgrouplist("nobody", nobody.pw_gid)),
        ("setgid", nobody.pw_gid),
        ("setuid", nobody.pw_uid),
    ]


@POSIX
def test_user_and_group(calls: list[tuple[str, object]]) -> None:
    import grp
    import pwd

    user, group = pwd.getpwall()[1], grp.getgrall()[-1]
    become("--user", user.pw_name, "--group", group.gr_name)
    assert calls[1:] == [("setgid", group.gr_gid), ("setuid", user.pw_uid)]


@POSIX
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--user", "no such user"], "There is no user no such user on this system; check --user"),
        (
            ["--group", "no such group"],
            "There is no group no such group on this system; check --user",
        ),
    ],
)
def test_unknown_names(
    args: list[str],
    said: str,
    calls: list[tuple[str, object]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in usage_error(capsys, *args)
    assert calls == []


@POSIX
def test_only_root_switches_users(
    calls: list[tuple[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    error = usage_error(capsys, "--user", "nobody")
    assert "Only root can switch to another user or group" in error
    assert calls == []


@POSIX
@pytest.mark.parametrize(("uid", "goes_on"), [(4711, True), (0, False)], ids=["other", "root"])
def test_a_system_without_the_usual_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, goes_on: bool
) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    pwd = SimpleNamespace(getpwnam=unknown)
    with nullcontext() if goes_on else pytest.raises(Failure, match="no user nobody"):
        assert rights.identity_to_assume(None, None, default="nobody", pwd=pwd) is None
    with pytest.raises(Failure, match="no user nobody"):
        rights.identity_to_assume("nobody", None, default="nobody", pwd=pwd)


@POSIX
def test_a_mailbox_that_the_user_cannot_write(
    calls: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(Failure, match="cannot be written by nobody"):
        become("-c", "Mailbox", str(tmp_path / "box"))
    monkeypatch.undo()


def test_a_system_without_setuid_keeps_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "os", SimpleNamespace())
    assert rights.identity_to_assume(None, None, default="nobody", pwd=None) is None


# The banner.


def banner(*args: str, addresses: list[tuple[str, int] | str] | None = None) -> str:
    settings = main.parseargs(args)[1]
    return _banner.banner(settings, "HERE", addresses or [("127.0.0.1", 8025)])


def test_banner() -> None:
    text = banner()
    assert f"aiosmtpd {aiosmtpd.__version__} is listening on HERE\n" in text
    assert "size limit 33,554,432 bytes, TLS: off, AUTH: off\n" in text
    assert "send a test: aiosmtpd send 127.0.0.1:8025\n" in text
    assert "Ctrl-C" in text


def test_banner_of_tls(certificates: Certificates) -> None:
    files = [str(certificates.cert_file), str(certificates.key_file)]
    smtps = ["--smtpscert", files[0], "--smtpskey", files[1]]
    starttls = ["--tlscert", files[0], "--tlskey", files[1]]
    assert "TLS: from the start," in banner(*smtps)
    assert "aiosmtpd send smtps://127.0.0.1:8025\n" in banner(*smtps)
    assert "TLS: STARTTLS required," in banner(*starttls)
    assert "aiosmtpd send 127.0.0.1:8025\n" in banner(*starttls)
    assert "TLS: STARTTLS offered," in banner(*starttls, "--no-requiretls")
    assert "aiosmtpd send 127.0.0.1:8025\n" in banner(*smtps, "-l", "smtp://")


def test_banner_of_other_places() -> None:
    assert "size limit none," in banner("-s", "0")
    assert "aiosmtpd send 'unix:/a b'\n" in banner(addresses=["/a b"])
    assert "aiosmtpd send 127.0.0.1:1\n" in banner(addresses=[("0.0.0.0", 1)])
    assert "aiosmtpd send '[::1]:1'\n" in banner(addresses=[("::", 1)])
    assert "aiosmtpd send lmtp://127.0.0.1:8025\n" in banner("-l", "lmtp://:1")


def test_banner_for_proxies() -> None:
    text = banner("--proxy-protocol", "10.0.0.0/8", "--proxy-protocol", "::1")
    assert "  serves only the proxies in 10.0.0.0/8, ::1\n" in text
    assert "send a test" not in text


def test_banner_of_faults() -> None:
    text = banner("--fault", "rcpt *@slow.test: 450 busy x2", "--fault", "quit: drop")
    assert "  fails on purpose: rcpt to=*@slow.test: 450 busy x2\n" in text
    assert "  fails on purpose: quit: drop\n" in text


def test_banner_of_auth(certificates: Certificates) -> None:
    assert "AUTH: offered, 1 user, in the clear\n" in banner("--auth", "joe:secret")
    assert "--auth" not in banner("--auth", "joe:secret")
    text = banner("--auth", "joe:secret", "--auth", "jim:secret", "--require-auth")
    assert "AUTH: required, 2 users, in the clear\n" in text
    assert "aiosmtpd send 127.0.0.1:8025 --auth joe:PASSWORD\n" in text
    assert "secret" not in text
    files = ["--tlscert", str(certificates.cert_file), "--tlskey", str(certificates.key_file)]
    text = banner("--auth-any", "--require-auth", *files)
    assert "AUTH: required, any password\n" in text
    assert "--auth me:PASSWORD\n" in text


# The end.


def test_stopping_the_loop_twice_cancels_the_task() -> None:
    asked: list[str] = []
    loop = asyncio.new_event_loop()

    async def endless() -> None:
        loop.call_soon(loop.stop)
        await asyncio.Event().wait()

    def end() -> None:
        asked.append("end")
        if len(asked) == 2:
            task.cancel()
        else:
            loop.call_soon(loop.stop)

    task = loop.create_task(endless())
    signals.run_until_done(loop, task, end)
    loop.close()
    assert asked == ["end", "end"]
    assert task.cancelled()
