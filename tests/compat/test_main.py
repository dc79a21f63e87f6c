"""The command line as programs for 1.4 use it: names, namespace, texts, the loop."""

import asyncio
import inspect
import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aiosmtpd
import aiosmtpd.handlers
import aiosmtpd.main
import aiosmtpd.smtp
from aiosmtpd.engine import loops
from tests.rows import each_row

DIFFERS = pytest.mark.skipif(
    aiosmtpd.smtp.__version__.startswith("1.4"), reason="a deliberate difference"
)
POSIX = pytest.mark.skipif(os.name != "posix", reason="there are no users to become")
HERE = __name__

parseargs = aiosmtpd.main.parseargs
ANYWHERE = ("-l", "127.0.0.1:0")


class NoArguments:
    """A handler that the command line makes without arguments."""


class FromCli:
    """A handler that the command line makes with ``from_cli()``."""

    def __init__(self, called: str) -> None:
        self.called = called

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> "FromCli":
        return cls(*args)


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("mail.log", "mail.debug")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


class WhenListening(logging.Handler):
    """Calls a function in the loop once ``main()`` listens; needs ``-d``."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call = call
        self.seen = False

    def emit(self, record: logging.LogRecord) -> None:
        if "Server is listening on" in record.getMessage():
            self.seen = True
            loop = asyncio.events._get_running_loop() or asyncio.get_event_loop()
            loop.call_soon(self.call)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that ``main()`` has to use."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def stopped(loop: asyncio.AbstractEventLoop) -> Iterator[WhenListening]:
    """Stop the loop as soon as the server listens."""
    handler = WhenListening(loop.stop)
    log = logging.getLogger("mail.log")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def usage_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parseargs(args)
    assert caught.value.code == 2
    return last_line(capsys.readouterr().err)


def test_public_names_of_main() -> None:
    assert aiosmtpd.main.DEFAULT_HOST == "localhost"
    assert aiosmtpd.main.DEFAULT_PORT == 8025
    assert aiosmtpd.main.DEFAULT_CLASS == "aiosmtpd.handlers.Debugging"
    assert vars(aiosmtpd.main)["__all__"] == ["main"]
    assert isinstance(aiosmtpd.main.PROGRAM, str)
    assert list(inspect.signature(aiosmtpd.main.main).parameters) == ["args"]
    assert list(inspect.signature(aiosmtpd.main.parseargs).parameters) == ["args"]
    assert inspect.signature(aiosmtpd.main.main).parameters["args"].default is None
    assert isinstance(aiosmtpd.main._parser(), ArgumentParser)


def test_the_default_namespace() -> None:
    parser, namespace = parseargs(())
    assert isinstance(parser, ArgumentParser)
    handler = namespace.handler
    assert type(handler) is aiosmtpd.handlers.Debugging
    expected: dict[str, Any] = {
        "setuid": True,
        "classpath": "aiosmtpd.handlers.Debugging",
        "size": None,
        "smtputf8": False,
        "debug": 0,
        "listen": None,
        "smtpscert": None,
        "smtpskey": None,
        "tlscert": None,
        "tlskey": None,
        "requiretls": True,
        "classargs": (),
        "host": "localhost",
        "port": 8025,
    }
    assert {name: getattr(namespace, name) for name in expected} == expected


@each_row(
    ("args", "name", "value"),
    [
        (["-n"], "setuid", False),
        (["--nosetuid"], "setuid", False),
        (["-s", "5"], "size", 5),
        (["--size", "0"], "size", 0),
        (["-u"], "smtputf8", True),
        (["--smtputf8"], "smtputf8", True),
        (["-d"], "debug", 1),
        (["-dd", "--debug"], "debug", 3),
        (["--no-requiretls"], "requiretls", False),
        (["-c", "aiosmtpd.handlers.Sink"], "classpath", "aiosmtpd.handlers.Sink"),
        (["-l", "foo:25"], "listen", "foo:25"),
    ],
)
def test_flags_set_their_options(args: list[str], name: str, value: object) -> None:
    assert getattr(parseargs(args)[1], name) == value


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("foo:25", "foo", 25),
        ("foo", "foo", 8025),
        ("foo:", "foo", 8025),
        (":25", "localhost", 25),
        ("::0:25", "::0", 25),
    ],
)
def test_listen_sets_host_and_port(text: str, host: str, port: int) -> None:
    for flag in "-l", "--listen":
        namespace = parseargs((flag, text))[1]
        assert (namespace.host, namespace.port) == (host, port)


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_version_is_printed(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aiosmtpd.main.PROGRAM", "other")
    with pytest.raises(SystemExit) as caught:
        parseargs((flag,))
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"other {aiosmtpd.__version__}\n"


def test_a_class_without_from_cli() -> None:
    assert isinstance(parseargs(("-c", f"{HERE}.NoArguments"))[1].handler, NoArguments)


def test_a_class_with_from_cli() -> None:
    namespace = parseargs(("-c", f"{HERE}.FromCli", "--", "FOO"))[1]
    assert namespace.handler.called == "FOO"
    assert namespace.classargs == ["FOO"]


def test_errors_of_from_cli_are_raised() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        parseargs(("-c", f"{HERE}.FromCli"))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-c", f"{HERE}.NoArguments", "x"], f"Handler class {HERE} takes no arguments"),
        (["x"], "Debugging usage: [stdout|stderr]"),
        (["-c", "aiosmtpd.handlers.Sink", "x"], "Sink handler does not accept arguments"),
        (["-c", "aiosmtpd.handlers.Mailbox"], "The directory for the maildir is required"),
        (["-c", "aiosmtpd.handlers.Mailbox", "x", "y"], "Too many arguments for Mailbox handler"),
        (["-l", "foo:bar"], "Invalid port number: bar"),
        (["-l", ":bar"], "Invalid port number: bar"),
        (["--smtpscert", "x"], "--smtpscert and --smtpskey must be specified together"),
        (["--smtpskey", "x"], "--smtpscert and --smtpskey must be specified together"),
        (["--tlscert", "x"], "--tlscert and --tlskey must be specified together"),
        (["--tlskey", "x"], "--tlscert and --tlskey must be specified together"),
        (["--tlscert", "gone", "--tlskey", "k"], "Cert file gone not found"),
        (["--smtpscert", "gone", "--smtpskey", "k"], "Cert file gone not found"),
        (["--tlscert", __file__, "--tlskey", "gone"], "Key file gone not found"),
        (["--smtpscert", __file__, "--smtpskey", "gone"], "Key file gone not found"),
    ],
)
def test_usage_errors_exit_with_2(
    args: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage_error(capsys, *args).endswith(f": error: {text}")


@DIFFERS
@pytest.mark.parametrize("path", ["nowhere.Handler", "aiosmtpd.handlers.Nothing", "Nothing", ""])
def test_an_unknown_class_is_a_usage_error(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ": error: " in usage_error(capsys, "-c", path)


def test_debugging_prints_to_stdout_or_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert parseargs(("stderr",))[1].handler.stream is not None
    assert parseargs(("stdout",))[1].handler.stream is not parseargs(("stderr",))[1].handler.stream


@pytest.mark.parametrize(
    ("flags", "level", "debug"),
    [
        (["-nd"], logging.INFO, False),
        (["-ndd"], logging.DEBUG, False),
        (["-nddd"], logging.DEBUG, True),
    ],
)
def test_debug_options_set_the_log_level(
    flags: list[str],
    level: int,
    debug: bool,
    loop: asyncio.AbstractEventLoop,
    stopped: WhenListening,
) -> None:
    aiosmtpd.main.main((*flags, *ANYWHERE))
    assert stopped.seen
    assert logging.getLogger("mail.log").getEffectiveLevel() == level
    assert loop.get_debug() is (debug or sys.flags.dev_mode)


def test_without_debug_the_log_level_is_kept(loop: asyncio.AbstractEventLoop) -> None:
    before = logging.getLogger("mail.log").level
    loop.call_later(0.1, loop.stop)
    aiosmtpd.main.main(("-n", *ANYWHERE))
    assert logging.getLogger("mail.log").level == before


def test_it_runs_on_the_loop_that_was_set_and_closes_it(
    loop: asyncio.AbstractEventLoop, stopped: WhenListening
) -> None:
    ran_in: list[asyncio.AbstractEventLoop] = []
    loop.call_soon(lambda: ran_in.append(asyncio.get_running_loop()))
    aiosmtpd.main.main(("-nd", *ANYWHERE))
    assert ran_in == [loop]
    assert loop.is_closed()


@DIFFERS
def test_a_loop_stopped_at_once_ends_cleanly(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    aiosmtpd.main.main(("-n", *ANYWHERE))
    assert loop.is_closed()


def test_an_interrupt_in_the_loop_ends_it_cleanly(loop: asyncio.AbstractEventLoop) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    log = logging.getLogger("mail.log")
    handler = WhenListening(interrupt)
    log.addHandler(handler)
    try:
        aiosmtpd.main.main(("-nd", *ANYWHERE))
    finally:
        log.removeHandler(handler)
    assert handler.seen
    assert loop.is_closed()


@POSIX
def test_root_switches_to_the_user_nobody(
    monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop, stopped: WhenListening
) -> None:
    import pwd

    called: list[tuple[str, object]] = []
    for name in "setgroups", "setgid", "setuid":
        monkeypatch.setattr(os, name, lambda value, name=name: called.append((name, value)))
    aiosmtpd.main.main(("-d", *ANYWHERE))
    assert called[-1] == ("setuid", pwd.getpwnam("nobody").pw_uid)


@POSIX
def test_a_refused_setuid_names_the_option(
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in "setgroups", "setgid":
        monkeypatch.setattr(os, name, lambda _: None)
    monkeypatch.setattr(os, "setuid", refuse)
    with pytest.raises(SystemExit) as caught:
        aiosmtpd.main.main(ANYWHERE)
    assert caught.value.code == 1
    assert capsys.readouterr().err == 'Cannot setuid "nobody"; try running with -n option.\n'


@POSIX
def test_a_missing_pwd_module_names_the_option(
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("aiosmtpd.main.pwd", None)
    with pytest.raises(SystemExit) as caught:
        aiosmtpd.main.main(ANYWHERE)
    assert caught.value.code == 1
    text = 'Cannot import module "pwd"; try running with -n option.\n'
    assert capsys.readouterr().err == text


def test_nosetuid_does_not_switch_users(
    monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop, stopped: WhenListening
) -> None:
    monkeypatch.setattr("aiosmtpd.main.pwd", None)
    if hasattr(os, "setuid"):
        monkeypatch.setattr(os, "setuid", lambda _: pytest.fail("setuid was called"))
    aiosmtpd.main.main(("-nd", *ANYWHERE))
    assert stopped.seen


class Seen(RuntimeError):
    """Ends ``main()`` when it would make the servers."""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {"enable_SMTPUTF8": False, "require_starttls": True, "tls_context": None}),
        (["-u"], {"enable_SMTPUTF8": True}),
        (["-s", "77"], {"data_size_limit": 77}),
        (["--no-requiretls"], {"require_starttls": False}),
    ],
)
def test_partial_may_be_patched(
    args: list[str],
    expected: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def spy(*args: object, **keywords: object) -> None:
        calls.append((args, keywords))
        raise Seen

    monkeypatch.setattr("aiosmtpd.main.partial", spy)
    with pytest.raises(Seen):
        aiosmtpd.main.main(("-n", *args))
    ((protocol, handler), keywords), *_ = calls
    assert protocol is aiosmtpd.smtp.SMTP
    assert isinstance(handler, aiosmtpd.handlers.Debugging)
    assert {name: keywords[name] for name in expected} == expected


@DIFFERS
def test_the_documented_size_limit_is_the_limit(
    monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop
) -> None:
    def spy(*args: object, **keywords: object) -> None:
        assert keywords["data_size_limit"] == 33_554_432
        raise Seen

    monkeypatch.setattr("aiosmtpd.main.partial", spy)
    with pytest.raises(Seen):
        aiosmtpd.main.main(("-n",))


@DIFFERS
def test_a_user_other_than_root_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
    stopped: WhenListening,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(os, "setuid", refuse, raising=False)
    with caplog.at_level(logging.INFO, "mail.log"):
        aiosmtpd.main.main(("-d", *ANYWHERE))
    assert stopped.seen
    assert [r.levelname for r in caplog.records if "Not root" in r.getMessage()] == ["INFO"]


@DIFFERS
def test_the_event_loop_may_be_patched(
    monkeypatch: pytest.MonkeyPatch, stopped: WhenListening, loop: asyncio.AbstractEventLoop
) -> None:
    other = asyncio.new_event_loop()
    stopped.call = other.stop
    monkeypatch.setattr(loops, "current_or_new_loop", lambda: other)
    aiosmtpd.main.main(("-nd", *ANYWHERE))
    assert other.is_closed()
    assert not loop.is_closed()


def test_the_event_loop_is_current_or_new(loop: asyncio.AbstractEventLoop) -> None:
    assert aiosmtpd._get_or_new_eventloop() is loop
    asyncio.set_event_loop(None)
    made = aiosmtpd._get_or_new_eventloop()
    assert made is not loop
    assert aiosmtpd._get_or_new_eventloop() is made
    made.close()


@DIFFERS
def test_a_closed_loop_is_not_used_again(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()
    made = aiosmtpd._get_or_new_eventloop()
    assert not made.is_closed()
    made.close()


def test_tls_settings_reach_the_server(
    certificates: Any, monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop
) -> None:
    import ssl

    def spy(*args: object, **keywords: object) -> None:
        assert isinstance(keywords["tls_context"], ssl.SSLContext)
        assert keywords["require_starttls"] is True
        raise Seen

    files = ("--tlscert", str(certificates.cert_file), "--tlskey", str(certificates.key_file))
    monkeypatch.setattr("aiosmtpd.main.partial", spy)
    with pytest.raises(Seen):
        aiosmtpd.main.main(("-n", *files))
