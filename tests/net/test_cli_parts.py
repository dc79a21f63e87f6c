"""The parts of the command line without a process of their own: handlers, variants, the program."""

import asyncio
import io
import logging
import os
import smtplib
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd import main
from aiosmtpd.cli import completion as _completion, options as _options
from aiosmtpd.controller import Controller
from aiosmtpd.delivery.command import OnMessage, environment
from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.observers.countdown import Countdown
from aiosmtpd.observers.transcript import Dialogue
from aiosmtpd.process import exit as _exit
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import PATIENCE, Client

POSIX = pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
MESSAGE = b"Subject: x\r\n\r\nbody\r\n.\r\n"


class Variant(Controller):
    """A server of a class that is made for it."""

    def __init__(self, protocol: Callable[..., SMTP], handler: Any, **keywords: Any) -> None:
        super().__init__(handler, "127.0.0.1", 0, **keywords)
        self.protocol = protocol

    def factory(self) -> SMTP:
        return self.protocol(self.handler, **self.SMTP_kwargs)


def delivered(client: Client) -> bytes:
    client.transaction()
    client.send(MESSAGE)
    return client.reply()


# A command for each message.


@POSIX
@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ('cat > message; echo "$SMTP_MAIL_FROM $SMTP_RCPT_TO" > envelope', b"250"),
        ("exit 75", b"451"),
        ("exit 3", b"554"),
        ("kill $$", b"451"),
        ("sleep 600; true", b"451"),
    ],
)
def test_a_command_as_a_handler(
    command: str, reply: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seconds = 0.2 if "sleep" in command else PATIENCE
    with Variant(SMTP, OnMessage(command, seconds)) as server, Client(server.port) as client:
        assert delivered(client)[:3] == reply
    if "cat" in command:
        assert (tmp_path / "message").read_bytes() == b"Subject: x\n\nbody\n"
        assert (tmp_path / "envelope").read_text() == "a@b.test c@d.test\n"


@POSIX
@pytest.mark.parametrize(("command", "reply"), [("exit 0", b"250"), ("exit 3", b"554")])
def test_a_command_that_ends_before_it_gets_the_message(
    command: str, reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_shell

    async def start_and_end(*args: Any, **keywords: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **keywords)
        await process.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_shell", start_and_end)
    with (
        Variant(SMTP, OnMessage(command, PATIENCE)) as server,
        Client(server.port) as client,
    ):
        assert delivered(client)[:3] == reply


@POSIX
def test_a_command_that_fails_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # More than the kernel lets a process have.
    handler = OnMessage("true", PATIENCE)
    monkeypatch.setenv("FILLS_THE_ENVIRONMENT", "x" * 200_000)
    with Variant(SMTP, handler) as server, Client(server.port) as client:
        assert delivered(client)[:3] == b"451"


@POSIX
def test_a_command_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    handler = OnMessage("echo unread", PATIENCE)
    with Variant(SMTP, handler) as server, Client(server.port) as client:
        assert delivered(client)[:3] == b"250"


def test_environment_of_a_command() -> None:
    session, envelope = Session(asyncio.new_event_loop()), Envelope()
    session.loop.close()
    session.peer = ("2001:db8::1", 4711, 0, 0)
    session.ssl = {"cipher": ("NAME", "TLSv1.3", 256)}
    envelope.mail_from, envelope.rcpt_tos = "<>", ["a@b.test", "c@d.test"]
    told = environment(session, envelope)
    assert told["SMTP_MAIL_FROM"] == told["SMTP_HELO"] == told["SMTP_USER"] == ""
    assert told["SMTP_RCPT_TO"] == "a@b.test\nc@d.test"
    assert (told["SMTP_PEER"], told["SMTP_PEER_PORT"]) == ("2001:db8::1", "4711")
    assert (told["SMTP_TLS"], told["SMTP_SIZE"]) == ("TLSv1.3", "0")


# So many messages, and the end.


@pytest.mark.parametrize("say_goodbye", [True, False])
def test_a_countdown(say_goodbye: bool) -> None:
    over = threading.Event()
    protocol = partial(SMTP, observers=[Countdown(1, over.set)])
    with Variant(protocol, Sink(), extensions="modern") as server:
        with Client(server.port) as gone:
            gone.transaction()
            gone.send(b"half a message\r\n")
        with Client(server.port) as client:
            for line in b"EHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>":
                client.ask(line)
            client.send(b"BDAT 2\r\nhi")
            assert client.reply()[:3] == b"250"
            assert client.ask(b"RSET")[:3] == b"250"
            assert delivered(client)[:3] == b"250"
            assert not over.is_set()
            with Client(server.port) as late:
                assert delivered(late)[:3] == b"421"
            if say_goodbye:
                client.ask(b"QUIT")
            assert over.wait(PATIENCE)


def test_lmtp_counts_too() -> None:
    over = threading.Event()
    with Variant(partial(LMTP, observers=[Countdown(1, over.set)]), Sink()) as server:
        with Client(server.port) as client:
            for line in b"LHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA":
                client.ask(line)
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"
        assert over.wait(PATIENCE)


# Output.


def test_a_dialogue() -> None:
    stream = io.StringIO()
    protocol = partial(SMTP, observers=[Dialogue(stream)])
    with (
        Variant(protocol, Sink(), auth_require_tls=False, data_size_limit=30) as server,
        Client(server.port) as client,
    ):
        client.ask(b"EHLO x")
        client.ask(b"AUTH LOGIN")
        client.ask(b"am9l")
        client.ask(b"c2VjcmV0")
        client.ask(b"NOOP")
        client.ask(b"NOOP")
        client.ask(b"AUTH c2VjcmV0 c2VjcmV0")
        client.ask(b"secret")
        client.ask(b"NOOP")
        assert delivered(client)[:3] == b"250"
        client.transaction()
        client.send(b"x" * 50 + b"\r\n.\r\n")
        assert client.reply()[:3] == b"552"
        client.ask(b"QUIT")
        assert client.reply() == b""
    text = stream.getvalue()
    assert "secret" not in text.lower().replace("c2vjcmv0", "secret")
    assert "C: AUTH ********" in text
    assert "-- 20 bytes of mail data\n" in text
    assert "-- 52 bytes of mail data\n" in text
    assert "-- disconnected: QUIT\n" in text


def test_a_closed_dialogue_harms_no_mail() -> None:
    class Closed(io.StringIO):
        def isatty(self) -> bool:
            return False

        def write(self, _: str) -> int:
            raise BrokenPipeError

    with (
        Variant(partial(SMTP, observers=[Dialogue(Closed())]), Sink()) as server,
        Client(server.port) as client,
    ):
        assert delivered(client)[:3] == b"250"


# Completion.


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("aiosmtpd --au", "aiosmtpd"),
        ("aiosmtpd sen", "aiosmtpd"),
        ("aiosmtpd send --t", "aiosmtpd send"),
        ("aiosmtpd nothing --t", "aiosmtpd"),
    ],
)
def test_options_of_the_command_are_completed(
    line: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    argcomplete = pytest.importorskip("argcomplete")
    asked: list[Any] = []
    monkeypatch.setattr(argcomplete, "autocomplete", asked.append)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    _completion.complete(_options.make_parser("aiosmtpd"), "aiosmtpd")
    (parser,) = asked
    assert parser.prog == program
    assert os.environ["_ARGCOMPLETE"] == ("2" if " " in program else "1")
    if program == "aiosmtpd":
        suggested = {
            action.dest: list(action.completer())
            for action in parser._actions
            if hasattr(action, "completer")
        }
        assert suggested["classpath"] == ["Debugging", "Delivery", "Mailbox", "Sink"]
        assert "send" in suggested["classargs"]


# The program, in this thread; clients come from another.


class WhenListening(logging.Handler):
    """Runs something in a thread of its own once the program listens; needs `-d`."""

    def __init__(self, call: Callable[[int], object]) -> None:
        super().__init__()
        self.call = call
        self.thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "Server is listening on" in text:
            port = int(text.split()[4].rpartition(":")[2])
            self.thread = threading.Thread(target=self.call, args=[port])
            self.thread.start()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("mail.log", "mail.debug")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def run(call: Callable[[int], object], *args: str) -> None:
    """Run the program; `call` gets its port."""
    log, handler = logging.getLogger("mail.log"), WhenListening(call)
    log.addHandler(handler)
    try:
        main.main(["-n", "-d", "-l", "127.0.0.1:0", *args])
    finally:
        log.removeHandler(handler)
        assert handler.thread is not None
        handler.thread.join(PATIENCE)


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo()
        client.login("joe", "secret")
        client.sendmail("a@b.test", "c@d.test", "Subject: x\n\nbody\n")


@pytest.mark.usefixtures("loop")
def test_all_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ready = tmp_path / "ready"
    options = ("--auth", "joe:secret", "--require-auth", "--show-dialogue", "--exit-after", "1")
    run(send, *options, "--ready-file", str(ready), "-c", "Sink")
    assert not ready.exists()
    assert "C: AUTH PLAIN ********" in capfd.readouterr().err


@pytest.mark.usefixtures("loop")
def test_an_unwritable_ready_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda _: None, "--ready-file", str(tmp_path / "no" / "file"), "-c", "Sink")
    assert caught.value.code == 2
    assert "name another file with --ready-file" in capsys.readouterr().err


@POSIX
@pytest.mark.usefixtures("loop")
def test_it_stops_when_the_reader_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as caught:
            run(lambda _: os.close(reader))
        assert caught.value.code == 1
        assert _exit.pipe_of(output) == writer


@POSIX
def test_streams_that_are_not_pipes(tmp_path: Path) -> None:
    assert _exit.pipe_of(None) is None
    assert _exit.pipe_of(io.StringIO()) is None
    with (tmp_path / "file").open("w") as file:
        assert _exit.pipe_of(file) is None


@POSIX
def test_flushing_a_broken_pipe_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = open(writer, "w", encoding="utf-8")  # noqa: SIM115 - its closing is what is tested
    output.write("unread")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", None)
    _exit.flush_standard_streams()
    output.close()


# Handlers that the options name.


def taker(mail: Any) -> None:
    """Take a message."""


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["-c", f"{__name__}:taker"], type(taker)),
        (["-c", "aiosmtpd.handlers:Sink"], Sink),
        (["--on-message", "true"], OnMessage),
    ],
)
def test_handlers(args: list[str], kind: type) -> None:
    assert type(main.parseargs(args)[1].handler) is kind


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c", f"{__name__}:taker", "x"], "takes no arguments of the command line"),
        (["-c", f"{__name__}:test_lmtp_counts_too"], "must accept one argument, a Mail"),
        (["-c", f"{__name__}:POSIX_"], "No function or class POSIX_"),
        (["--on-message", "true", "-c", "Sink"], "leave out -c"),
        (["--on-message", "true", "--json"], "cannot be combined with --pretty"),
        (["--on-message", ""], "needs a command"),
        (["--tls", "self-signed", "--tlscert", __file__, "--tlskey", __file__], "leave out --tls"),
        (["-l", "smtps://:1"], "or --tls self-signed"),
    ],
)
def test_invalid_handlers(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(args)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
