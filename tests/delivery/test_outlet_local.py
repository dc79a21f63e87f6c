"""The outlets on this machine: Maildir, Python function, command."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from io import BufferedWriter, BytesIO, RawIOBase
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import attrs
import pytest

from aiosmtpd.delivery.item import Full, Item, Later, Misconfigured, Never, Results
from aiosmtpd.delivery.mail import Mail
from aiosmtpd.delivery.outlets import make_outlet
from tests.delivery.hops import CONTENT, SENDER, item_of

LARGE = b"a: b\r\n\r\n" + b"line\r\n" * 500_000


async def deliver(url: str, item: Item) -> Results:
    outlet = make_outlet(url)
    await outlet.open()
    try:
        return await outlet.put(item)
    finally:
        await outlet.close()


@pytest.fixture
def large(tmp_path: Path) -> Item:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return item_of(content=path)


# Maildir


@pytest.mark.parametrize("begin", ["maildir:", "maildir://"])
async def test_a_maildir_gets_the_message(tmp_path: Path, begin: str) -> None:
    folder = tmp_path / "mail"
    assert await deliver(f"{begin}{folder}", item_of(content=b"a: b\r\n\r\nx\r\r\n.\n")) is None
    (file,) = (folder / "new").iterdir()
    assert file.read_bytes() == b"a: b\n\nx\r\n.\n"
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_maildir_gets_a_large_message(tmp_path: Path, large: Item) -> None:
    assert await deliver(f"maildir:{tmp_path}/mail", large) is None
    (file,) = (tmp_path / "mail" / "new").iterdir()
    assert file.read_bytes() == LARGE.replace(b"\r\n", b"\n")


async def test_a_maildir_is_synced_as_macos_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    outlet = make_outlet(f"maildir:{tmp_path}/mail")
    await outlet.open()
    fcntl = SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda file, word: synced.append(word))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "fcntl", fcntl)
        assert await outlet.put(item_of()) is None
    await outlet.close()
    assert synced == [51]


@pytest.mark.parametrize("shift", range(2))
async def test_a_line_end_between_two_pieces(tmp_path: Path, shift: int) -> None:
    content = b"x" * shift + b"\r\n" * (1 << 20) + b"\r"
    assert await deliver(f"maildir:{tmp_path}/mail", item_of(content=content)) is None
    (file,) = (tmp_path / "mail" / "new").iterdir()
    assert file.read_bytes() == content.replace(b"\r\n", b"\n")


async def test_a_maildir_without_a_parent(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file or directory"):
        await make_outlet(f"maildir:{tmp_path}/no/where").open()


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, Full), (errno.EIO, Later)])
async def test_a_maildir_on_a_bad_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Later]
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    outlet = make_outlet(f"maildir:{tmp_path}/mail")
    await outlet.open()
    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(Later, match=os.strerror(number)) as caught:
        await outlet.put(item_of())
    assert type(caught.value) is kind
    await outlet.close()
    assert not [*(tmp_path / "mail" / "new").iterdir(), *(tmp_path / "mail" / "tmp").iterdir()]


# Python


class Shop:
    """The functions of a program; what each was called with is in ``seen``."""

    seen: list[Any] = []

    @staticmethod
    def plain(mail: Mail) -> str:
        Shop.seen.append((mail, threading.current_thread(), b"".join(mail.chunks(100_000))))
        return "ignored"

    @staticmethod
    async def coroutine(mail: Mail) -> None:
        pieces = [piece async for piece in mail.chunks(100_000)]
        Shop.seen.append((mail, threading.current_thread(), b"".join(pieces)))

    @staticmethod
    def partly(mail: Mail) -> Mapping[str, Later]:
        return MappingProxyType({mail.recipients[0]: Later("not now")})

    @staticmethod
    def returns_later(mail: Mail) -> Later:
        return Later("not now", 60)

    @staticmethod
    def never(mail: Mail) -> None:
        raise Never("550 5.1.1 No such customer")

    @staticmethod
    async def later(mail: Mail) -> None:
        raise Later("the database is away", 60)

    @staticmethod
    def returns_a_coroutine(mail: Mail) -> Any:
        return Shop.coroutine(mail)

    class Broken:
        def __init__(self) -> None:
            raise KeyError("DATABASE")

    class Own:
        """An outlet."""

        async def open(self) -> None:
            Shop.seen.append("open")

        async def put(self, item: Item) -> Results:
            Shop.seen.append(item)
            return None

        async def close(self) -> None:
            Shop.seen.append("close")


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    Shop.seen.clear()
    yield Shop.seen
    Shop.seen.clear()


@pytest.mark.parametrize("name", ["plain", "coroutine", "returns_a_coroutine"])
async def test_a_function_gets_the_mail(name: str, seen: list[Any], large: Item) -> None:
    for item in item_of("a@example.com", helo="client"), large:
        seen.clear()
        assert await deliver(f"python:{__name__}:Shop.{name}", item) is None
        ((mail, thread, pieces),) = seen
        assert (mail.id, mail.sender) == ("queue-id-1", SENDER)
        assert mail.recipients == item.recipients
        assert mail.size == len(mail.octets) == item.size
        assert mail.octets == pieces == await item.body()
        assert mail.arrival == item.arrival
        assert (thread is threading.main_thread()) == (name != "plain")
        assert mail.id in repr(mail)


async def test_the_message_is_parsed_when_asked_for(seen: list[Any]) -> None:
    content = b"Subject: =?utf-8?q?h=C3=A9?=\r\n\r\nbody\r\n"
    await deliver(f"python:{__name__}:Shop.plain", item_of(content=content))
    mail: Mail = seen[0][0]
    assert mail.message["subject"] == "h\xe9"
    assert mail.message.get_content() == "body\n"
    assert mail.message is mail.message


async def test_a_function_refuses() -> None:
    item = item_of("a@example.com", "b@example.com")
    results = await deliver(f"python:{__name__}:Shop.partly", item)
    assert results is not None
    assert [*results] == ["a@example.com"]
    with pytest.raises(Never, match=r"550 5\.1\.1 No such customer"):
        await deliver(f"python:{__name__}:Shop.never", item)
    for name, text in ("later", "the database is away"), ("returns_later", "not now"):
        with pytest.raises(Later, match=text) as caught:
            await deliver(f"python:{__name__}:Shop.{name}", item)
        assert caught.value.after == 60


async def test_an_outlet_of_the_program(seen: list[Any]) -> None:
    item = item_of()
    assert await deliver(f"python:{__name__}:Shop.Own", item) is None
    assert seen == ["open", item, "close"]


def test_an_outlet_that_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=r"cannot make Shop\.Broken: KeyError: 'DATABASE'"):
        make_outlet(f"python:{__name__}:Shop.Broken")


async def test_a_blocking_function_leaves_the_loop_free(seen: list[Any]) -> None:
    free = threading.Event()
    from aiosmtpd.delivery.outlets.python import PythonOutlet

    outlet = PythonOutlet(lambda mail: free.wait(60))
    tasks = [asyncio.create_task(outlet.put(item_of())) for _ in range(20)]
    # In the loop: with a blocked one, the test would take a minute.
    asyncio.get_running_loop().call_soon(free.set)
    async with asyncio.timeout(30):
        assert await asyncio.gather(*tasks) == [None] * 20
    await outlet.close()


def test_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_of_this_test.py").write_text("def receive(mail): pass")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert make_outlet("python:shop_of_this_test:receive")


# Command


async def test_a_command_gets_message_and_envelope(tmp_path: Path) -> None:
    item = item_of(
        "a@example.com", "b@example.com", helo="me", client="192.0.2.1", port=7, user="u", tls="T x"
    )
    command = f"cat > {tmp_path}/message; env > {tmp_path}/env"
    assert await deliver(f"command:{command}", item) is None
    assert (tmp_path / "message").read_bytes() == CONTENT.replace(b"\r\n", b"\n")
    lines = (tmp_path / "env").read_text().splitlines()
    expected = [
        "SMTP_QUEUE_ID=queue-id-1",
        f"SMTP_MAIL_FROM={SENDER}",
        "SMTP_RCPT_TO=a@example.com",
        "b@example.com",
        "SMTP_HELO=me",
        "SMTP_PEER=192.0.2.1",
        "SMTP_PEER_PORT=7",
        "SMTP_USER=u",
        "SMTP_TLS=T",
        f"SMTP_SIZE={len(CONTENT)}",
    ]
    assert {*expected} <= {*lines}


async def test_a_command_gets_a_large_message(tmp_path: Path, large: Item) -> None:
    assert await deliver(f"command:cat > {tmp_path}/message", large) is None
    assert (tmp_path / "message").read_bytes() == LARGE.replace(b"\r\n", b"\n")


async def test_a_command_need_not_read(large: Item) -> None:
    assert await deliver("command:exit 0", large) is None
    assert await deliver("command:exec <&-; exit 0", large) is None


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("exit 75", Later),
        ("exit 1", Never),
        ("exit 99", Never),
        ("no-such-command-at-all", Later),
        ("kill -9 $$", Later),
    ],
)
async def test_the_exit_code_is_the_answer(command: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="exit code"):
        await deliver(f"command:{command}", item_of())


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_try_that_ends_early_ends_the_command(tmp_path: Path, how: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    outlet = make_outlet(f"command:exec > {fifo}; echo begun; sleep 600 & wait")
    task = asyncio.create_task(outlet.put(item_of()))
    with await asyncio.to_thread(fifo.open) as file:
        assert await asyncio.to_thread(file.readline) == "begun\n"
        if how == "cancel":
            task.cancel()
        else:
            await outlet.close()
        with pytest.raises((asyncio.CancelledError, Later)):
            await task
        # The end comes when the shell and its child, which have the fifo open, are gone.
        assert await asyncio.to_thread(file.read) == ""


async def test_the_end_of_a_try_ends_children_of_a_shell(tmp_path: Path, large: Item) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The child keeps the standard input open, and never reads it.
    outlet = make_outlet(f"command:exec > {fifo}; echo $$; exec 3<&0; sleep 600 <&3 &")
    task = asyncio.create_task(outlet.put(large))
    with await asyncio.to_thread(fifo.open) as file:
        shell = int(await asyncio.to_thread(file.readline))
        await asyncio.to_thread(os.waitid, os.P_PID, shell, os.WEXITED | os.WNOWAIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The end comes when the child is gone.
        assert await asyncio.to_thread(file.read) == ""


async def test_a_try_that_is_cancelled_at_once(tmp_path: Path) -> None:
    outlet = make_outlet(f"command:cat > {tmp_path}/$SMTP_QUEUE_ID")
    tasks = [asyncio.create_task(outlet.put(item_of(id=f"id-{number}"))) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await outlet.put(item_of()) is None


async def test_a_message_that_cannot_be_read_is_not_cut(tmp_path: Path) -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("disk error")
            return super().read(10)

    item = attrs.evolve(item_of(), content=lambda: Broken(CONTENT))
    with pytest.raises(Later, match="disk error"):
        await deliver(f"command:cat && touch {tmp_path}/done", item)
    assert not (tmp_path / "done").exists()


class OnWindows(subprocess.Popen[bytes]):
    """A process whose standard input fails as on Windows if the command does not read it."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        assert self.stdin is not None
        self.stdin.close()
        self.stdin = BufferedWriter(ClosedPipe())


class ClosedPipe(RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("size", ["short", "long"])
async def test_a_command_need_not_read_on_windows(
    monkeypatch: pytest.MonkeyPatch, large: Item, size: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", OnWindows)
    item = large if size == "long" else item_of()
    assert await deliver("command:exit 0", item) is None
    with pytest.raises(Never):
        await deliver("command:exit 1", item)
