"""The process that reads the configuration."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner import reader
from aiosmtpd.runner.certificates import read as read_pair
from aiosmtpd.runner.faults import WrongConfiguration
from aiosmtpd.runner.reader import Answer, Reading, Source, answer_of, read_again
from tests.runner.test_keys import write

GOOD = 'listen = "127.0.0.1:8025"\nhandler = "shop:Handler"\n'


def file_with(folder: Path, text: str) -> Source:
    (folder / "a.toml").write_text(text)
    return Source(file=str(folder / "a.toml"))


def read(source: Source) -> Answer:
    return Reading(source).result()


def again(source: Source) -> Answer:
    return asyncio.run(read_again(source))


WAYS = pytest.mark.parametrize("way", [read, again])


@WAYS
def test_the_values_and_warnings_of_a_file(tmp_path: Path, way: Any) -> None:
    source = file_with(tmp_path, f'{GOOD}[admin]\nhttp = "192.0.2.1:9025"\n')
    found, here = way(source), source.load()
    count = here.config.worker_count
    assert found.config == attrs.evolve(here.config, workers=count)
    assert found.warnings == tuple(map(str, here.warnings))
    assert "every host that reaches this address" in "".join(found.warnings)


@WAYS
def test_all_faults_of_a_file(tmp_path: Path, way: Any) -> None:
    source = file_with(tmp_path, f"{GOOD}workers = 0\nusr = 1\n")
    with pytest.raises(WrongConfiguration) as there:
        way(source)
    with pytest.raises(WrongConfiguration) as here:
        source.load()
    assert there.value.faults == here.value.faults
    assert len(there.value.faults) == 2


def test_options_without_a_file(tmp_path: Path) -> None:
    source = Source(listen=(":8025",), spool=str(tmp_path), deliver=("maildir:/m",))
    config = read(source).config
    assert [route.to for route in config.route] == ["maildir:/m"]
    here = source.load().config
    assert config == attrs.evolve(here, workers=here.worker_count)


MASTER = """
import sys
import aiosmtpd.cli.serve, aiosmtpd.runner.master, aiosmtpd.runner.reader, aiosmtpd.runner.watch
print(*sys.modules)
"""


def test_the_master_loads_little() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MASTER], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    theirs = {
        f"aiosmtpd.runner.{name}" for name in ("load", "judge", "health", "ctl", "exposition")
    }
    assert (
        loaded & {*theirs, "tomllib", "aiosmtpd.protocol.replies", "aiosmtpd.delivery.item"}
        == set()
    )
    assert "aiosmtpd.runner.keeper" in loaded


WITHOUT_TLS = """
import sys
from aiosmtpd.process.lean import import_asyncio_without_tls
import_asyncio_without_tls()
import aiosmtpd.cli.serve, aiosmtpd.runner.master, aiosmtpd.runner.reader, aiosmtpd.runner.watch
loaded = {"ssl", "_ssl"} & set(sys.modules)
import ssl
print(loaded, ssl.OPENSSL_VERSION_NUMBER > 0)
"""


def test_the_master_has_no_tls() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TLS], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set() True\n"


def test_the_reader_loads_no_event_loop() -> None:
    code = "import sys, aiosmtpd.runner.load, aiosmtpd.runner.reader; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"asyncio", "ssl"} & set(done.stdout.split()) == set()


@WAYS
def test_certificates_are_checked_there(tmp_path: Path, way: Any) -> None:
    pair = write(tmp_path, "mx", "mx.test")
    source = file_with(tmp_path, f'{GOOD}[tls]\ncert = "mx.pem"\nkey = "mx.key"\n')
    (found,) = way(source).config.certificates
    assert found.texts == read_pair(pair)
    assert found.facts.names == ("mx.test",)
    (tmp_path / "mx.key").write_text("no key")
    with pytest.raises(Failure, match="one is not a PEM file of its kind") as caught:
        way(source)
    assert caught.value.code == 2


def does(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(reader, "command", lambda *_: [sys.executable, "-c", code])


@WAYS
def test_a_process_that_says_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    text = "the process that reads the configuration has failed"
    does(monkeypatch, "")
    with pytest.raises(Failure, match=rf"^{text} \(exit code 0\): see the lines before, or try"):
        way(Source())
    does(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(Failure, match=rf"^{text} \(signal 9\)"):
        way(Source())


@WAYS
def test_a_process_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    does(monkeypatch, "import signal; signal.pause()")
    monkeypatch.setattr(reader, "PATIENCE", 0.01)
    with pytest.raises(Failure, match=r"could not be read in 0\.01 s"):
        way(Source())


def test_a_reading_that_is_not_needed_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, "import signal; signal.pause()")
    reading = Reading(Source())
    reading.stop()
    reading.stop()
    with pytest.raises(Failure, match=r"has failed \(signal 9\)"):
        reading.result()


def test_other_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in (Failure("no", 7), 7), (RuntimeError("no"), 1):

        def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(Source, "load", fail)
        output = json.dumps(reader.answer(Source())).encode()
        with pytest.raises(Failure, match=r"no$") as caught:
            answer_of(output)
        assert caught.value.code == code
