"""Proxy against next hops on real sockets: well-behaved ones, and all others."""

import asyncio
import contextlib
import errno
import io
import os
import re
import shutil
import smtplib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.delivery import nexthop as _nexthop
from aiosmtpd.handlers import Debugging, Mailbox, Message, Proxy, Sink
from tests.client import Client
from tests.net.support import free_port, serving

DROP = b"<drop>"
HANG = b"<hang>"
DEAF = b"<deaf>"

EHLO = b"250-hop\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
PLAIN = b"Subject: x\r\n\r\nbody\r\n"
SENT = b"Subject: x\r\nX-Peer: 127.0.0.1\r\n\r\nbody\r\n"
UNAVAILABLE = "451 4.4.1 Next hop unavailable"


class Hop:
    """A next hop that answers by a script: reply by command line, by verb, or a friendly one.

    In a script, ``connect`` stands for the greeting and ``.`` for the end of the mail data.
    """

    friendly = {
        "connect": b"220 hop\r\n",
        "EHLO": EHLO,
        "DATA": b"354 go on\r\n",
        "QUIT": b"221 bye\r\n",
    }

    def __init__(self, **script: bytes) -> None:
        self.script = script
        self.commands: list[str] = []
        self.raw: list[bytes] = []
        self.accepted: list[bytes] = []
        self.silent = threading.Event()
        self.wake = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.wake.set()
        # Wakes accept(), which close() alone does not.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with self._listener:
            while True:
                peer = self._listener.accept()[0]
                with peer, contextlib.suppress(OSError):
                    if self.wake.is_set():
                        return
                    self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        with peer.makefile("rb") as lines:
            if not self._answer(peer, "connect"):
                return
            for line in lines:
                self.commands.append(line.decode().rstrip("\r\n"))
                verb = self.commands[-1].partition(" ")[0].upper()
                if not self._answer(peer, verb) or verb == "QUIT":
                    return
                if verb == "DATA" and self._reply(verb).startswith(b"354"):
                    if self.script.get("body") == DEAF:
                        self.wait()
                        return
                    self._read(lines)
                    # The message counts before its reply is out: it may be lost on the way.
                    if self._reply(".").startswith(b"250 "):
                        self.accepted.append(self._unstuffed())
                    if not self._answer(peer, "."):
                        return

    def wait(self) -> None:
        self.silent.set()
        self.wake.wait(30)

    def _read(self, lines: Any) -> None:
        octets = bytearray()
        while octets != b".\r\n" and not octets.endswith(b"\r\n.\r\n"):
            line = lines.readline()
            if not line:
                raise ConnectionError
            octets += line
        self.raw.append(bytes(octets))

    def _unstuffed(self) -> bytes:
        return re.sub(rb"(?<=\r\n)\.", b"", b"\r\n" + self.raw[-1])[2:].removesuffix(b"\r\n")

    def _reply(self, key: str) -> bytes:
        line = self.commands[-1] if self.commands else ""
        if key != "." and line in self.script:
            return self.script[line]
        return self.script.get(key, self.friendly.get(key, b"250 ok\r\n"))

    def _answer(self, peer: socket.socket, key: str) -> bool:
        reply = self._reply(key)
        if reply == HANG:
            self.wait()
        elif not reply.endswith(DROP):
            peer.sendall(reply)
            return True
        else:
            peer.sendall(reply.removesuffix(DROP))
        return False


@contextlib.contextmanager
def hop(**script: bytes) -> Iterator[Hop]:
    server = Hop(**script)
    try:
        yield server
    finally:
        server.close()


async def forward(
    port: int, content: bytes | str = PLAIN, *, timeout: float = 10, **more: object
) -> str:
    values: dict[str, object] = {
        "content": content,
        "mail_from": "a@x",
        "rcpt_tos": ["b@y", "c@z"],
        "mail_options": [],
        "rcpt_options": [],
    }
    envelope: Any = SimpleNamespace(**{**values, **more})
    session: Any = SimpleNamespace(peer=("127.0.0.1", 4321))
    server: Any = None
    proxy = Proxy("127.0.0.1", port)
    proxy.timeout = timeout
    return await proxy.handle_DATA(server, session, envelope)


class TestForwarding:
    async def test_transaction(self) -> None:
        with hop() as server:
            assert await forward(server.port, mail_options=["SIZE=20"]) == "250 OK"
        assert server.accepted == [SENT]
        assert server.commands[1:] == [
            f"MAIL FROM:<a@x> size={len(SENT)}",
            "RCPT TO:<b@y>",
            "RCPT TO:<c@z>",
            "data",
            "quit",
        ]

    async def test_null_reverse_path(self) -> None:
        with hop(EHLO=b"250 hop\r\n") as server:
            assert await forward(server.port, mail_from="<>") == "250 OK"
        assert "MAIL FROM:<>" in server.commands

    @pytest.mark.parametrize(
        "path",
        [
            '"a b"@x',
            r'"a\"b"@x',
            r'"a\ b"@x',
            '"<x>"@y',
            "a@[IPv6:::1]",
            "@h,@i:a@b",
            "a(b)@x",
            "a,b@x",
            "postmaster",
            "!#$%&'*+-/=?^_`{|}~@x",
        ],
    )
    async def test_paths_are_not_rewritten(self, path: str) -> None:
        with hop(EHLO=b"250 hop\r\n") as server:
            assert await forward(server.port, mail_from=path, rcpt_tos=[path]) == "250 OK"
        assert server.commands[1:3] == [f"MAIL FROM:<{path}>", f"RCPT TO:<{path}>"]

    @pytest.mark.parametrize("path", ["a@x\r\nDATA", "a@x\nRSET"])
    async def test_a_path_makes_no_command(self, path: str) -> None:
        with hop() as server:
            with pytest.raises(ValueError, match="newline"):
                await forward(server.port, rcpt_tos=[path])
            with pytest.raises(ValueError, match="newline"):
                await forward(server.port, mail_from=path)
        assert "data" not in server.commands
        assert server.accepted == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b".\r\n",
            b"..\r\n.x\r\n...\r\n",
            b"\xff\xfe\x00\xe9\r\n",
            b"x" * 998 + b"\r\n",
            b"From me\r\n\r\n\r\n",
            (b"y" * 76 + b"\r\n") * 20_000,
        ],
        ids=["empty", "dot", "dots", "8-bit", "long", "from", "large"],
    )
    async def test_the_next_hop_gets_the_same_bytes(self, body: bytes) -> None:
        with hop(EHLO=b"250 hop\r\n") as server:
            assert await forward(server.port, b"A:  b \r\n\tc\r\n\r\n" + body) == "250 OK"
        assert server.accepted == [b"A:  b \r\n\tc\r\nX-Peer: 127.0.0.1\r\n\r\n" + body]

    @pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r", b"\n\r"])
    @pytest.mark.parametrize("after", [b"\r\n", b"\n", b"\r", b"\r\x00\n"])
    async def test_no_second_message_is_smuggled(self, before: bytes, after: bytes) -> None:
        smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nSubject: evil\r\n.\r\n"
        content = b"A: b\r\n\r\nx" + before + b"." + after + smuggled
        with hop() as server:
            assert await forward(server.port, content) == "250 OK"
        assert [command for command in server.commands if "evil" in command] == []
        [raw] = server.raw
        assert len(server.accepted) == 1
        assert raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n")
        # Not for a server that takes bare line ends for the end of data either.
        assert re.findall(rb"[\r\n]\.[\r\n]", raw) == [b"\n.\r"]
        assert raw.endswith(b"\r\n.\r\n")

    async def test_str_content(self) -> None:
        with hop() as server:
            assert await forward(server.port, "A: é\r\n\r\n\udcff\r\n") == "250 OK"
        assert server.accepted == [b"A: \xc3\xa9\r\nX-Peer: 127.0.0.1\r\n\r\n\xff\r\n"]

    async def test_many_at_once(self) -> None:
        with hop() as server:
            replies = await asyncio.gather(
                *(forward(server.port, b"N: %d\r\n\r\n" % number) for number in range(20))
            )
        assert replies == ["250 OK"] * 20
        assert sorted(int(octets.split()[1]) for octets in server.accepted) == list(range(20))

    async def test_helo_only(self) -> None:
        with hop(EHLO=b"500 what\r\n") as server:
            assert await forward(server.port, mail_options=["BODY=8BITMIME"]) == "250 OK"
        assert "MAIL FROM:<a@x>" in server.commands
        assert server.accepted == [SENT]


EIGHT_BIT = b"Subject: x\r\n\r\n\xc3\xa9\r\n"
UTF8_HEADER = b"Subject: \xc3\xa9\r\n\r\n"
NEITHER = b"250-hop\r\n250 PIPELINING\r\n"


class TestParameters:
    @pytest.mark.parametrize(
        ("options", "parameters"),
        [
            (["BODY=8BITMIME"], ["BODY=8BITMIME"]),
            (["SMTPUTF8"], ["SMTPUTF8"]),
            (["SMTPUTF8", "BODY=8BITMIME"], ["BODY=8BITMIME", "SMTPUTF8"]),
            (["BODY=7BIT", "AUTH=<>"], []),
        ],
    )
    async def test_offered(self, options: list[str], parameters: list[str]) -> None:
        with hop() as server:
            assert await forward(server.port, EIGHT_BIT, mail_options=options) == "250 OK"
        mail = server.commands[1].split()
        assert mail[:2] == ["MAIL", "FROM:<a@x>"]
        assert mail[3:] == parameters

    async def test_addresses_outside_ascii(self) -> None:
        with hop() as server:
            reply = await forward(
                server.port, mail_from="é@x", rcpt_tos=["ü@y"], mail_options=["SMTPUTF8"]
            )
        assert reply == "250 OK"
        assert server.commands[1].endswith(" SMTPUTF8")
        assert "MAIL FROM:<é@x>" in server.commands[1]
        assert server.commands[2] == "RCPT TO:<ü@y>"

    @pytest.mark.parametrize(
        ("content", "more", "reply"),
        [
            (PLAIN, {"mail_options": ["BODY=8BITMIME", "SMTPUTF8"]}, "250 "),
            # Never declared by its sender; on its way so far all the same.
            (EIGHT_BIT, {}, "250 "),
            (EIGHT_BIT, {"mail_options": ["BODY=8BITMIME"]}, "554 5.6.3 "),
            (EIGHT_BIT, {"mail_options": ["body=8bitmime"]}, "554 5.6.3 "),
            (EIGHT_BIT, {"mail_options": ["SMTPUTF8"]}, "250 "),
            (UTF8_HEADER, {"mail_options": ["SMTPUTF8"]}, "554 5.6.9 "),
            (PLAIN, {"mail_options": ["SMTPUTF8"], "rcpt_tos": ["é@x"]}, "554 5.6.7 "),
            (PLAIN, {"mail_from": "é@x"}, "554 5.6.7 "),
            (PLAIN, {"mail_options": ["BODY=BINARYMIME"]}, "554 5.6.1 "),
            (PLAIN, {"mail_options": ["REQUIRETLS"]}, "550 5.7.30 "),
        ],
    )
    async def test_not_offered(self, content: bytes, more: dict[str, Any], reply: str) -> None:
        with hop(EHLO=NEITHER) as server:
            assert (await forward(server.port, content, **more)).startswith(reply)
        mail = [command for command in server.commands if command.startswith("MAIL")]
        assert mail == ([] if reply.startswith("55") else ["MAIL FROM:<a@x>"])
        assert len(server.accepted) == len(mail)


class TestRefusals:
    @pytest.mark.parametrize(
        ("script", "reply"),
        [
            ({"MAIL": b"550 5.1.8 bad sender\r\n"}, "550 5.1.8 bad sender"),
            ({"MAIL": b"452-4.3.1 full\r\n452 4.3.1 later\r\n"}, "452 4.3.1 full 4.3.1 later"),
            ({"RCPT": b"550 5.1.1 none of them\r\n"}, "550 5.1.1 none of them"),
            ({"RCPT TO:<b@y>": b"450 4.2.0 greylisted\r\n"}, "450 4.2.0 greylisted"),
            ({"RCPT TO:<c@z>": b"550 5.1.1 unknown\r\n"}, "550 5.1.1 unknown"),
            ({"RCPT TO:<c@z>": b"421 4.3.2 closing\r\n" + DROP}, "451 4.3.2 closing"),
            ({"RCPT TO:<c@z>": b"252 perhaps\r\n"}, "451 perhaps"),
            ({"DATA": b"554 5.5.1 no\r\n"}, "554 5.5.1 no"),
            ({"DATA": b"250 ok\r\n"}, "451 ok"),
            ({".": b"554 5.7.1 spam\r\n"}, "554 5.7.1 spam"),
            ({".": b"451 4.3.0 later\r\n"}, "451 4.3.0 later"),
            ({".": b"421 4.3.2 closing\r\n"}, "451 4.3.2 closing"),
            ({".": b"552 \xff\x1b[0m\r\n"}, "552 \ufffd?[0m"),
            (
                {"connect": b"554 no service\r\n", "EHLO": b"503 no\r\n", "HELO": b"503 no\r\n"},
                UNAVAILABLE,
            ),
            ({"connect": b"554 no service\r\n"}, UNAVAILABLE),
            ({"connect": b"421 4.3.2 later\r\n"}, UNAVAILABLE),
            ({"EHLO": b"550 go away\r\n", "HELO": b"550 go away\r\n"}, UNAVAILABLE),
            ({".": b"what\r\n"}, "451 Refused by the next hop"),
        ],
    )
    async def test_reply(self, script: dict[str, bytes], reply: str) -> None:
        with hop(**script) as server:
            answer = await forward(server.port)
        assert server.accepted == []
        assert answer == reply

    async def test_some_recipients_refused_and_nothing_sent(self) -> None:
        refused = {"RCPT TO:<c@z>": b"550 5.1.1 unknown\r\n"}
        with hop(**refused) as server:
            assert await forward(server.port, rcpt_tos=["b@y", "c@z", "d@q"]) == (
                "550 5.1.1 unknown"
            )
        assert "data" not in server.commands
        assert server.commands[-1] == "quit"


STAGES = ["connect", "EHLO", "MAIL", "RCPT", "RCPT TO:<c@z>", "DATA", "."]


class TestBrokenHops:
    """Nothing is acknowledged that the hop may not have."""

    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize("start", [b"", b"25", b"250-ok\r\n"], ids=["", "code", "line"])
    async def test_breaks_off(self, stage: str, start: bytes) -> None:
        with hop(**{stage: start + DROP}) as server:
            assert (await forward(server.port)).startswith("451 ")
        assert server.accepted == []

    @pytest.mark.parametrize("stage", STAGES)
    async def test_falls_silent(self, stage: str) -> None:
        with hop(**{stage: HANG}) as server:
            assert await forward(server.port, timeout=0.1) == UNAVAILABLE
            assert server.silent.is_set()

    async def test_stops_reading(self) -> None:
        with hop(body=DEAF) as server:
            assert await forward(server.port, b"x" * 20_000_000, timeout=0.1) == UNAVAILABLE

    async def test_is_down(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            assert await forward(unused.getsockname()[1]) == UNAVAILABLE

    async def test_the_event_loop_goes_on(self) -> None:
        with hop(**{".": HANG}) as server:
            forwarding = asyncio.create_task(forward(server.port, timeout=30))
            assert await asyncio.to_thread(server.silent.wait, 10)
            assert not forwarding.done()
            server.wake.set()
            assert await forwarding == UNAVAILABLE

    @pytest.mark.parametrize("goodbye", [DROP, HANG, b"500 what\r\n", b"garbage\r\n"])
    async def test_goodbye_does_not_matter(
        self, monkeypatch: pytest.MonkeyPatch, goodbye: bytes
    ) -> None:
        monkeypatch.setattr(_nexthop, "_GOODBYE_TIMEOUT", 0.1)
        with hop(QUIT=goodbye) as server:
            async with asyncio.timeout(10):
                assert await forward(server.port, timeout=30) == "250 OK"
        assert server.accepted == [SENT]

    async def test_large_messages_get_the_timeout_for_each_piece(self) -> None:
        pieces: list[bytes | str] = []
        client: Any = SimpleNamespace(
            mail=None, rcpt=None, data=None, send=pieces.append, docmd=None
        )
        _nexthop.AllOrNone(client)
        content = os.urandom(300_000)
        client.send(content)
        client.send("QUIT\r\n")
        assert pieces.pop() == "QUIT\r\n"
        assert max(map(len, pieces)) <= 65536
        assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == content


def written(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


def send(controller: Controller, content: bytes, *options: str) -> None:
    with smtplib.SMTP(controller.hostname, controller.port, timeout=30) as client:
        client.sendmail("a@x", ["b@y", "c@z"], content, options)


class TestServer:
    """The handlers behind a server of ours, as clients see them."""

    def test_through_a_proxy_into_a_mailbox(self, tmp_path: Path) -> None:
        mailbox = Mailbox(tmp_path / "mail")
        content = b"A:  b \r\nX-MailFrom: evil\r\n\r\n.\r\n..\r\n\xff\x00\r\n"
        with (
            Controller(mailbox, port=0) as last,
            Controller(Proxy(last.hostname, last.port), port=0) as first,
        ):
            send(first, content, "BODY=8BITMIME")
        octets = written(tmp_path / "mail" / "new")
        assert octets.startswith(b"A:  b \nX-Peer: ('")
        assert octets.endswith(b")\nX-MailFrom: a@x\nX-RcptTo: b@y, c@z\n\n.\n..\n\xff\x00\n")

    @pytest.mark.parametrize(
        ("script", "reply"),
        [
            ({"RCPT TO:<c@z>": b"550 5.1.1 unknown\r\n"}, (550, b"5.1.1 unknown")),
            ({".": b"421 4.3.2 closing\r\n"}, (451, b"4.3.2 closing")),
            ({".": DROP}, (451, b"4.4.1 Next hop unavailable")),
        ],
    )
    def test_the_sender_learns_of_a_refusal(
        self, script: dict[str, bytes], reply: tuple[int, bytes]
    ) -> None:
        with hop(**script) as server, Controller(Proxy("127.0.0.1", server.port), port=0) as first:
            with pytest.raises(smtplib.SMTPDataError) as caught:
                send(first, PLAIN)
            assert (caught.value.smtp_code, caught.value.smtp_error) == reply

    def test_the_sender_learns_of_a_full_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        with Controller(Mailbox(tmp_path / "mail"), port=0) as controller:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                with pytest.raises(smtplib.SMTPDataError) as caught:
                    send(controller, PLAIN)
            assert caught.value.smtp_code == 452
            send(controller, PLAIN)
        assert written(tmp_path / "mail" / "new").count(b"Subject: x\n") == 1

    def test_a_bug_in_handle_message_is_temporary(self) -> None:
        class Broken(Message):
            def handle_message(self, message: object) -> None:
                raise LookupError

        with Controller(Broken(), port=0) as controller:
            with pytest.raises(smtplib.SMTPDataError) as caught:
                send(controller, PLAIN)
            assert caught.value.smtp_code == 451

    def test_debugging(self) -> None:
        stream = io.StringIO()
        with Controller(Debugging(stream), port=0) as controller:
            send(controller, PLAIN)
        assert "mail options: ['SIZE=20']\n\nSubject: x\nX-Peer: ('" in stream.getvalue()


def started(command: list[str], port: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        # A program that is not ours tells in no other way when it listens.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return process
        threading.Event().wait(0.01)
    process.kill()
    process.wait()
    pytest.skip("smtp-sink does not start here")


SINK = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.mark.skipif(SINK is None, reason="postfix's smtp-sink is not installed")
class TestSmtpSink:
    @contextlib.contextmanager
    def sink(self, *options: str) -> Iterator[int]:
        port = free_port()
        identity = ["-u", "root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
        command = [str(SINK), *identity, *options, f"127.0.0.1:{port}", "10"]
        process = started(command, port)
        try:
            yield port
        finally:
            process.kill()
            process.wait()

    async def test_message(self, tmp_path: Path) -> None:
        with self.sink("-d", str(tmp_path / "mail.")) as port:
            reply = await forward(
                port,
                b"Subject: x\r\n\r\n.\r\n..y\r\n\xff\r\n",
                mail_from="<>",
                mail_options=["BODY=8BITMIME"],
            )
        assert reply == "250 OK"
        octets = written(tmp_path)
        assert b"X-Mail-Args: <> BODY=8BITMIME\n" in octets
        assert b"X-Rcpt-Args: <b@y>\nX-Rcpt-Args: <c@z>\n" in octets
        assert octets.rstrip(b"\n").endswith(b"Subject: x\nX-Peer: 127.0.0.1\n\n.\n..y\n\xff")

    @pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
    async def test_refusals(self, verb: str) -> None:
        with self.sink("-f", verb) as port:
            assert await forward(port) == "500 5.3.0 Error: command failed"
        with self.sink("-r", verb) as port:
            assert await forward(port) == "450 4.3.0 Error: command failed"
        with self.sink("-q", verb) as port:
            assert await forward(port) == UNAVAILABLE
        with self.sink("-Q", verb) as port:
            assert (await forward(port)).startswith("451 ")


def test_trace_fields_of_a_mailbox(tmp_path: Path) -> None:
    """RFC 5321 section 4.4."""
    mailbox = Mailbox(tmp_path / "box", trace=True)
    with serving(mailbox) as controller, Client(controller.port) as client:
        client.transaction()
        client.send(b"Subject: hi\r\n\r\nhello\r\n.\r\n")
        assert client.reply() == b"250 OK\r\n"
    (stored,) = (tmp_path / "box" / "new").iterdir()
    lines = stored.read_bytes().split(b"\n")
    assert lines[0] == b"Return-Path: <a@b.test>"
    assert lines[1] == b"Received: from client.test ([127.0.0.1])"
    assert lines[2].startswith(b"\tby mx.test with ESMTP id ")
    assert lines[3].startswith(b"\tfor <c@d.test>; ")
    assert lines[4] == b"Subject: hi"


@pytest.mark.parametrize(("hops", "limit", "code"), [(100, 100, 250), (101, 100, 554), (2, 1, 554)])
def test_a_message_that_goes_in_circles(hops: int, limit: int, code: int) -> None:
    with serving(Sink(), max_hops=limit) as controller, Client(controller.port) as client:
        client.transaction()
        client.send(b"Received: x\r\n" * hops + b"\r\n.\r\n")
        assert client.reply().startswith(b"%d " % code)
