"""Serving in one process, run in this one."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from attrs import evolve

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner import master as masters
from aiosmtpd.runner.alone import run_alone
from aiosmtpd.runner.config import Config, parse_place
from aiosmtpd.runner.master import Master
from aiosmtpd.runner.tables import TLS, Drain
from tests.client import Client
from tests.delivery.support import until
from tests.net.support import free_port
from tests.runner.fleet import configuration, send
from tests.runner.test_keys import texts_of, write
from tests.runner.test_worker import certificate_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to itself")

T = TypeVar("T")

HANDLER = """
class Handler:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
"""


def place(folder: Path, **keywords: object) -> tuple[Config, int]:
    (folder / "handler_alone.py").write_text(HANDLER)
    port = free_port()
    listen = (parse_place(f"smtp://127.0.0.1:{port}"),)
    own = {"listen": listen, "spool": None, "handler": "handler_alone:Handler"}
    return configuration(folder, **{**own, **keywords}), port


def visited(
    serve: Callable[[], int], port: int, visit: Callable[[], T], *, ends_it: bool = False
) -> tuple[int, T]:
    """Serve in this thread while another one visits; return both results.

    After the visit a signal ends the server, unless the visit *ends_it*.
    """
    found: list[T] = []

    def be_client() -> None:
        until(lambda: answers(port))
        try:
            found.append(visit())
        finally:
            if not ends_it:
                os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=be_client)
    visitor.start()
    code = serve()
    visitor.join()
    return code, found[0]


def answers(port: int) -> bool:
    try:
        Client(port).close()
    except ConnectionRefusedError:
        return False
    return True


async def no_reload() -> Config:
    raise AssertionError("no reload")


def test_it_serves_until_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, port = place(tmp_path)
    monkeypatch.setattr(masters, "HAS_WORKERS", False)
    code, reply = visited(Master(config, no_reload).run, port, lambda: send(port, "x"))
    assert (code, reply[:3]) == (0, b"250")


def test_a_second_signal_is_now(tmp_path: Path) -> None:
    config, port = place(tmp_path, drain=Drain(linger=60.0, grace=60.0))

    def visit() -> bytes:
        with Client(port) as client:
            client.transaction()
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: not answers(port))
            os.kill(os.getpid(), signal.SIGTERM)
            return client.rest()

    code, rest = visited(lambda: run_alone(config), port, visit, ends_it=True)
    assert code == 0
    assert b"250" not in rest


def test_certificates_are_loaded_again(tmp_path: Path) -> None:
    pair = write(tmp_path, "mx", "mx.test")
    config, port = place(tmp_path, tls=TLS(cert=pair.cert, key=pair.key))

    def visit() -> list[bool]:
        first = certificate_of(port) == texts_of(pair)[0].cert.strip()
        write(tmp_path, "mx", "mx.test")
        until(lambda: certificate_of(port) == texts_of(pair)[0].cert.strip())
        Path(pair.key).write_text("no key")
        os.kill(os.getpid(), signal.SIGHUP)
        return [first, certificate_of(port) == texts_of(pair)[0].cert.strip()]

    assert visited(lambda: run_alone(config, 0.02), port, visit) == (0, [True, True])


def test_a_place_without_a_scheme_speaks_smtp(tmp_path: Path) -> None:
    pair, port = write(tmp_path, "mx", "mx.test"), free_port()
    listen = (parse_place(f"127.0.0.1:{port}"),)
    config, _ = place(tmp_path, listen=listen, tls=TLS(cert=pair.cert, key=pair.key))

    def visit() -> bool:
        with Client(port) as client:
            return b"250-STARTTLS" in client.hello()

    assert visited(lambda: run_alone(config), port, visit) == (0, True)


def test_a_lost_spool_is_74(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.spool.LOOK", 0.0)
    whole = configuration(tmp_path)
    (tmp_path / "sink_alone.py").write_text("async def take(mail): pass")
    (route,) = whole.route
    config, port = place(tmp_path, spool=whole.spool, handler=None)
    config = evolve(config, route=(evolve(route, to="python:sink_alone:take"),))
    ended = threading.Event()

    def lose() -> None:
        until(lambda: answers(port))
        (tmp_path / "spool" / "0" / "spool.db").rename(tmp_path / "moved")
        with Client(port) as client:
            client.hello()
            client.ask(b"MAIL FROM:<a@b.test>", b"451")
        ended.set()

    thread = threading.Thread(target=lose)
    thread.start()
    assert run_alone(config) == 74
    thread.join()
    assert ended.is_set()


def test_a_start_that_fails_raises(tmp_path: Path) -> None:
    config, _ = place(tmp_path, handler="missing_one:Handler")
    with pytest.raises(Failure, match="cannot import missing_one"):
        run_alone(config)
