"""The handlers' hooks, called as the server calls them."""

import asyncio
import email.message
import email.policy
import io
import mailbox
import os
import smtplib
import subprocess
import sys
import threading
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from aiosmtpd import handlers
from aiosmtpd.engine import loops
from aiosmtpd.handlers import AsyncMessage, Debugging, Mailbox, Message, MessageBase, Proxy, Sink
from tests.unit.support import PLAIN, data

# The output of 1.4.6 between the first and the last line.
PRINTED = [
    (PLAIN, "Subject: x\nX-Peer: ('127.0.0.1', 4321)\n\nbody\n"),
    (b"", ""),
    (b"\r\n", "X-Peer: ('127.0.0.1', 4321)\n\n"),
    (b"\r\nbody\r\n", "X-Peer: ('127.0.0.1', 4321)\n\nbody\n"),
    (b"no blank\r\n", "no blank\n"),
    (b"A: b\r\n\r\n\r\n\r\nx", "A: b\nX-Peer: ('127.0.0.1', 4321)\n\n\n\nx\n"),
    (
        b"A: \xff\xc3\xa9\r\n\r\n\xe9\r\n",
        "A: \ufffd\xe9\nX-Peer: ('127.0.0.1', 4321)\n\n\ufffd\n",
    ),
    (b"A: b\n\nlf\n", "A: b\nX-Peer: ('127.0.0.1', 4321)\n\nlf\n"),
    (
        b"a\rb\r\n\r\n\x0bq\x0c\x1c\x85\r\n",
        "a\nb\nX-Peer: ('127.0.0.1', 4321)\n\n\x0bq\x0c\x1c\ufffd\n",
    ),
    ("str: é\r\n\r\nbody\r\n", "str: é\nX-Peer: ('127.0.0.1', 4321)\n\nbody\n"),
    ("s: a\u2028b\x85\r\n\r\n", "s: a\nb\nX-Peer: ('127.0.0.1', 4321)\n\n\n"),
    ("s:\udcff\r\n\r\nq", "s:\udcff\nX-Peer: ('127.0.0.1', 4321)\n\nq\n"),
]


class TestDebugging:
    @pytest.mark.parametrize(("content", "text"), PRINTED)
    async def test_the_output_of_1_4(self, content: bytes | str, text: str) -> None:
        stream = io.StringIO()
        assert await data(Debugging(stream), content) == "250 OK"
        head = "---------- MESSAGE FOLLOWS ----------\n"
        assert stream.getvalue() == head + text + "------------ END MESSAGE ------------\n"

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                {"mail_options": ["SIZE=10", "BODY=8BITMIME"], "rcpt_options": ["X"]},
                "mail options: ['SIZE=10', 'BODY=8BITMIME']\nrcpt options: ['X']\n\n",
            ),
            ({"mail_options": ["X"]}, "mail options: ['X']\n\n"),
            ({"rcpt_options": ["X"]}, "rcpt options: ['X']\n\n"),
        ],
    )
    async def test_options_are_printed(self, options: dict[str, object], text: str) -> None:
        stream = io.StringIO()
        await data(Debugging(stream), PLAIN, **options)
        assert text + "Subject: x\n" in stream.getvalue()

    @pytest.mark.parametrize("peer", ["", "/run/s", ("::1", 1, 0, 0)])
    async def test_peer_is_shown_as_its_repr(self, peer: object) -> None:
        stream = io.StringIO()
        await data(Debugging(stream), PLAIN, peer=peer)
        assert f"\nX-Peer: {peer!r}\n\n" in stream.getvalue()

    async def test_one_write_then_flush(self) -> None:
        stream = mock.Mock()
        await data(Debugging(stream), PLAIN)
        written = [call for call in stream.write.mock_calls if call.args != ("",)]
        assert len(written) == 1
        assert stream.mock_calls[-1] == mock.call.flush()

    async def test_a_stream_needs_only_write(self) -> None:
        pieces: list[str] = []
        stream: Any = SimpleNamespace(write=pieces.append)
        assert await data(Debugging(stream), PLAIN) == "250 OK"
        assert "body\n" in "".join(pieces)

    async def test_characters_the_stream_cannot_encode_are_escaped(self) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
        assert await data(Debugging(stream), "Subject: é\udcff\r\n\r\nok\r\n") == "250 OK"
        assert b"Subject: \\xe9\\udcff\nX-Peer: " in raw.getvalue()

    @pytest.mark.parametrize("page", ["cp437", "cp1250", "cp1252"])
    async def test_a_code_page_lacks_a_character(self, page: str) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=page, newline="\n")
        assert await data(Debugging(stream), "Subject: \xf8\x81\r\n\r\nok\r\n") == "250 OK"
        assert b"\\x81\nX-Peer: " in raw.getvalue()

    async def test_none_is_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        await data(Debugging(), PLAIN)
        assert "Subject: x\n" in capsys.readouterr().out

    @pytest.mark.parametrize("content", [None, 7, ["x"]])
    async def test_content_of_another_type_raises(self, content: object) -> None:
        with pytest.raises(TypeError, match="Expected str or bytes, got <class"):
            await data(Debugging(io.StringIO()), content)


class ParserError(Exception):
    pass


@pytest.fixture
def parser() -> Any:
    parser = mock.Mock(spec=ArgumentParser)
    parser.error.side_effect = ParserError
    return parser


class TestCommandLine:
    @pytest.mark.parametrize(
        ("args", "stream"), [([], "stdout"), (["stdout"], "stdout"), (["stderr"], "stderr")]
    )
    def test_debugging(self, parser: Any, args: list[str], stream: str) -> None:
        assert Debugging.from_cli(parser, *args).stream is getattr(sys, stream)

    @pytest.mark.parametrize(
        ("handler", "args", "text"),
        [
            (Debugging, ["STDOUT"], "Debugging usage: [stdout|stderr]"),
            (Debugging, ["stdout", "stderr"], "Debugging usage: [stdout|stderr]"),
            (Sink, ["x"], "Sink handler does not accept arguments"),
            (Mailbox, [], "The directory for the maildir is required"),
            (Mailbox, ["a", "b"], "Too many arguments for Mailbox handler"),
        ],
    )
    def test_usage_errors(self, parser: Any, handler: Any, args: list[str], text: str) -> None:
        with pytest.raises(ParserError):
            handler.from_cli(parser, *args)
        parser.error.assert_called_once_with(text)

    def test_sink(self, parser: Any) -> None:
        sink = Sink.from_cli(parser)
        assert isinstance(sink, Sink)
        # Sink needs no hook: the server replies 250 to DATA.
        assert not hasattr(sink, "handle_DATA")

    def test_mailbox(self, parser: Any, tmp_path: Path) -> None:
        handler = Mailbox.from_cli(parser, str(tmp_path / "mail"))
        assert handler.mail_dir == str(tmp_path / "mail")

    def test_a_subclass_gets_its_own_class(self, parser: Any) -> None:
        class Mine(Sink):
            pass

        assert type(Mine.from_cli(parser)) is Mine


class Keep(Message):
    """Keeps messages, and the threads that handled them."""

    def __init__(self, message_class: type[email.message.Message] | None = None) -> None:
        self.messages: list[email.message.Message] = []
        self.threads: list[threading.Thread] = []
        super().__init__(message_class)

    def handle_message(self, message: email.message.Message) -> None:
        self.messages.append(message)
        self.threads.append(threading.current_thread())


class KeepAsync(AsyncMessage):
    seen: email.message.Message

    async def handle_message(self, message: email.message.Message) -> None:
        await asyncio.sleep(0)
        self.seen = message


class TestMessage:
    async def test_our_headers_come_last(self) -> None:
        handler = Keep()
        assert await data(handler, PLAIN) == "250 OK"
        assert handler.messages[0].items() == [
            ("Subject", "x"),
            ("X-Peer", "('127.0.0.1', 4321)"),
            ("X-MailFrom", "a@x"),
            ("X-RcptTo", "b@y, c@z"),
        ]
        assert handler.messages[0].get_payload() == "body\r\n"

    @pytest.mark.parametrize("kind", [bytes, str])
    async def test_the_senders_own_are_replaced(self, kind: type) -> None:
        handler = Keep()
        forged = b"X-PEER: p\r\nX-mailFrom: m\r\n more\r\nX-RcptTo: r\r\nX-Peer: q\r\n" + PLAIN
        await data(handler, forged if kind is bytes else forged.decode())
        message = handler.messages[0]
        assert message.get_all("x-peer") == ["('127.0.0.1', 4321)"]
        assert message.get_all("x-mailfrom") == ["a@x"]
        assert message.get_all("x-rcptto") == ["b@y, c@z"]

    async def test_a_path_cannot_inject_a_header(self) -> None:
        handler = Keep()
        path = "a@x\r\nX-Forged: 1"
        await data(handler, PLAIN, mail_from=path, rcpt_tos=[path], peer="p\nX-Forged: 2")
        parsed = email.message_from_bytes(handler.messages[0].as_bytes())
        assert "X-Forged" not in parsed

    async def test_the_null_sender_is_an_empty_header(self) -> None:
        handler = Keep()
        await data(handler, PLAIN, mail_from=None, rcpt_tos=[])
        assert handler.messages[0]["X-MailFrom"] == ""
        assert handler.messages[0]["X-RcptTo"] == ""

    async def test_message_class_is_used(self) -> None:
        handler = Keep(email.message.EmailMessage)
        await data(handler, PLAIN)
        assert type(handler.messages[0]) is email.message.EmailMessage
        assert handler.message_class is email.message.EmailMessage

    async def test_a_worker_thread_handles_it(self) -> None:
        handler = Keep()
        await data(handler, PLAIN)
        assert handler.threads != [threading.current_thread()]

    async def test_sync_in_loop_runs_it_in_the_loop(self) -> None:
        handler = Keep()
        handler.sync_in_loop = True
        await data(handler, PLAIN)
        assert handler.threads == [threading.current_thread()]

    @pytest.mark.parametrize(
        ("size", "in_loop"), [(100, True), (handlers._PARSE_IN_LOOP + 1, False)]
    )
    async def test_large_messages_are_parsed_outside_the_loop(
        self, monkeypatch: pytest.MonkeyPatch, size: int, in_loop: bool
    ) -> None:
        threads = []
        parse = email.message_from_bytes

        def watched(*args: Any) -> Any:
            threads.append(threading.current_thread())
            return parse(*args)

        monkeypatch.setattr(email, "message_from_bytes", watched)
        await data(Keep(), b"A: b\r\n\r\n" + b"x" * size)
        assert (threads == [threading.current_thread()]) is in_loop

    async def test_an_overridden_prepare_message_stays_in_the_loop(self) -> None:
        class Mine(Keep):
            def prepare_message(self, session: Any, envelope: Any) -> email.message.Message:
                asyncio.get_running_loop()
                message = super().prepare_message(session, envelope)
                message["X-Mine"] = "1"
                return message

        handler = Mine()
        await data(handler, b"A: b\r\n\r\n" + b"x" * (handlers._PARSE_IN_LOOP + 1))
        assert handler.messages[0]["X-Mine"] == "1"

    async def test_exceptions_reach_the_server(self) -> None:
        class Broken(Message):
            def handle_message(self, message: email.message.Message) -> None:
                raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await data(Broken(), PLAIN)

    async def test_a_coroutine_function_by_mistake_is_awaited(self) -> None:
        done = []

        class Mistaken(Message):
            async def handle_message(  # type: ignore[override]
                self, message: email.message.Message
            ) -> None:
                await asyncio.sleep(0)
                done.append(message["Subject"])

        assert await data(Mistaken(), PLAIN) == "250 OK"
        assert done == ["x"]

    async def test_a_subclass_may_skip_the_base_constructor(self) -> None:
        class Bare(Keep):
            def __init__(self) -> None:
                self.messages, self.threads = [], []

        handler = Bare()
        await data(handler, PLAIN)
        assert handler.messages[0]["Subject"] == "x"

    @pytest.mark.parametrize("kind", [MessageBase, Message, AsyncMessage])
    def test_handle_message_is_abstract(self, kind: type) -> None:
        with pytest.raises(TypeError, match="abstract"):
            kind()

    @pytest.mark.parametrize("content", [bytearray(PLAIN), memoryview(PLAIN)])
    async def test_bytes_like_content_is_accepted(self, content: object) -> None:
        handler = Keep()
        await data(handler, content)
        assert handler.messages[0]["Subject"] == "x"

    async def test_no_content_raises(self) -> None:
        with pytest.raises(TypeError):
            await data(Keep(), None)


class TestAsyncMessage:
    async def test_is_awaited(self) -> None:
        handler = KeepAsync()
        assert await data(handler, PLAIN) == "250 OK"
        assert handler.seen["X-MailFrom"] == "a@x"

    async def test_the_running_loop(self) -> None:
        assert KeepAsync().loop is asyncio.get_running_loop()

    def test_the_given_loop_is_used(self) -> None:
        loop = mock.Mock()
        handler = KeepAsync(loop=loop)
        assert handler.loop is loop
        other = mock.Mock()
        handler.loop = other
        assert handler.loop is other

    def test_no_loop_is_made_before_access(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = mock.Mock()
        make = mock.Mock(return_value=loop)
        monkeypatch.setattr(loops, "current_or_new_loop", make)
        handler = KeepAsync()
        make.assert_not_called()
        assert handler.loop is loop
        assert handler.loop is loop
        make.assert_called_once_with()


class Forwarded(Proxy):
    """Overrides ``_deliver()`` as for 1.4, with three arguments."""

    refused: Any = None

    def _deliver(self, mail_from: str, rcpt_tos: list[str], data: bytes) -> Any:  # type: ignore[override]
        self.sent = (mail_from, rcpt_tos, data)
        self.thread = threading.current_thread()
        return self.refused


class TestProxy:
    @pytest.mark.parametrize(
        ("content", "sent"),
        [
            (PLAIN, b"Subject: x\r\nX-Peer: 127.0.0.1\r\n\r\nbody\r\n"),
            (b"", b"X-Peer: 127.0.0.1\r\n"),
            (b"\r\nbody\r\n", b"X-Peer: 127.0.0.1\r\n\r\nbody\r\n"),
            (b"A: b", b"A: b\r\nX-Peer: 127.0.0.1\r\n"),
            (b"no headers\r\n", b"X-Peer: 127.0.0.1\r\nno headers\r\n"),
            (b"X-Peer: p\r\n\r\n", b"X-Peer: p\r\nX-Peer: 127.0.0.1\r\n\r\n"),
            (b"A: \xff\r\n\r\n\x00\xfe\r\n", b"A: \xff\r\nX-Peer: 127.0.0.1\r\n\r\n\x00\xfe\r\n"),
            ("A: é\udcff\r\n\r\né", b"A: \xc3\xa9\xff\r\nX-Peer: 127.0.0.1\r\n\r\n\xc3\xa9"),
            (b"A: b\n\n.\n\r.\r", b"A: b\r\nX-Peer: 127.0.0.1\r\n\r\n.\r\n\r\n.\r\n"),
            (b"A: b\r\n\r\n\n.\r\n\r", b"A: b\r\nX-Peer: 127.0.0.1\r\n\r\n\r\n.\r\n\r\n"),
        ],
    )
    async def test_the_next_hop_gets_the_message(self, content: object, sent: bytes) -> None:
        proxy = Forwarded("hop", 25)
        assert await data(proxy, content, mail_options=["BODY=8BITMIME"]) == "250 OK"
        assert proxy.sent == ("a@x", ["b@y", "c@z"], sent)
        assert proxy.thread is not threading.current_thread()

    @pytest.mark.parametrize(
        ("peer", "address"),
        [(("::1", 1, 0, 0), "::1"), ("", ""), ("/run/é\n", "/run/\\xe9"), (None, "None")],
    )
    async def test_the_peer_is_named_in_a_header(self, peer: object, address: str) -> None:
        proxy = Forwarded("hop", 25)
        await data(proxy, b"", peer=peer)
        assert proxy.sent[2] == f"X-Peer: {address}\r\n".encode()

    @pytest.mark.parametrize(
        ("refused", "reply"),
        [
            (None, "250 OK"),
            ({}, "250 OK"),
            ({"b@y": (550, b"5.1.1 no")}, "550 5.1.1 no"),
            ({"c@z": (450, "later"), "b@y": (550, b"no")}, "450 later"),
            ({"b@y": (550, b"a\nb\r\n250 c\x00\x1b\xe2\x80\xa8\xff")}, "550 a b 250 c?? \ufffd"),
            ({"b@y": (550, b"")}, "550 Refused by the next hop"),
            ({"b@y": (-1, b"ignore")}, "451 ignore"),
            ({"b@y": (250, b"what")}, "451 what"),
            ({"b@y": (600, b"what")}, "451 what"),
            ({"b@y": (421, b"4.3.2 closing")}, "451 4.3.2 closing"),
        ],
    )
    async def test_replies_follow_the_next_hop(self, refused: Any, reply: str) -> None:
        proxy = Forwarded("hop", 25)
        proxy.refused = refused
        assert await data(proxy, PLAIN) == reply

    async def test_no_recipients_is_a_554(self) -> None:
        assert (await data(Proxy("hop", 25), PLAIN, rcpt_tos=[])).startswith("554 5.5.1 ")

    async def test_no_content_raises(self) -> None:
        with pytest.raises(TypeError):
            await data(Proxy("hop", 25), None)

    async def test_smtplib_may_be_patched(self) -> None:
        with mock.patch("aiosmtpd.handlers.smtplib.SMTP") as factory:
            client = factory.return_value
            client.sendmail.return_value = {}
            assert await data(Proxy("hop", 25), PLAIN) == "250 OK"
        client.connect.assert_called_once_with("hop", 25)
        client.sendmail.assert_called_once_with(
            "a@x", ["b@y", "c@z"], b"Subject: x\r\nX-Peer: 127.0.0.1\r\n\r\nbody\r\n"
        )
        client.quit.assert_called_once_with()
        assert factory.call_args.kwargs["timeout"] == 30

    @pytest.mark.parametrize(
        ("error", "reply"),
        [
            (OSError("down"), "451 4.4.1 Next hop unavailable"),
            (smtplib.SMTPServerDisconnected("gone"), "451 4.4.1 Next hop unavailable"),
            (smtplib.SMTPHeloError(550, b"who are you"), "451 4.4.1 Next hop unavailable"),
            (
                smtplib.SMTPResponseException(500, "Line too long."),
                "451 4.4.1 Next hop unavailable",
            ),
            (smtplib.SMTPSenderRefused(553, b"5.1.8 no", "a@x"), "553 5.1.8 no"),
            (smtplib.SMTPDataError(552, "text"), "552 text"),
            (smtplib.SMTPRecipientsRefused({"b@y": (550, b"no")}), "550 no"),
            (smtplib.SMTPRecipientsRefused({}), "451 4.4.0 Next hop takes none of the recipients"),
        ],
    )
    async def test_errors_of_smtplib_become_replies(self, error: Exception, reply: str) -> None:
        with mock.patch("aiosmtpd.handlers.smtplib.SMTP") as factory:
            factory.return_value.sendmail.side_effect = error
            assert await data(Proxy("hop", 25), PLAIN) == reply

    async def test_a_bug_in_deliver_is_not_hidden(self) -> None:
        with (
            mock.patch("aiosmtpd.handlers.smtplib.SMTP", side_effect=LookupError),
            pytest.raises(LookupError),
        ):
            await data(Proxy("hop", 25), PLAIN)


IMPORTS = """
import sys
import asyncio
before = set(sys.modules)
from aiosmtpd.handlers import Debugging
Debugging()
print(*sorted(set(sys.modules) - before))
"""


class TestModule:
    def test_public_names(self) -> None:
        assert sorted(handlers.__all__) == [
            "AsyncMessage",
            "Debugging",
            "Handler",
            "Mailbox",
            "Message",
            "Proxy",
            "Sink",
        ]
        assert handlers.log.name == "mail.debug"

    def test_modules_that_programs_patch(self) -> None:
        module: Any = handlers
        assert module.smtplib is smtplib
        assert module.mailbox is mailbox
        with pytest.raises(AttributeError, match="nothing"):
            module.nothing  # noqa: B018

    def test_printing_needs_neither_smtplib_nor_email(self) -> None:
        result = subprocess.run(
            [sys.executable, "-c", IMPORTS],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        imported = set(result.stdout.split())
        assert "aiosmtpd.handlers" in imported
        assert not imported & {"smtplib", "mailbox", "email.message", "email.parser"}
