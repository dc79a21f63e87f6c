"""The intake: messages, dialogues and refusals are stored, messages before their 250."""

import json
import smtplib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.inbox.intake import LONGEST, MOST_ATTEMPTS, Intake
from aiosmtpd.inbox.records import Attempt, Event, Received, SessionLog
from aiosmtpd.inbox.rows import describe
from aiosmtpd.inbox.store import LARGE, Store
from aiosmtpd.lmtp import LMTP
from aiosmtpd.observers.faults import Faults
from aiosmtpd.process.users import Users
from aiosmtpd.smtp import Observer
from tests.conftest import Certificates
from tests.inbox.support import mail

BIG = mail("\r\n".join(["x" * 76] * (2 * LARGE // 78)), subject="large")


@contextmanager
def serving(store: Store, *, lmtp: bool = False, **keywords: Any) -> Iterator[Controller]:
    intake = Intake(store)
    observers = [*keywords.pop("observers", ()), intake]
    keywords = {"extensions": "modern", "hostname": "127.0.0.1", "port": 0, **keywords}

    class Ours(Controller):
        def factory(self) -> Any:
            return LMTP(self.handler, **self.SMTP_kwargs) if lmtp else super().factory()

    controller = Ours(intake, observers=observers, server_hostname="inbox.test", **keywords)
    controller.start()
    yield controller
    controller.stop()


@contextmanager
def client_of(controller: Controller) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP("127.0.0.1", controller.port) as client:
        client.ehlo("client.test")
        yield client


def wait(store: Store, act: Callable[[], object], check: Callable[[], bool]) -> None:
    """Act, and wait until a change of the store makes *check* true."""
    came = threading.Event()
    end = store.subscribe(lambda _: came.set() if check() else None)
    act()
    assert check() or came.wait(30)
    end()


def log_of(store: Store, number: int = 1) -> SessionLog:
    found = store.session(number)
    assert found is not None
    return found


def attempts(store: Store) -> list[Attempt]:
    """Return the refused attempts, those that are still written too."""
    store.set_read([], True).result(30)
    return store.attempts(limit=1000).attempts


def spoken(log: SessionLog) -> list[str]:
    return [f"{who}: {text}" for _, who, text in log.lines if who != "-"]


def test_the_reply_has_the_id_of_the_stored_message(store: Store) -> None:
    with serving(store) as controller, client_of(controller) as client:
        client.mail("ann@example.org")
        client.rcpt("bob@example.org")
        code, text = client.data(mail())
        [id] = store.find("")
        assert (code, text.decode()) == (250, f"2.0.0 Ok: queued as {id}")
        found = store.message(id)
        assert found is not None
        assert found.pristine() == mail()
        assert (found.sender, found.recipients) == ("ann@example.org", ["bob@example.org"])
        assert (found.client, found.session_number, found.tls) == ("127.0.0.1", 1, "")
        assert "from client.test ([127.0.0.1])" in found.headers()["Received"][0]
        assert "with ESMTP for" in found.headers()["Received"][0]


def test_a_message_has_its_part_of_the_dialogue(store: Store) -> None:
    with serving(store) as controller, client_of(controller) as client:
        for subject in "one", "two":
            client.sendmail("ann@x", ["bob@x"], mail(subject=subject))
        log = log_of(store)
        found = [store.message(id) for id in log.messages]
        lines = [[text.lower() for _, _, text in one.transaction] for one in found if one]
        assert lines[1] == [
            f"mail from:<ann@x> size={len(mail(subject='two'))}",
            "250 2.1.0 ok",
            "rcpt to:<bob@x>",
            "250 2.1.5 ok",
            "data",
            "354 end data with <cr><lf>.<cr><lf>",
            f"{len(mail(subject='two'))} bytes of mail data",
        ]
        assert [row["Subject"] for row in map(json.loads, store.rows(log.messages))] == [
            "two",
            "one",
        ]


def test_a_session_is_saved_at_its_end(tmp_path: Path) -> None:
    with Store(tmp_path / "box.db") as store, serving(store) as server, client_of(server) as client:
        client.sendmail("ann@x", ["bob@x"], mail())
        assert log_of(store).ended is None
    with Store(tmp_path / "box.db") as store:
        log = log_of(store)
        assert spoken(log)[0] == "S: 220 inbox.test Python SMTP " + spoken(log)[0].split()[-1]
        assert spoken(log)[-2:] == ["C: QUIT", "S: 221 2.0.0 Bye"]
        assert log.client.startswith("127.0.0.1:")
        assert log.began is not None
        assert log.ended is not None
        assert log.lines[-1].text == "disconnected: QUIT"


def test_a_session_without_mail_is_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "box.db") as store, serving(store) as controller:
        for _ in range(2):
            with client_of(controller) as client:
                client.noop()
    with Store(tmp_path / "box.db") as store:
        assert store.session(1) is None


def test_refusals_are_attempts(store: Store) -> None:
    faults = Faults(["rcpt no@*: 550 5.1.1 no such user", "end-of-data: 452 4.3.1 full x1"])
    with serving(store, observers=[faults]) as controller, client_of(controller) as client:
        assert client.docmd("MAIL", "FROM:a b c")[0] >= 500
        client.mail("ann@x")
        client.rcpt("no@x")
        client.rcpt("bob@x")
        client.data(mail())
        assert client.docmd("RCPT", "TO:<late@x>")[0] == 503
        client.docmd("NOSUCH")
        client.sendmail("ann@x", ["bob@x"], mail())
    assert [(one.stage, one.sender, one.recipient, one.reply) for one in attempts(store)] == [
        ("RCPT", "", "late@x", "503 5.5.1 Error: need MAIL command"),
        ("DATA", "ann@x", "bob@x", "452 4.3.1 full"),
        ("RCPT", "ann@x", "no@x", "550 5.1.1 no such user"),
        ("MAIL", "a", "", attempts(store)[-1].reply),
    ]
    log = log_of(store)
    for one in attempts(store):
        assert (one.session, one.client) == (1, "127.0.0.1")
        assert log.lines[one.line].text == one.reply
    assert len(log.messages) == 1


def test_an_event_tells_of_each_refusal(store: Store) -> None:
    events: list[Event] = []
    store.subscribe(events.append)
    with serving(store) as controller, client_of(controller) as client:
        wait(
            store,
            lambda: client.docmd("RCPT", "TO:<late@x>"),
            lambda: any(event.kind == "rejected" for event in events),
        )
    assert json.loads(events[0].data)["to"] == "late@x"


def test_attempts_of_one_session_are_limited(store: Store) -> None:
    with serving(store, max_errors=None) as controller, client_of(controller) as client:
        for _ in range(MOST_ATTEMPTS + 5):
            client.docmd("RCPT", "TO:<late@x>")
        client.sendmail("ann@x", ["bob@x"], mail())
    assert store.attempts().total == MOST_ATTEMPTS


def test_the_rule_of_a_fault_is_noted(store: Store) -> None:
    events: list[Event] = []
    store.subscribe(events.append)

    class Struck:
        async def before(self, server: Any, stage: str, argument: str | None) -> None:
            if stage == "rcpt" and argument == "no@x":
                server.event_handler.fault(server, "rcpt no@*: 550")

    faults = Faults(["rcpt no@*: 550 5.1.1 no such user"])
    with serving(store, observers=[Struck(), faults]) as server, client_of(server) as client:
        client.mail("ann@x")
        client.rcpt("no@x")
        client.docmd("RCPT", "nonsense")
        client.rset()
        client.sendmail("ann@x", ["bob@x"], mail())
    assert [one.fault for one in attempts(store)] == ["", "rcpt no@*: 550"]
    assert Event("fault", '{"session":1,"rule":"rcpt no@*: 550"}') in events
    assert "fault: rcpt no@*: 550" in [line.text for line in log_of(store).lines]


def test_secrets_are_masked(store: Store) -> None:
    users = Users([("ann", "right-word")])
    keywords: dict[str, Any] = {"authenticator": users, "auth_require_tls": False}
    with serving(store, **keywords) as controller, client_of(controller) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("ann", "wrong-word")
        client.login("ann", "right-word")
        client.sendmail("ann@x", ["bob@x"], mail())
    log = log_of(store)
    assert log.user == "ann"
    assert json.loads(store.summary().rows[0])["Username"] == "ann"
    text = log.json() + "".join(one.json() for one in attempts(store))
    assert "AUTH PLAIN ********" in text
    assert "d29yZ" not in text
    assert "cmlnaHQtd29yZ" not in text
    assert attempts(store)[-1].stage == "AUTH"


def test_tls_is_noted(store: Store, certificates: Certificates) -> None:
    keywords: dict[str, Any] = {
        "tls_context": certificates.server_context(),
        "require_starttls": True,
    }
    with serving(store, **keywords) as controller:
        with client_of(controller) as client:
            client.starttls(context=certificates.client_context())
            client.sendmail("ann@x", ["bob@x"], mail())
        with client_of(controller) as client:
            assert client.docmd("STARTTLS")[0] == 220
            assert client.sock is not None
            client.sock.sendall(b"this is not a handshake\r\n" * 10)
            wait(store, lambda: None, lambda: store.counts().attempts == 1)
            client.close()
    found = store.message(store.newest() or "")
    assert found is not None
    assert found.tls.startswith("TLSv1.")
    assert log_of(store, found.session_number).tls is not None
    assert "with ESMTPS" in found.headers()["Received"][0]
    [attempt] = attempts(store)
    assert (attempt.stage, attempt.session) == ("TLS", 2)
    assert "WRONG_VERSION" in attempt.reply.upper().replace(" ", "_")


def test_refused_connections_are_attempts(store: Store) -> None:
    with serving(store, max_connections=1) as controller, client_of(controller) as client:
        with pytest.raises(smtplib.SMTPConnectError):
            smtplib.SMTP("127.0.0.1", controller.port)
        wait(store, client.noop, lambda: store.counts().attempts == 1)
    [attempt] = attempts(store)
    assert (attempt.stage, attempt.reply[:3]) == ("CONNECT", "421")


def test_a_long_dialogue_is_cut(store: Store) -> None:
    with serving(store) as controller, client_of(controller) as client:
        for _ in range(LONGEST // 100):
            client.docmd("NOOP", "x" * 100)
        client.sendmail("ann@x", ["bob@x"], mail())
        log = log_of(store)
        assert log.cut
        assert log.lines[-1].text == "the dialogue is cut here: it has more than 64 KiB"
        assert LONGEST - 200 < sum(len(line.text) + 10 for line in log.lines) < LONGEST + 200
        found = store.message(log.messages[0])
        assert found is not None
        assert found.transaction[0].text.lower().startswith("mail from:<ann@x>")


def test_a_large_message_is_streamed(store: Store) -> None:
    with serving(store) as controller, client_of(controller) as client:
        client.sendmail("ann@x", ["bob@x"], BIG)
        found = store.message(store.newest() or "")
        assert found is not None
        assert found.pristine() == BIG
        assert [one.name for one in Path(f"{store.path}.large").iterdir()] == [found.id]


@pytest.mark.parametrize("ending", ["gone", "too much"])
def test_a_message_that_breaks_off_leaves_nothing(store: Store, ending: str) -> None:
    limit = LARGE + 100_000 if ending == "too much" else None
    with serving(store, data_size_limit=limit) as controller, client_of(controller) as client:
        client.mail("ann@x")
        client.rcpt("bob@x")
        client.putcmd("data")
        client.getreply()
        client.send(BIG)
        if ending == "gone":
            client.close()
        else:
            client.send(b".\r\n")
            assert client.getreply()[0] == 552
    assert store.counts().total == 0
    assert list(Path(f"{store.path}.large").iterdir()) == []
    if ending != "gone":
        assert attempts(store)[0].reply.startswith("552")


def test_a_client_leaves_while_a_file_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0.05)
    over, closed = threading.Event(), threading.Event()
    new_file = store.new_file

    class Ended(Observer):
        def ended(self, server: Any, reason: str) -> None:
            over.set()

    def made() -> Any:
        assert over.wait(30)
        file: Any = new_file()
        close = file.close

        def noted() -> None:
            close()
            closed.set()

        file.close = noted
        return file

    monkeypatch.setattr(store, "new_file", made)
    with serving(store, observers=[Ended()]) as controller, client_of(controller) as client:
        client.mail("ann@x")
        client.rcpt("bob@x")
        client.putcmd("data")
        client.getreply()
        client.send(BIG[: LARGE + 10_000])
        client.close()
        assert closed.wait(30)
    assert list(Path(f"{store.path}.large").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no header", b"a:\x00\r\n\r\n", b"\xff\xfe"])
def test_any_data_is_stored(store: Store, content: bytes) -> None:
    with serving(store) as controller, client_of(controller) as client:
        client.sendmail("ann@x", ["bob@x"], content)
    found = store.message(store.newest() or "")
    assert found is not None
    assert found.pristine().removesuffix(b"\r\n") == content.removesuffix(b"\r\n")


def test_the_null_sender_is_empty(store: Store) -> None:
    with serving(store) as controller, client_of(controller) as client:
        client.sendmail("", ["bob@x"], mail())
    found = store.message(store.newest() or "")
    assert found is not None
    assert found.sender == ""


@pytest.mark.parametrize("content", [mail(), BIG])
def test_an_error_of_the_store_is_451(
    store: Store, content: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left")

    with serving(store) as controller, client_of(controller) as client:
        with monkeypatch.context() as patched:
            patched.setattr("aiosmtpd.inbox.changes.insert", refuse)
            patched.setattr("aiosmtpd.inbox.arrivals.Arrivals.add", refuse)
            client.mail("ann@x")
            client.rcpt("bob@x")
            code, text = client.data(content)
            assert (code, text[:5]) == (451, b"4.3.0")
        client.sendmail("ann@x", ["bob@x"], mail())
    assert "no space left" in caplog.text
    assert attempts(store)[0].stage == "DATA"
    assert store.counts().total == 1


def test_a_full_disk_is_451(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def new_file() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(store, "new_file", new_file)
    with serving(store) as controller, client_of(controller) as client:
        client.mail("ann@x")
        client.rcpt("bob@x")
        assert client.data(BIG)[0] == 451
        client.sendmail("ann@x", ["bob@x"], mail())


def test_each_recipient_has_a_reply_in_lmtp(store: Store) -> None:
    with serving(store, lmtp=True) as server, smtplib.LMTP("127.0.0.1", server.port) as client:
        client.ehlo("client.test")
        client.mail("ann@x")
        for name in "bob@x", "carol@x":
            client.rcpt(name)
        assert client.data(mail())[0] == client.getreply()[0] == 250
    found = store.message(store.newest() or "")
    assert found is not None
    assert found.recipients == ["bob@x", "carol@x"]
    assert "with LMTP" in found.headers()["Received"][0]
    replies = [line for line in spoken(log_of(store)) if "queued" in line]
    assert replies == [f"S: 250 2.0.0 Ok: queued as {found.id}"] * 2


def test_small_messages_overtake_a_large_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(source: Any, one: Received, *more: Any) -> Any:
        if isinstance(one.content, Path):
            begun.set()
            assert go_on.wait(30)
        return describe(source, one, *more)

    monkeypatch.setattr("aiosmtpd.inbox.adding.describe", slow)
    with serving(store) as controller, client_of(controller) as big, client_of(controller) as small:
        sending = threading.Thread(target=big.sendmail, args=("ann@x", ["bob@x"], BIG))
        sending.start()
        assert begun.wait(30)
        small.sendmail("ann@x", ["bob@x"], mail(subject="small"))
        assert store.counts().total == 1
        go_on.set()
        sending.join()
    assert store.counts().total == 2


def test_pipelined_commands_have_a_note(store: Store) -> None:
    with serving(store, observers=[Faults()]) as controller, client_of(controller) as client:
        client.send(b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
        client.send(b"Subject: x\r\n\r\n.\r\n")
        code, text = client.getreply()
        assert code == 250
    mail = store.message(text.decode().rpartition(" ")[2])
    assert mail is not None
    said = [line.text for line in mail.transaction if line.who != "S"]
    assert [one.split()[0] for one in said[:-1]] == [
        "MAIL",
        "RCPT",
        "pipelined",
        "DATA",
        "pipelined",
    ]


def test_commands_in_turn_have_no_note(store: Store) -> None:
    with serving(store, observers=[Faults()]) as controller, client_of(controller) as client:
        client.sendmail("ann@example.org", ["bob@example.org", "eve@example.org"], b"x\r\n")
    assert "pipelined" not in [line.text for line in log_of(store).lines]
