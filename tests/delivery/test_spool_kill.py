"""kill -9 of a process that uses a spool: no acknowledged message is lost or torn."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from aiosmtpd.delivery.spool import Spool
from tests.delivery.spooling import due, opened, put, read
from tests.delivery.victim import content_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
traced = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def victim(folder: Path, what: str, waves: int, *prefix: str) -> subprocess.Popen[bytes]:
    command = [*prefix, sys.executable, "-m", "tests.delivery.victim", str(folder), what]
    return subprocess.Popen([*command, str(waves)], stdout=subprocess.PIPE, cwd=ROOT)


@attrs.define
class Ledger:
    """The facts that the victims have told, over all kills."""

    put: set[str] = attrs.field(factory=set)
    kept: set[str] = attrs.field(factory=set)
    taken: set[str] = attrs.field(factory=set)

    def read(self, output: bytes) -> None:
        for line in output.decode().split("\n")[:-1]:
            word, _, name = line.partition(" ")
            if word != "open":
                getattr(self, word).add(name)

    def check(self, spool: Spool) -> None:
        """Compare with the spool: nothing lost, nothing torn, nothing that was never put."""
        found = set()
        for job in everything(spool):
            assert read(job) == content_of(job.item.id), "torn"
            found.add(job.item.id)
        assert self.kept - self.taken - found == set(), "lost"
        assert found <= self.put


def everything(spool: Spool):  # type: ignore[no-untyped-def]
    claimed: list[int] = []
    while jobs := due(spool, claimed=claimed):
        claimed += [job.number for job in jobs]
        yield from jobs


def kill_some(folder: Path, times: int, ledger: Ledger) -> None:
    for _ in range(times):
        with victim(folder, "run", 100_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"open")
            reading = [process.stdout.readline() for _ in range(100)]
            time.sleep(random.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            ledger.read(b"".join(reading) + process.stdout.read())
        with opened(folder) as spool:
            ledger.check(spool)


def test_one_kill(tmp_path: Path) -> None:
    ledger = Ledger()
    kill_some(tmp_path, 1, ledger)
    assert len(ledger.kept) > 20


@pytest.mark.fleet
@pytest.mark.parametrize("times", [5])
def test_many_kills(tmp_path: Path, times: int) -> None:
    ledger = Ledger()
    kill_some(tmp_path, times, ledger)
    assert len(ledger.kept) > 100


@traced
def test_a_sync_before_each_answer(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    calls = "trace=fdatasync,fsync,write"
    prefix = ("strace", "-f", "-o", str(log), "-e", calls)
    with victim(tmp_path / "spool", "equal", 10, *prefix) as process:
        assert process.communicate(timeout=60)[0].count(b"kept") == 10
    waves = re.split(r'write\(1, "put \d+', log.read_text())[1:]
    before = [wave.partition('write(1, "kept')[0] for wave in waves]
    assert len(before) == 10
    assert all(re.search(r"f(?:data)?sync\(", wave) for wave in before)
    assert sum(len(re.findall(r"f(?:data)?sync\(", wave)) for wave in before) <= 40


@traced
def test_ends_of_small_messages_wait_for_no_sync(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    calls = "trace=fdatasync,fsync,write,unlink"
    prefix = ("strace", "-f", "-o", str(log), "-e", calls)
    with victim(tmp_path / "spool", "ends", 12, *prefix) as process:
        assert process.communicate(timeout=60)[0].count(b"ended") == 12
    waves = re.split(r'write\(1, "put \d+', log.read_text())[1:]
    assert all("fdatasync(" in wave.partition('write(1, "kept')[0] for wave in waves)
    ends = re.findall(r'write\(1, "kept(.*?)write\(1, "ended', log.read_text(), re.DOTALL)
    assert len(ends) == 12
    # One of them may come a second after the last sync.
    assert sum(end.count("fdatasync(") for end in ends[::2]) <= 1
    assert all(re.search(r"fdatasync\(.*unlink\(", end, re.DOTALL) for end in ends[1::2])


@traced
def test_failed_sync_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    fault = "inject=fdatasync:error=EIO:when=16+"
    prefix = ("strace", "-f", "-o", str(log), "-e", "trace=fdatasync", "-e", fault)
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    command = [*prefix, sys.executable, str(script), str(tmp_path / "spool")]
    told = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert told.stderr == b""
    kept = int(told.stdout)
    assert kept > 0
    assert log.read_text().count("INJECTED") == 1
    with opened(tmp_path / "spool") as spool:
        assert spool.counts().result().messages >= kept


FAILING = """
import sys
from aiosmtpd.delivery.spool import Spool, SpoolError
from tests.delivery.spooling import put
spool = Spool(sys.argv[1])
spool.open()
kept = 0
try:
    for number in range(100):
        put(spool, f"id{number}").result(20)
        kept += 1
except SpoolError as error:
    assert "disk I/O error: check the disk" in str(error), error
assert spool.failed is not None
for again in range(3):
    try:
        put(spool, f"again{again}").result(20)
    except SpoolError as error:
        assert "disk I/O error" in str(error), error
    else:
        raise AssertionError
spool.close()
assert spool.failed is not None
print(kept)
"""


def test_full_disk_harms_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FULL)
    command = [sys.executable, str(script), str(tmp_path / "spool")]
    told = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert told.stderr == b""
    kept = told.stdout.decode().split()
    assert len(kept) > 2
    with opened(tmp_path / "spool") as spool:
        assert sorted(job.item.id for job in everything(spool)) == sorted(kept)
        put(spool, "more").result()


FULL = """
import resource, sys
from aiosmtpd.delivery.spool import Spool, SpoolFull
from tests.delivery.spooling import due, large, put
spool = Spool(sys.argv[1])
spool.open()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
kept = []
for number in range(20):
    try:
        put(spool, f"id{number}", bytes(100_000)).result(20)
        kept.append(f"id{number}")
    except SpoolFull as error:
        assert "is full: make room" in str(error), error
        break
assert 0 < len(kept) < 20, kept
assert spool.failed is None
gone = due(spool)[0]
spool.done(gone).result(20)
kept.remove(gone.item.id)
file = spool.large("large")
try:
    file.write(bytes(2 << 20))
    raise AssertionError
except SpoolFull:
    file.discard()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
put(spool, "late", bytes(100_000)).result(20)
put(spool, "large", large(spool, "large", b"x")).result(20)
spool.close()
print(*kept, "late", "large")
"""
