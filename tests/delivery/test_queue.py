"""``aiosmtpd queue``: on a spool without a server, and beside one that uses it."""

import errno
import json
import os
import sqlite3
import stat
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd import main
from aiosmtpd.delivery import backlog
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.spool import Spool
from tests.delivery.spooling import (
    MESSAGE,
    PATIENCE,
    beside,
    due,
    ids,
    large,
    opened,
    put,
    stored,
    write_locked,
)
from tests.net.program import Program, environment

EVIL = "a\x1b[31m\x9b\u202e\x7f\r\n@example.com"
ARRIVAL = Arrival(
    client="192.0.2.1",
    helo="client\x1b]0;x",
    tls="TLSv1.3",
    user="carl",
    mail_options=("BODY=8BITMIME",),
    rcpt_options={"anna@example.com": ("NOTIFY=NEVER",)},
    time=1_000_000_000.0,
)
ANNA, BERT = ("anna@example.com",), ("bert@example.com",)


class Output(str):
    """The output of the command, with its exit code."""

    code: int
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.splitlines()]


class Queue:
    """Runs the command in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def __call__(self, *args: str, code: int = 0, warned: bool = False) -> Output:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main(["queue", *args, "--spool", str(self.folder)])
        out, err = self.capsys.readouterr()
        assert caught.value.code == code, err
        assert err.count("\n") == (1 if code or warned else 0)
        assert not any(ord(character) < 32 and character != "\n" for character in out + err)
        assert not set("\x7f\x9b\u202e") & set(out + err)
        output = Output(out)
        output.err = err
        return output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spool with a message by two routes, one that is dead, and a large one."""
    folder = tmp_path / "spool"
    with opened(folder) as spool:
        put(spool, "id1", parts=[("app", ANNA), ("archive", BERT)], arrival=ARRIVAL, due=2e9)
        job = stored(spool, "id2", sender="<>", parts=[("app", BERT)])
        spool.dead(job, error="550 5.1.1 \x1b[2Jno", recipients=BERT)
        content = b"Subject: large\r\n\r\n" + bytes(300_000)
        put(spool, "id3", large(spool, "id3", content), due=2e9).result(PATIENCE)
    return folder


@pytest.fixture
def queue(folder: Path, capsys: pytest.CaptureFixture[str]) -> Queue:
    return Queue(folder, capsys)


def columns(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()[1:]]


class TestList:
    def test_a_line_for_each_delivery(self, queue: Queue) -> None:
        lines = [line for line in columns(queue("list")) if line[0].startswith("id")]
        assert [(line[0], line[2], line[3], line[5]) for line in lines] == [
            ("id1", str(len(MESSAGE)), "0", "app"),
            ("id1", str(len(MESSAGE)), "0", "archive"),
            ("id2", str(len(MESSAGE)), "1", "app"),
            ("id3", "293.0K", "0", "main"),
        ]
        assert lines[0][6:] == ["<carl@example.com>", ">", "<anna@example.com>"]
        assert lines[2][4] == "dead"
        assert lines[3][6:] == [
            "<carl@example.com>",
            ">",
            "<anna@example.com>,",
            "<bert@example.com>",
        ]

    def test_errors_follow_their_delivery(self, queue: Queue) -> None:
        assert queue("list", "--dead").splitlines()[2] == "    550 5.1.1 \\x1b[2Jno"

    def test_selection(self, queue: Queue) -> None:
        assert len(columns(queue("list", "--route", "archive"))) == 1
        assert queue("list", "--route", "none") == "No such deliveries.\n"

    def test_empty_spool(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with opened(tmp_path):
            pass
        empty = Queue(tmp_path, capsys)
        assert empty("list") == "The spool is empty.\n"
        assert empty("list", "--json") == ""

    def test_json(self, queue: Queue) -> None:
        rows = queue("list", "--json").json
        assert [(row["id"], row["route"], row["dead"]) for row in rows] == [
            ("id1", "app", False),
            ("id1", "archive", False),
            ("id2", "app", True),
            ("id3", "main", False),
        ]
        assert rows[0] == {
            "id": "id1",
            "route": "app",
            "sender": "carl@example.com",
            "recipients": list(ANNA),
            "size": len(MESSAGE),
            "attempts": 0,
            "due": 2e9,
            "dead": False,
            "error": "",
            "arrival": json.loads(ARRIVAL.to_json()),
        }

    def test_many_recipients(self, queue: Queue, folder: Path) -> None:
        with opened(folder) as spool:
            put(spool, "id4", parts=[("many", tuple(f"u{n}@x" for n in range(9)))])
        line = queue("list", "--route", "many").splitlines()[1]
        assert line.endswith("> <u0@x>, <u1@x>, <u2@x> and 6 more")

    def test_more_than_a_page(self, queue: Queue, folder: Path) -> None:
        with opened(folder) as spool:
            for number in range(backlog.PAGE * 2 + 1):
                put(spool, f"more{number}", parts=[("more", ANNA)])
        assert len(queue("list", "--route", "more", "--json").json) == backlog.PAGE * 2 + 1

    def test_unreadable_row(self, queue: Queue, folder: Path) -> None:
        with beside(folder) as connection:
            connection.execute("update message set envelope = '{' where queue_id = 'id1'")
        assert columns(queue("list"))[0][6:] == ["<?>", ">"]


class TestShow:
    def test_envelope_and_headers(self, queue: Queue) -> None:
        lines = queue("show", "id1").splitlines()
        assert lines[0] == "Id:      id1"
        assert lines[1].startswith("Arrived: 2001-09-")
        assert lines[2:] == [
            f"Size:    {len(MESSAGE)} bytes",
            "From:    <carl@example.com>",
            "Client:  192.0.2.1 (client\\x1b]0;x)",
            "TLS:     TLSv1.3",
            "User:    carl",
            "Options: BODY=8BITMIME",
            f"Route:   app, next try {backlog_clock(2e9)}, 0 tries so far",
            "   <anna@example.com> NOTIFY=NEVER",
            f"Route:   archive, next try {backlog_clock(2e9)}, 0 tries so far",
            "   <bert@example.com>",
            "",
            "Received: from here",
            "Subject: one",
        ]

    def test_dead_one(self, queue: Queue) -> None:
        text = queue("show", "id2")
        assert "From:    <>\n" in text
        assert "Route:   app, given up, 1 try so far\n" in text
        assert "   550 5.1.1 \\x1b[2Jno\n" in text

    def test_large_one(self, queue: Queue) -> None:
        assert queue("show", "id3").endswith("\n\nSubject: large\n")

    def test_nothing_raw_is_printed(self, queue: Queue, folder: Path) -> None:
        with opened(folder) as spool:
            stored(
                spool, "evil", f"Subject: {EVIL}\r\n\r\n".encode(), [(EVIL, (EVIL,))], sender=EVIL
            )
        for output in queue("show", "evil"), queue("list"), queue("list", "--json"):
            assert "example.com" in output

    def test_json(self, queue: Queue) -> None:
        assert [row["route"] for row in queue("show", "id1", "--json").json] == ["app", "archive"]

    @pytest.mark.parametrize("name", ["nothing", "\udcff", "a\x1bb"])
    def test_unknown_id(self, queue: Queue, name: str) -> None:
        for action in "show", "drop", "retry":
            assert "in the spool" in queue(action, name, code=1).err


class TestRetry:
    def test_by_id_route_and_all(self, queue: Queue, folder: Path) -> None:
        assert queue("retry", "id2") == "1 delivery to be tried\n"
        assert jobs_now(folder) == [("id2", "app")]
        assert queue("retry", "--route", "app", "--json").json == [{"retried": 2}]
        assert jobs_now(folder) == [("id1", "app"), ("id2", "app")]
        assert queue("retry", "--all") == "4 deliveries to be tried\n"
        assert len(jobs_now(folder)) == 4
        with opened(folder) as spool:
            assert spool.retried().result(PATIENCE) == {"app", "archive", "main"}

    def test_only_dead_ones(self, queue: Queue, folder: Path) -> None:
        assert queue("retry", "--dead") == "1 delivery to be tried\n"
        assert jobs_now(folder) == [("id2", "app")]

    def test_by_another_route(self, queue: Queue, folder: Path) -> None:
        err = queue("retry", "--route", "app", "--to", "other", warned=True).err
        assert "no delivery in this spool had the route other before: if the server" in err
        assert jobs_now(folder) == [("id1", "other"), ("id2", "other")]
        with opened(folder) as spool:
            assert spool.retried().result(PATIENCE) == {"other"}

    def test_one_warning_if_a_delivery_moved(self, queue: Queue, folder: Path) -> None:
        queue("retry", "id1", "id2", "--to", "other", warned=True)
        assert "no message none" in queue("retry", "none", "--to", "third", code=1).err

    def test_by_a_route_of_the_spool(self, queue: Queue, folder: Path) -> None:
        assert queue("retry", "id2", "--to", "archive") == "1 delivery to be tried\n"
        assert jobs_now(folder) == [("id2", "archive")]

    def test_some_ids_are_unknown(self, queue: Queue, folder: Path) -> None:
        assert "no message nothing" in queue("retry", "nothing", "id2", code=1).err
        assert jobs_now(folder) == [("id2", "app")]


class TestDrop:
    def test_message_and_file_go(self, queue: Queue, folder: Path) -> None:
        assert queue("drop", "id1", "id3") == "3 deliveries dropped\n"
        assert [row["id"] for row in queue("list", "--json").json] == ["id2"]
        assert os.listdir(folder / "large") == []

    def test_message_stays_for_its_other_route(self, queue: Queue, folder: Path) -> None:
        queue("drop", "--route", "app")
        rows = queue("list", "--json").json
        assert [(row["id"], row["route"]) for row in rows] == [("id1", "archive"), ("id3", "main")]

    def test_all_and_dead(self, queue: Queue) -> None:
        assert queue("drop", "--dead", "--json").json == [{"dropped": 1}]
        assert queue("drop", "--all") == "3 deliveries dropped\n"
        assert queue("drop", "--all") == "0 deliveries dropped\n"


class TestExport:
    def test_all_to_a_folder(self, queue: Queue, tmp_path: Path) -> None:
        out = tmp_path / "out"
        printed = queue("export", "--all", str(out))
        assert sorted(os.listdir(out)) == ["id1.eml", "id2.eml", "id3.eml"]
        assert printed.splitlines() == [str(out / f"id{n}.eml") for n in (1, 2, 3)]
        assert (out / "id1.eml").read_bytes() == MESSAGE
        assert len((out / "id3.eml").read_bytes()) == 300_018
        if os.name == "posix":
            assert stat.S_IMODE((out / "id1.eml").stat().st_mode) == 0o600

    def test_some_to_a_folder(self, queue: Queue, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert queue("export", "id1", str(out), "--json").json == [
            {"id": "id1", "path": str(out / "id1.eml")}
        ]
        assert "File exists" in queue("export", "id1", str(out), code=2).err
        assert "no message x" in queue("export", "x", str(out), code=1).err

    def test_one_to_a_file(self, queue: Queue, tmp_path: Path) -> None:
        out = tmp_path / "mail.eml"
        assert queue("export", "id1", str(out)) == f"{out}\n"
        assert out.read_bytes() == MESSAGE
        assert "mail.eml: File exists; name another" in queue("export", "id3", str(out), code=2).err
        assert out.read_bytes() == MESSAGE
        queue("export", "id1", "id2", str(tmp_path / "two.eml"))
        queue("export", "id3", str(tmp_path / "two.eml"))
        assert len(os.listdir(tmp_path / "two.eml")) == 3

    def test_all_skips_existing_files(self, queue: Queue, tmp_path: Path) -> None:
        queue("export", "id1", str(tmp_path / "out"))
        (tmp_path / "out" / "id1.eml").write_bytes(b"mine")
        output = queue("export", "--all", str(tmp_path / "out"), warned=True)
        assert f"skipped 1 file that exists in {tmp_path / 'out'}" in output.err
        assert [os.path.basename(line) for line in output.splitlines()] == ["id2.eml", "id3.eml"]
        assert (tmp_path / "out" / "id1.eml").read_bytes() == b"mine"
        again = queue("export", "--all", str(tmp_path / "out"), warned=True)
        assert (again, "skipped 3 files that exist" in again.err) == ("", True)

    def test_no_part_of_a_file_stays(
        self, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(backlog.Backlog, "content", lambda *args: Broken())
        assert "Input/output error" in queue("export", "id1", str(tmp_path / "a.eml"), code=2).err
        assert not (tmp_path / "a.eml").exists()

    def test_to_the_output(self, folder: Path) -> None:
        with Program("queue", "export", "id1", "-", "--spool", str(folder)) as program:
            out, err = program.process.communicate(timeout=PATIENCE)
        assert (out, err) == (MESSAGE, b"")

    def test_file_is_gone(self, queue: Queue, folder: Path, tmp_path: Path) -> None:
        (folder / "large" / "id3").unlink()
        assert "no message id3" in queue("export", "id3", str(tmp_path / "out"), code=1).err
        queue("export", "--all", str(tmp_path / "all"))
        assert sorted(os.listdir(tmp_path / "all")) == ["id1.eml", "id2.eml"]
        assert queue("show", "id3").startswith("Id:      id3\n")
        with Program("queue", "export", "x", "-", "--spool", str(folder)) as program:
            err = program.process.communicate(timeout=PATIENCE)[1]
        assert b"no message x" in err

    def test_not_to_a_terminal(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert "not printed on a terminal" in queue("export", "id1", "-", code=2).err


class TestFirstLetters:
    """The first letters of an id name its message."""

    @pytest.fixture(autouse=True)
    def more(self, folder: Path) -> None:
        with opened(folder) as spool:
            for name in "abcd1", "abcd12", "wxyz1":
                stored(spool, name)

    def test_they_name_one(self, queue: Queue, tmp_path: Path) -> None:
        assert queue("show", "wxyz").startswith("Id:      wxyz1\n")
        assert queue("export", "wxyz", str(tmp_path)) == f"{tmp_path / 'wxyz1.eml'}\n"
        assert queue("retry", "wxyz") == "1 delivery to be tried\n"
        assert queue("drop", "wxyz") == "1 delivery dropped\n"
        assert "no message wxyz " in queue("show", "wxyz", code=1).err

    def test_a_whole_id_is_that_one(self, queue: Queue) -> None:
        assert queue("drop", "abcd1") == "1 delivery dropped\n"
        assert queue("show", "abcd").startswith("Id:      abcd12\n")

    @pytest.mark.parametrize("action", ["show", "retry", "drop", "export"])
    def test_more_than_one(self, queue: Queue, action: str, tmp_path: Path) -> None:
        target = [str(tmp_path)] if action == "export" else []
        err = queue(action, "abcd", *target, code=1).err
        assert "more than one ID begins with abcd: add letters" in err
        assert "no message wxy in" in queue(action, "wxy", *target, code=1).err
        assert len(queue("list", "--json").json) == 7


class TestBesideAServer:
    def test_server_sees_changes(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        queue = Queue(folder, capsys)
        with opened(folder, max_wait=1e10) as spool:
            assert not spool.changed().result(PATIENCE)
            queue("retry", "id1")
            assert spool.changed().result(PATIENCE)
            assert ids(due(spool, time.time())) == ["id1", "id1"]
            queue("list")
            assert not spool.changed().result(PATIENCE)

    def test_dropped_while_it_is_delivered(self, queue: Queue, folder: Path) -> None:
        with opened(folder) as spool:
            jobs = due(spool, 3e9)
            file = next(job for job in jobs if job.item.id == "id3").item.open()
            queue("drop", "--all")
            with file:
                assert len(file.read()) == 300_018
            for job in jobs:
                spool.later(job, due=1.0, error="", recipients=ANNA).result(PATIENCE)
            spool.changed().result(PATIENCE)
            assert spool.counts().result(PATIENCE).messages == 0

    def test_it_waits_for_a_commit(self, queue: Queue, folder: Path) -> None:
        done = threading.Event()

        def drop() -> None:
            queue("drop", "id1")
            done.set()

        with write_locked(folder):
            thread = threading.Thread(target=drop)
            thread.start()
            assert not done.wait(0.2)
        thread.join(PATIENCE)
        assert done.is_set()

    def test_no_reader_stays_open(self, folder: Path) -> None:
        with opened(folder) as spool:
            look = backlog.Backlog(str(folder))
            rows = look.deliveries(backlog.Selection())
            next(rows)
            with beside(folder) as connection:
                put(spool, "id9").result(PATIENCE)
                # A reader would make this busy.
                assert connection.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0
            look.close()


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["list"], "the following arguments are required: --spool"),
            (["export", "--spool", "x"], "export needs a folder: export ID DIR"),
            (["export", "id1", "--spool", "x"], "export needs a folder"),
            (["export", "--all", "-", "--spool", "x"], "one message at a time"),
            (["show", "--spool", "x"], "show needs the ID"),
            (["show", "id1", "--dead", "--spool", "x"], "show needs an ID, not"),
            (["list", "id1", "--spool", "x"], "list takes no ID"),
            (["drop", "--spool", "x"], "drop needs an ID, --route NAME"),
            (["drop", "id1", "--all", "--spool", "x"], "name messages, or use --all"),
            (["list", "--to", "x", "--spool", "x"], "--to needs retry"),
            (["retry", "--route", "\udcff", "--spool", "x"], "invalid name of a route"),
            (["delete", "--spool", "x"], "invalid choice: 'delete' (choose from"),
            (["lst", "--spool", "x"], "invalid choice: 'lst'; did you mean list?"),
        ],
    )
    def test_wrong_words(
        self, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main.main(["queue", *words])
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert line in err
        assert err.count("\n") == 1

    def test_the_folder_of_several_spools(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "spool.db").touch()
        err = Queue(tmp_path, capsys)("list", code=2).err
        assert f"such as {tmp_path / '0'}: each worker of aiosmtpd serve has one" in err

    def test_not_a_spool(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "has no spool.db" in Queue(tmp_path, capsys)("list", code=2).err
        with sqlite3.connect(tmp_path / "spool.db") as connection:
            connection.execute("create table x(y)")
        connection.close()
        assert "is not a spool" in Queue(tmp_path, capsys)("list", code=2).err
        (tmp_path / "spool.db").write_bytes(b"x" * 50_000)
        assert "is damaged" in Queue(tmp_path, capsys)("list", code=2).err

    @pytest.mark.skipif(os.name != "posix", reason="owners have other names")
    def test_spool_of_another_user(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        import pwd

        real = os.stat

        def denied(path: Any, *args: Any, **more: Any) -> os.stat_result:
            if str(path).endswith("spool.db"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real(path, *args, **more)

        monkeypatch.setattr(os, "stat", denied)
        owner = pwd.getpwuid(os.getuid()).pw_name
        line = f"Permission denied: run it as the owner of the folder, {owner}\n"
        assert queue("list", code=2).err.endswith(line)
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
        assert queue("list", code=2).err.endswith("the owner of the folder\n")

    def test_locked(self, queue: Queue, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backlog, "BUSY", 0.05)
        with write_locked(folder):
            assert "keeps" in queue("drop", "id1", code=2).err
            assert "id1" in queue("list")

    def test_reader_that_goes(self, folder: Path) -> None:
        with opened(folder) as spool:
            for number in range(2000):
                put(spool, f"more{number}")
        with Program("queue", "list", "--spool", str(folder)) as program:
            program.out_line()
            assert program.process.stdout is not None
            program.process.stdout.close()
            assert program.process.wait(PATIENCE) == 1
            assert program.process.stderr is not None
            assert program.process.stderr.read() == b""

    def test_help_is_narrow(self) -> None:
        with Program("queue", "--help", env=environment(COLUMNS="40")) as program:
            out = program.process.communicate(timeout=PATIENCE)[0].decode()
        assert max(map(len, out.splitlines())) <= 40
        assert "retry --all --spool DIR" in out


def jobs_now(folder: Path) -> list[tuple[str, str]]:
    with opened(folder, max_wait=1e10) as spool:
        return sorted((job.item.id, job.route) for job in due(spool, time.time()))


def backlog_clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def test_spool_is_made_by_the_server_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main.main(["queue", "list", "--spool", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
    assert Spool(tmp_path / "none").failed is None
