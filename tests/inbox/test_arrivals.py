"""The files of the messages that have just arrived."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiosmtpd.inbox import arrivals
from aiosmtpd.inbox.arrivals import Arrivals, Record


def record(number: int) -> Record:
    return Record(number, f'{{"subject":"\u00fc{number}"}}', b"Subject: x\r\n\r\n%d\r\n" % number)


def fields(records: list[Record]) -> list[tuple[int, str, bytes]]:
    return [(one.number, one.envelope, one.content) for one in records]


def left(path: Path) -> list[tuple[int, str, bytes]]:
    """Return the messages that another process finds, in copies of the files."""
    with TemporaryDirectory() as folder:
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        opened = Arrivals(Path(folder) / path.name)
        found = fields(opened.read())
        opened.close()
    return found


def sizes(path: Path) -> list[int]:
    return sorted(file.stat().st_size for file in path.parent.iterdir())


def test_they_are_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    for number in range(3):
        opened.add(record(number))
        assert len(opened) == number + 1
    assert left(path) == fields([record(0), record(1), record(2)])
    opened.close()
    assert len(left(path)) == 3


def test_files_without_messages_are_removed(tmp_path: Path) -> None:
    opened = Arrivals(tmp_path / "box")
    opened.add(record(1))
    opened.stored(1)
    assert len(opened) == 0
    opened.close()
    assert [*tmp_path.iterdir()] == []


def test_files_with_messages_stay(tmp_path: Path) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    opened.add(record(1))
    opened.close()
    # Not read, because something else failed.
    Arrivals(path).close()
    opened = Arrivals(path)
    assert fields(opened.read()) == fields([record(1)])
    opened.empty()
    opened.close()
    assert [*tmp_path.iterdir()] == []


def test_only_files_without_messages_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    opened.add(record(1))
    opened.empty()
    assert left(path) == fields([record(1)])
    opened.stored(1)
    opened.empty()
    assert sizes(path) == [0, 0]
    opened.add(record(2))
    assert left(path) == fields([record(2)])
    opened.close()


def test_new_messages_overwrite_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    for number in range(3):
        opened.add(record(number))
    opened.stored(3)
    opened.add(record(3))
    # The rest is older: the database knows.
    assert left(path)[-1] == fields([record(3)])[0]
    longer = Record(4, "{}", b"longer" * 20)
    opened.stored(1)
    opened.add(longer)
    assert left(path) == fields([longer])
    opened.close()


def test_only_their_owner_reads_them(tmp_path: Path) -> None:
    opened = Arrivals(tmp_path / "box")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    opened.close()


@pytest.mark.parametrize("missing", range(1, 80, 6))
def test_a_record_without_its_end_is_left_out(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    opened.add(record(1))
    opened.add(record(2))
    opened.close()
    file = tmp_path / "box-new1"
    whole = file.read_bytes()
    file.write_bytes(whole[: max(len(whole) - missing, len(whole) // 2)])
    assert left(path) == fields([record(1)])


def test_a_damaged_record_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    opened.add(record(1))
    opened.add(record(2))
    opened.close()
    file = tmp_path / "box-new1"
    file.write_bytes(file.read_bytes()[:-2] + b"??")
    assert left(path) == fields([record(1)])


def test_zeros_end_the_records(tmp_path: Path) -> None:
    path = tmp_path / "box"
    opened = Arrivals(path)
    opened.add(record(1))
    opened.close()
    with (tmp_path / "box-new1").open("ab") as file:
        file.write(bytes(4096))
    assert left(path) == fields([record(1)])


def test_a_refused_record_leaves_no_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "box", os.write
    opened = Arrivals(path)
    opened.add(record(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda number, data: write(number, data[:9]))
        with pytest.raises(OSError, match="no space left"):
            opened.add(record(2))
    opened.add(record(3))
    assert len(opened) == 2
    opened.close()
    assert left(path) == fields([record(1), record(3)])


def test_two_files_are_used_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "FULL", 100)
    path = tmp_path / "box"
    opened = Arrivals(path)
    for number in range(100):
        # Some wait always.
        opened.add(record(number))
        opened.stored(number > 2)
    assert left(path)[-3:] == fields([record(97), record(98), record(99)])
    assert max(sizes(path)) < 400
    opened.stored(3)
    opened.close()
