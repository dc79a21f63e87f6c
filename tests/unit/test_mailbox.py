"""The hooks of Mailbox, called as the server calls them."""

import asyncio
import contextlib
import email.message
import email.policy
import errno
import io
import mailbox
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.delivery import maildir as _maildir
from aiosmtpd.handlers import Mailbox
from tests.unit.support import OURS, PLAIN, data


def stored(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((directory / "new").iterdir())]


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


# Content as received, and the file before and after our three lines.
KEPT = {
    "plain": (PLAIN, b"Subject: x\n", b"\nbody\n"),
    "empty": (b"", b"", b""),
    "blank line": (b"\r\n", b"", b"\n"),
    "no headers": (b"\r\nbody\r\n", b"", b"\nbody\n"),
    "text alone": (b"just text\r\nand more\r\n", b"", b"just text\nand more\n"),
    "headers alone": (b"A: b\r\nC: d\r\n", b"A: b\nC: d\n", b""),
    "no line end": (b"A: b", b"A: b\n", b""),
    "no body": (b"A: b\r\n\r\n", b"A: b\n", b"\n"),
    "spacing": (b"A:b\r\nC:   d  \r\nE:\r\n\r\n", b"A:b\nC:   d  \nE:\n", b"\n"),
    "folded": (b"A: b\r\n\tc\r\n d\r\n\r\n", b"A: b\n\tc\n d\n", b"\n"),
    "folded first": (b" a\r\nB: c\r\n\r\n", b" a\nB: c\n", b"\n"),
    "8-bit": (b"A: \xff\xe9\r\n\r\n\x00\xff\r\n", b"A: \xff\xe9\n", b"\n\x00\xff\n"),
    "mbox line": (b"From a b\r\nA: b\r\n\r\n", b"From a b\nA: b\n", b"\n"),
    "late mbox line": (b"A: b\r\nFrom here on\r\n", b"A: b\n", b"From here on\n"),
    "malformed": (b"A: b\r\nno colon\r\nC: d\r\n\r\n", b"A: b\n", b"no colon\nC: d\n\n"),
    "no name": (b"A: b\r\n: d\r\n\r\n", b"A: b\n", b": d\n\n"),
    "bare CR and LF": (b"A: b\nC: d\r\r\n\r\nx\ry\n", b"A: b\nC: d\r\n", b"\nx\ry\n"),
    "from lines": (b"A: b\r\n\r\nFrom x\r\n.\r\n", b"A: b\n", b"\nFrom x\n.\n"),
    "bad multipart": (
        b'Content-Type: multipart/mixed; boundary="q"\r\n\r\n--q\r\n\r\n--q--x\r\n',
        b'Content-Type: multipart/mixed; boundary="q"\n',
        b"\n--q\n\n--q--x\n",
    ),
    "ours": (b"A: b\r\nX-Peer: p\r\n q\r\nx-RCPTTO:r\r\nC: d\r\n\r\n", b"A: b\nC: d\n", b"\n"),
    "ours at both ends": (b"X-MailFrom: p\r\nA: b\r\nX-Peer: p\r\n", b"A: b\n", b""),
    "ours in the body": (b"A: b\r\n\r\nX-Peer: p\r\n", b"A: b\n", b"\nX-Peer: p\n"),
    "after a bare CR": (b"A: b\rX-Peer: p\rC: d\r\n\r\n", b"A: b\rC: d\n", b"\n"),
    "obsolete": (b"A: b\r\nX-Peer : p\r\n q\r\nC : d\r\n\r\n", b"A: b\n", b"C : d\n\n"),
    "similar": (b"X-Peers: p\r\nAX-Peer: q\r\n\r\n", b"X-Peers: p\nAX-Peer: q\n", b"\n"),
    "text": ("A: é\udcff\r\n\r\né\r\n", b"A: \xc3\xa9\xff\n", b"\n\xc3\xa9\n"),
}


class KeepInLoop(Mailbox):
    sync_in_loop = True


class TestMailbox:
    @pytest.mark.parametrize("name", KEPT)
    async def test_the_content_is_stored_unchanged(self, tmp_path: Path, name: str) -> None:
        content, before, after = KEPT[name]
        assert await data(Mailbox(tmp_path / "mail"), content) == "250 OK"
        assert stored(tmp_path / "mail") == [before + OURS + after]

    async def test_a_stored_message_as_readers_parse_it(self, tmp_path: Path) -> None:
        handler = Mailbox(tmp_path / "mail")
        for content in (PLAIN, b"text alone\r\n"):
            await data(handler, content)
        assert isinstance(handler.mailbox, mailbox.Maildir)
        for message in handler.mailbox:
            assert message.get_all("X-Peer") == ["('127.0.0.1', 4321)"]
            assert message.get_all("X-MailFrom") == ["a@x"]
            assert message.get_all("X-RcptTo") == ["b@y, c@z"]
            assert message.get_payload() in {"body\n", "text alone\n"}
        handler.reset()
        assert len(handler.mailbox) == 0
        assert files(tmp_path) == []

    async def test_non_ascii_addresses(self, tmp_path: Path) -> None:
        handler = Mailbox(tmp_path / "mail")
        await data(handler, PLAIN, mail_from="é@x", rcpt_tos=["b@y\nX-Forged: 1"])
        message = next(iter(handler.mailbox))
        assert message["X-MailFrom"] == "=?utf-8?b?w6lAeA==?="
        assert message["X-RcptTo"] == "b@y X-Forged: 1"

    async def test_many_recipients_are_one_line(self, tmp_path: Path) -> None:
        rcpt_tos = [f"recipient-{number}@example.com" for number in range(100)]
        await data(Mailbox(tmp_path / "mail"), PLAIN, rcpt_tos=rcpt_tos)
        assert f"X-RcptTo: {', '.join(rcpt_tos)}\n".encode() in stored(tmp_path / "mail")[0]

    @pytest.mark.parametrize("in_loop", [False, True])
    async def test_storing_runs_in_a_worker_thread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_loop: bool
    ) -> None:
        threads = []
        fsync = os.fsync

        def watched(descriptor: int) -> None:
            threads.append(threading.current_thread() is threading.main_thread())
            fsync(descriptor)

        handler = (KeepInLoop if in_loop else Mailbox)(tmp_path / "mail")
        monkeypatch.setattr(os, "fsync", watched)
        await data(handler, PLAIN)
        assert set(threads) == {in_loop}

    async def test_no_content_raises(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            await data(Mailbox(tmp_path / "mail"), None)
        assert files(tmp_path) == []

    def test_an_existing_directory_is_used(self, tmp_path: Path) -> None:
        handler = Mailbox(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cur", "new", "tmp"]
        assert Mailbox(tmp_path).mail_dir == handler.mail_dir == tmp_path

    def test_missing_subdirectories_are_made(self, tmp_path: Path) -> None:
        (tmp_path / "cur").mkdir()
        Mailbox(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cur", "new", "tmp"]

    def test_a_missing_parent_raises(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Mailbox(tmp_path / "no" / "mail")

    async def test_the_mailbox_may_be_replaced(self, tmp_path: Path) -> None:
        handler = Mailbox(tmp_path / "mail")
        handler.mailbox = mailbox.mbox(tmp_path / "mbox")
        await data(handler, PLAIN)
        handler.mailbox.close()
        assert OURS in (tmp_path / "mbox").read_bytes()
        assert stored(tmp_path / "mail") == []


class TestMailboxSubclass:
    async def test_prepare_message(self, tmp_path: Path) -> None:
        class Mine(Mailbox):
            def prepare_message(self, session: Any, envelope: Any) -> email.message.Message:
                message = super().prepare_message(session, envelope)
                message["X-Mine"] = "1"
                return message

        await data(Mine(tmp_path / "mail"), PLAIN)
        assert stored(tmp_path / "mail") == [b"Subject: x\n" + OURS + b"X-Mine: 1\n\nbody\n"]

    async def test_handle_message(self, tmp_path: Path) -> None:
        class Mine(Mailbox):
            def handle_message(self, message: email.message.Message) -> None:
                if message["Subject"] != "spam":
                    super().handle_message(message)

        handler = Mine(tmp_path / "mail")
        assert await data(handler, b"Subject: spam\r\n\r\n") == "250 OK"
        assert await data(handler, PLAIN) == "250 OK"
        assert stored(tmp_path / "mail") == [b"Subject: x\n" + OURS + b"\nbody\n"]

    async def test_a_method_set_on_the_object(self, tmp_path: Path) -> None:
        seen: list[Any] = []
        handler: Any = Mailbox(tmp_path / "mail")
        handler.handle_message = seen.append
        await data(handler, PLAIN)
        assert seen[0]["Subject"] == "x"
        assert stored(tmp_path / "mail") == []

    async def test_message_class_is_used(self, tmp_path: Path) -> None:
        class Loud(email.message.Message):
            def __setitem__(self, name: str, value: Any) -> None:
                super().__setitem__(name, value.upper())

        handler = Mailbox(tmp_path / "mail", Loud)
        await data(handler, PLAIN)
        assert b"X-MailFrom: A@X\n" in stored(tmp_path / "mail")[0]

    async def test_maildir_message(self, tmp_path: Path) -> None:
        class Mine(Mailbox):
            def handle_message(self, message: email.message.Message) -> None:
                assert isinstance(message, mailbox.MaildirMessage)
                message.set_subdir("cur")
                message.set_flags("S")
                message.set_date(1e9)
                super().handle_message(message)

        await data(Mine(tmp_path / "mail", mailbox.MaildirMessage), PLAIN)
        [path] = files(tmp_path)
        assert path.parent.name == "cur"
        assert path.name.endswith(":2,S")
        assert path.stat().st_mtime == 1e9

    async def test_a_serialised_message_has_lf_line_ends(self, tmp_path: Path) -> None:
        handler = Mailbox(tmp_path / "mail")
        handler.mailbox.add("Subject: text\n\nbody\n")
        message = email.message_from_bytes(PLAIN, policy=email.policy.SMTP)
        handler.mailbox.add(message)
        handler.mailbox.add(mailbox.MaildirMessage(message))
        handler.mailbox.add(io.BytesIO(b"Subject: file\n\nbody\n"))
        texts = set(stored(tmp_path / "mail"))
        assert texts == {
            b"Subject: text\n\nbody\n",
            b"Subject: file\n\nbody\n",
            b"Subject: x\n\nbody\n",
        }

    async def test_a_full_disk_in_a_subclass_is_a_452(self, tmp_path: Path) -> None:
        class Full(Mailbox):
            def handle_message(self, message: email.message.Message) -> None:
                raise OSError(errno.ENOSPC, "full")

        assert (await data(Full(tmp_path / "mail"), PLAIN)).startswith("452 4.3.1 ")


# Odd header lines and any bytes as the body; all with CRLF line ends.
line_text = st.binary(max_size=20).map(lambda text: text.translate(None, b"\r\n"))
header_name = st.sampled_from([b"Subject", b"To", b"X-Peers", b"x", b"!"])
header_line = st.builds(lambda name, text: name + b":" + text, header_name, line_text)
folded_line = st.builds(lambda blank, text: blank + text, st.sampled_from([b" ", b"\t"]), line_text)
good_lines = st.lists(st.one_of(header_line, folded_line), max_size=8)
any_lines = st.lists(st.one_of(header_line, folded_line, line_text), max_size=12)
FORGED = [b"X-Peer: 6.6.6.6", b"x-mailfrom:evil", b"X-RCPTTO :evil", b"X-Peer\t: e"]


def kept(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "mail")
        assert asyncio.run(data(KeepInLoop(path), content)) == "250 OK"
        [octets] = stored(path)
        return octets


class TestMailboxProperties:
    @settings(max_examples=150, deadline=None)
    @given(any_lines)
    def test_removing_our_fields_restores_the_message(self, lines: list[bytes]) -> None:
        # Our own fields are in the next test.
        lines = [line for line in lines if not line.lower().startswith(b"x-")]
        content = b"".join(line + b"\r\n" for line in lines)
        octets = kept(content)
        assert octets.count(OURS) == 1
        assert octets.replace(OURS, b"").replace(b"\n", b"\r\n") == content

    @settings(max_examples=100, deadline=None)
    @given(good_lines, any_lines, st.lists(st.sampled_from(FORGED), max_size=3), st.randoms())
    def test_only_our_own_fields_are_left(
        self, headers: list[bytes], body: list[bytes], forged: list[bytes], random: Any
    ) -> None:
        lines = list(headers)
        for line in forged:
            lines.insert(random.randrange(len(lines) + 1), line)
        octets = kept(b"".join(line + b"\r\n" for line in [*lines, b"", *body]))
        message = email.message_from_bytes(octets)
        assert message.get_all("X-Peer") == ["('127.0.0.1', 4321)"]
        assert message.get_all("X-MailFrom") == ["a@x"]
        assert message.get_all("X-RcptTo") == ["b@y, c@z"]
        head = octets.partition(b"\n\n")[0].lower()
        assert b"evil" not in head
        assert b"6.6.6.6" not in head
        assert octets.endswith(b"".join(line + b"\n" for line in [b"", *body]))


class Trace:
    """Records the calls that make a delivery durable, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._fsync, self._rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "rename", self.rename)

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.calls.append("directory" if stat.S_ISDIR(status.st_mode) else f"{status.st_size}")
        self._fsync(descriptor)

    def rename(self, source: str, target: str) -> None:
        parts = (Path(source).parent.name, Path(target).parent.name)
        self.calls.append("{}->{}".format(*parts))
        self._rename(source, target)


NO_ROOM = ["ENOSPC", "EDQUOT", "EFBIG", "EMFILE", "ENFILE"]


def failing(error: int) -> Any:
    return mock.Mock(side_effect=OSError(error, os.strerror(error)))


class TestDurability:
    async def test_the_message_is_synced_before_it_appears(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        trace = Trace(monkeypatch)
        await data(handler, PLAIN)
        size = len(PLAIN) - 3 + len(OURS)
        assert trace.calls == [str(size), "tmp->new", "directory"]

    async def test_order_for_a_message_object(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler = Mailbox(tmp_path / "mail", email.message.EmailMessage)
        trace = Trace(monkeypatch)
        await data(handler, PLAIN)
        assert trace.calls[1:] == ["tmp->new", "directory"]

    def test_a_new_directory_is_durable_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trace = Trace(monkeypatch)
        Mailbox(tmp_path / "mail")
        assert trace.calls == ["directory", "directory"]
        Mailbox(tmp_path / "mail")
        assert trace.calls == ["directory", "directory"]

    def test_a_parent_that_may_not_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync = _maildir.sync_directory
        synced = []

        def guarded(path: str) -> None:
            if path == str(tmp_path):
                raise PermissionError
            synced.append(path)
            sync(path)

        monkeypatch.setattr(_maildir, "sync_directory", guarded)
        Mailbox(tmp_path / "mail")
        assert synced == [str(tmp_path / "mail")]

    @pytest.mark.parametrize("step", ["fsync", "rename"])
    @pytest.mark.parametrize("name", NO_ROOM)
    async def test_a_full_disk_is_a_452(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, name: str
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        with monkeypatch.context() as patch:
            patch.setattr(os, step, failing(getattr(errno, name)))
            assert await data(handler, PLAIN) == "452 4.3.1 Insufficient system storage"
        assert files(tmp_path) == []
        assert await data(handler, PLAIN) == "250 OK"

    async def test_no_free_descriptor_is_a_452(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        # The directory is opened last, when the message is already in new/.
        monkeypatch.setattr(os, "open", failing(errno.EMFILE))
        assert (await data(handler, PLAIN)).startswith("452 ")
        assert files(tmp_path) == []

    @pytest.mark.parametrize("step", ["fsync", "rename", "open"])
    async def test_other_errors_reach_the_server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        monkeypatch.setattr(os, step, failing(errno.EIO))
        with pytest.raises(OSError, match="error"):
            await data(handler, PLAIN)
        assert files(tmp_path) == []

    async def test_a_removed_directory_raises(self, tmp_path: Path) -> None:
        handler = Mailbox(tmp_path / "mail")
        (tmp_path / "mail" / "tmp").rmdir()
        with pytest.raises(FileNotFoundError):
            await data(handler, PLAIN)

    @pytest.mark.parametrize(
        ("name", "kept"), [("EINVAL", 1), ("ENOTSUP", 1), ("EIO", 0), ("ENOSPC", 0)]
    )
    async def test_errors_of_the_directory_sync(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: int
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        fsync = os.fsync

        def files_only(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(getattr(errno, name), name)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", files_only)
        replies = []
        # EINVAL and ENOTSUP: the file system cannot sync a directory. EIO and ENOSPC: it failed.
        with contextlib.suppress(OSError):
            replies.append(await data(handler, PLAIN))
        assert (replies == ["250 OK"]) is bool(kept)
        assert len(files(tmp_path)) == len(stored(tmp_path / "mail")) == kept

    async def test_systems_that_cannot_open_directories(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        trace = Trace(monkeypatch)
        monkeypatch.delattr(os, "O_DIRECTORY")
        assert await data(handler, PLAIN) == "250 OK"
        assert trace.calls[1:] == ["tmp->new"]

    async def test_a_file_of_the_same_name_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler = Mailbox(tmp_path / "mail")
        other = tmp_path / "mail" / "tmp" / "same"
        other.write_bytes(b"other")
        monkeypatch.setattr(_maildir, "unique_name", lambda: "same")
        with pytest.raises(FileExistsError):
            await data(handler, PLAIN)
        assert other.read_bytes() == b"other"

    async def test_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: "a/b:c")
        handler = Mailbox(tmp_path / "mail")
        await asyncio.gather(*(data(handler, PLAIN) for _ in range(50)))
        names = {path.name for path in files(tmp_path)}
        assert len(names) == 50
        assert all(name.endswith(r".a\057b\072c") for name in names)

    def test_names_on_systems_with_backslashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: "a/b:c")
        monkeypatch.setattr(os, "sep", "\\")
        assert _maildir.unique_name().endswith(".a_b_c")


# Limits of the system, in a new process: no file over 2,000 bytes, or no descriptor left.
LIMITED = """
import asyncio, errno, os, resource, sys
from types import SimpleNamespace
from aiosmtpd.handlers import Mailbox

directory, limit = sys.argv[1:]
handler = Mailbox(directory)

async def deliver(size):
    envelope = SimpleNamespace(content=b"A: b\\r\\n\\r\\n" + b"x" * size, mail_from="a@x",
                               rcpt_tos=["b@y"], mail_options=[], rcpt_options=[])
    return await handler.handle_DATA(None, SimpleNamespace(peer="p"), envelope)

async def main():
    print(await deliver(10))
    if limit == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        print(await deliver(100_000))
        print(await deliver(10))
    else:
        opened = []
        try:
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        print(await deliver(10))
        # Enough for the message, not for the directory after it as well while it is open.
        for descriptor in opened:
            os.close(descriptor)
        print(await deliver(10))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
class TestSystemLimits:
    @pytest.mark.parametrize("limit", ["size", "descriptors"])
    def test_a_limit_of_the_system_is_a_452(self, tmp_path: Path, limit: str) -> None:
        result = subprocess.run(
            [sys.executable, "-X", "dev", "-c", LIMITED, str(tmp_path / "mail"), limit],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        refused = "452 4.3.1 Insufficient system storage"
        assert result.stdout.splitlines() == ["250 OK", refused, "250 OK"]
        assert len(files(tmp_path)) == len(stored(tmp_path / "mail")) == 2

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
        try:
            mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("cannot mount a small file system here")
        try:
            yield path
        finally:
            subprocess.run(["umount", str(path)], check=True)

    async def test_a_full_file_system_is_a_452(self, small_disk: Path) -> None:
        handler = Mailbox(small_disk / "mail")
        assert await data(handler, PLAIN) == "250 OK"
        for size in (100_000, 70_000, 1_000_000):
            reply = await data(handler, b"A: b\r\n\r\n" + b"x" * size)
            assert reply == "452 4.3.1 Insufficient system storage"
        assert await data(handler, PLAIN) == "250 OK"
        assert len(files(small_disk)) == len(stored(small_disk / "mail")) == 2
