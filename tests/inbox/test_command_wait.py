"""``aiosmtpd wait --inbox``: a message of an inbox that is running, for scripts."""

import os
import smtplib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aiosmtpd import main
from aiosmtpd.cli import inbox_wait
from aiosmtpd.cli.one_message import Waiter
from aiosmtpd.mail.message import DecodedMail
from tests.client import PATIENCE
from tests.inbox.command import Inbox, running

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

RESET = (
    "Subject: =?utf-8?q?Your_password_=E2=9C=93?=\n\n"
    "Use {code} or https://shop.example/reset?t=1. See https://shop.example/help too.\n"
)


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    with running("--web-auth", "me:s@crét", "--web-root", "/mail/") as found:
        found.send(RESET.format(code=111111), "anna@example.org")
        found.send(RESET.format(code=482913), "anna@example.org")
        found.send("Subject: other\n\n", "bob@example.org")
        yield found


def url(inbox: Inbox) -> str:
    return inbox.url.replace("://", "://me:s%40cr%C3%A9t@")


def run(inbox: Inbox, *args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main(["wait", "--inbox", url(inbox), "--timeout", "0.01", *args])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("args", "out"),
    [
        (["--to", "anna@*", "--code"], "482913\n"),
        (["--to", "/^ANNA@/", "--link", "/reset"], "https://shop.example/reset?t=1\n"),
        (["--subject", "/✓$/", "--text", "111111", "--code"], "111111\n"),
        (["--subject", "other"], "Subject: other\n\n"),
    ],
)
def test_a_message_that_is_there(
    inbox: Inbox, args: list[str], out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(inbox, *args) == 0
    assert capfd.readouterr().out.replace("\r\n", "\n") == out


def test_a_message_that_comes(
    inbox: Inbox, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each request waits for a short time only: the message comes in a later one.
    monkeypatch.setattr(inbox_wait, "LONGEST_WAIT", 0.05)
    timer = threading.Timer(0.15, inbox.send, ["Subject: late\n\n", "carl@example.org"])
    timer.start()
    assert run(inbox, "--to", "/^carl/", "--timeout", "10", "--json") == 0
    assert '"subject": "late"' in capfd.readouterr().out
    timer.join()


def test_a_message_that_is_deleted_meanwhile(
    inbox: Inbox, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_wait, "LONGEST_WAIT", 0.05)
    inbox.send("Subject: first\n\n", "dora@example.org")
    shown = Waiter.shown

    def delete(waiter: Waiter, mail: DecodedMail) -> str | bytes | None:
        found = shown(waiter, mail)
        if found is None:
            inbox.delete(f"subject:{mail.subject}", Authorization="Basic bWU6c0BjcsOpdA==")
            inbox.send("Subject: second\n\n1234\n", "dora@example.org")
        return found

    monkeypatch.setattr(Waiter, "shown", delete)
    assert run(inbox, "--to", "dora@*", "--code", "4", "--timeout", "10") == 0
    assert capfd.readouterr().out == "1234\n"


def send_many(inbox: Inbox) -> None:
    """Send a message with a code, and more others after it than one answer lists."""
    texts = ["Subject: rare\n\n1357\n", *["Subject: common\n\n"] * inbox_wait.LISTED]
    with smtplib.SMTP("127.0.0.1", inbox.port, timeout=PATIENCE) as client:
        for text in texts:
            client.sendmail("ann@example.org", ["eve@example.org"], text)


def test_more_messages_than_an_answer_lists(
    inbox: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    send_many(inbox)
    assert (
        run(inbox, "--to", "eve@*", "--subject", "/^rare/", "--code", "4", "--timeout", "10") == 0
    )
    assert capfd.readouterr().out == "1357\n"


def test_more_messages_that_come_than_an_answer_lists(
    inbox: Inbox, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.send("Subject: first\n\n", "fay@example.org")
    shown = Waiter.shown

    def send_meanwhile(waiter: Waiter, mail: DecodedMail) -> str | bytes | None:
        if mail.subject == "first":
            send_many(inbox)
        return shown(waiter, mail)

    monkeypatch.setattr(Waiter, "shown", send_meanwhile)
    assert run(inbox, "--to", "/^(fay|eve)@/", "--code", "4", "--timeout", "10") == 0
    assert capfd.readouterr().out == "1357\n"


def test_a_new_message_does_not_wait_for_all_older_ones(
    inbox: Inbox, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        send_many(inbox)
    seen: list[str] = []
    shown = Waiter.shown

    def send_meanwhile(waiter: Waiter, mail: DecodedMail) -> str | bytes | None:
        if not seen:
            inbox.send("Subject: new\n\n2468\n", "eve@example.org")
        seen.append(mail.subject)
        return shown(waiter, mail)

    monkeypatch.setattr(Waiter, "shown", send_meanwhile)
    assert run(inbox, "--to", "/^eve@/", "--subject", "/^new/", "--timeout", "10") == 0
    assert "2468" in capfd.readouterr().out
    assert len(seen) < 3 * inbox_wait.LISTED


def test_a_message_that_does_not_come(inbox: Inbox, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(inbox, "--to", "bob@*", "--code") == 1
    err = capfd.readouterr().err
    assert err.endswith(
        "no message to 'bob@*' with a matching code within 0.01 s; 1 came: 'other': no matching "
        "code\n"
    )


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("ftp://x", "'ftp://x' is not the address of an inbox (write http://127.0.0.1:8025/)"),
        ("http://[x", "'http://[x' is not the address of an inbox"),
        ("127.0.0.1:1", "http://127.0.0.1:1/ does not answer: connection refused"),
    ],
)
def test_a_wrong_address(where: str, error: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["wait", "--inbox", where])
    assert caught.value.code == 2
    assert error in capfd.readouterr().err


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("me:wrong@", "answers 401 Unauthorized"),
        ("", "answers 401 Unauthorized"),
    ],
)
def test_a_wrong_password(
    inbox: Inbox, place: str, error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["wait", "--inbox", inbox.url.replace("://", f"://{place}")])
    assert caught.value.code == 2
    err = capfd.readouterr().err
    assert err.endswith(f"{inbox.url} {error}\n")
    assert "wrong@" not in err


def test_another_path_is_not_an_inbox(inbox: Inbox, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["wait", "--inbox", url(inbox).replace("/mail/", "/other/")])
    assert caught.value.code == 2
    assert "is not the address of an inbox" in capfd.readouterr().err


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Serve the same answer at each path of an address."""
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + body
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        thread.join(PATIENCE)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}"])
def test_another_server_is_not_an_inbox(body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with answering(body) as where, pytest.raises(SystemExit) as caught:
        main.main(["wait", "--inbox", where])
    assert caught.value.code == 2
    assert capfd.readouterr().err.endswith(f"error: {where} is not the address of an inbox\n")


@pytest.mark.parametrize("where", ["http://127.0.0.1:1/m\xe4il/", f"http://{'a' * 70}.test/"])
def test_an_address_that_cannot_be_asked(where: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["wait", "--inbox", where])
    assert caught.value.code == 2
    assert capfd.readouterr().err.endswith(f"error: {where} is not the address of an inbox\n")


@pytest.mark.parametrize("option", ["-l", "--ready-file"])
def test_options_of_a_server(option: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["wait", "--inbox", "http://x/", option, ":1"])
    assert f"leave out {option}\n" in capfd.readouterr().err
