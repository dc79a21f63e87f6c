"""`spill_size`: messages above a size are in a temporary file."""

import gc
import io
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import Envelope
from tests.client import PATIENCE, Client
from tests.net.support import Catcher, serving


class Ended:
    """An observer of the end of a connection."""

    def __init__(self) -> None:
        self.happened = threading.Event()

    def ended(self, *_: Any) -> None:
        self.happened.set()


SMALL = b"Subject: x\r\n\r\n.\r\n"
LARGE = b"Subject: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * 30_000
Send = Callable[[Client, bytes], bytes]


def by_data(client: Client, content: bytes) -> bytes:
    client.transaction()
    client.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return client.reply()


def by_chunk(client: Client, content: bytes) -> bytes:
    for command in b"EHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>":
        assert client.ask(command)[:3] == b"250"
    client.send(b"BDAT %d LAST\r\n" % len(content) + content)
    return client.reply()


WAYS = pytest.mark.parametrize("send", [by_data, by_chunk])


def files() -> int:
    """Count the open temporary files that have no name."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    gc.collect()
    targets = [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()]
    return sum("(deleted)" in target for target in targets)


@WAYS
def test_messages_of_both_kinds(send: Send) -> None:
    handler = Catcher()
    before = files()
    with (
        serving(handler, extensions="modern", spill_size=100_000) as controller,
        Client(controller.port) as client,
    ):
        assert send(client, SMALL) == b"250 2.0.0 OK\r\n"
        envelope = handler.envelope()
        assert "content" in vars(envelope)
        assert envelope.open().read() == SMALL == envelope.content
        assert send(client, LARGE) == b"250 2.0.0 OK\r\n"
        envelope = handler.envelope()
        assert "content" not in vars(envelope)
        first, second = envelope.open(), envelope.open()
        assert first.readline() == second.readline() == b"Subject: x\r\n"
        assert first.read() == LARGE[12:]
        assert second.seek(-2, io.SEEK_END) == len(LARGE) - 2
        assert second.read() == b"\r\n"
        assert second.seek(1, io.SEEK_CUR) == len(LARGE) + 1
        assert envelope.content == envelope.original_content == LARGE
        assert "content" in vars(envelope)
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            envelope.colour  # type: ignore[attr-defined]  # noqa: B018
    del envelope, first, second
    assert files() == before


def test_an_envelope_in_a_cycle() -> None:
    """No ResourceWarning, which would fail the test, whatever the collector ends first."""
    handler = Catcher()
    before = files()
    with serving(handler, spill_size=10) as controller, Client(controller.port) as client:
        by_data(client, SMALL)
        envelope = handler.envelope()
        envelope.itself = envelope  # type: ignore[attr-defined]
    del envelope
    assert files() == before


def test_as_text() -> None:
    handler = Catcher()
    with (
        serving(handler, decode_data=True, spill_size=10) as controller,
        Client(controller.port) as client,
    ):
        by_data(client, SMALL)
        envelope = handler.envelope()
        assert envelope.content == SMALL.decode()
        assert envelope.original_content == SMALL


@WAYS
def test_a_message_that_is_too_big(send: Send) -> None:
    before = files()
    with (
        serving(
            Catcher(), extensions="modern", spill_size=1000, data_size_limit=len(LARGE) - 5
        ) as controller,
        Client(controller.port) as client,
    ):
        assert send(client, LARGE)[:3] == b"552"
        assert client.ask(b"NOOP")[:3] == b"250"
        assert files() == before


def test_a_client_that_goes() -> None:
    handler = Catcher()
    before = files()
    with serving(handler, spill_size=1000) as controller:
        with Client(controller.port) as client:
            client.transaction()
            client.send(LARGE)
        with Client(controller.port) as client:
            assert by_data(client, SMALL) == b"250 OK\r\n"
        assert handler.envelope().content == SMALL
    assert handler.caught.empty()
    assert files() == before


def test_a_client_that_goes_while_a_thread_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    began, gone, wrote = threading.Event(), threading.Event(), threading.Event()
    rollover = tempfile.SpooledTemporaryFile.rollover

    def slow(file: Any) -> None:
        began.set()
        assert gone.wait(PATIENCE)
        try:
            rollover(file)
        finally:
            wrote.set()

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", slow)
    monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0.05)
    ended = Ended()
    before = files()
    with serving(Catcher(), spill_size=1000, observers=[ended]) as controller:
        with Client(controller.port) as client:
            client.transaction()
            client.send(LARGE[:8000])
            assert began.wait(PATIENCE)
        assert ended.happened.wait(PATIENCE)
        gone.set()
        assert wrote.wait(PATIENCE)
    assert files() == before


def test_a_message_that_goes_in_circles() -> None:
    with (
        serving(Catcher(), spill_size=2000) as controller,
        Client(controller.port) as client,
    ):
        assert by_data(client, b"Received: x\r\n" * 101 + LARGE)[:3] == b"554"


def test_no_room_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
    with serving(Catcher(), spill_size=10) as controller, Client(controller.port) as client:
        for _ in range(2):
            assert by_data(client, LARGE) == b"452 4.3.1 Insufficient system storage\r\n"


def test_handlers_read_it(tmp_path: Path) -> None:
    with (
        serving(Mailbox(tmp_path / "box"), spill_size=10) as controller,
        Client(controller.port) as client,
    ):
        assert by_data(client, LARGE) == b"250 OK\r\n"
    (stored,) = (tmp_path / "box" / "new").iterdir()
    assert stored.read_bytes().endswith(LARGE[12:].replace(b"\r\n", b"\n"))


def test_without_a_file() -> None:
    assert Envelope().open().read() == b""


def test_size_0_is_every_message() -> None:
    handler = Catcher()
    before = files()
    with serving(handler, spill_size=0) as controller, Client(controller.port) as client:
        by_data(client, SMALL)
        envelope = handler.envelope()
        if Path("/proc/self/fd").is_dir():
            assert files() == before + 1
        assert envelope.open().read() == SMALL
