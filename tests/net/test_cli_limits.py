"""Limits on the command line, with real processes."""

import os

import pytest

from aiosmtpd import main
from tests.client import Client
from tests.net.program import serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")


@pytest.mark.parametrize(("args", "allowed"), [([], 50), (["--max-connections-per-host", "1"], 1)])
def test_connections_of_a_host(args: list[str], allowed: int) -> None:
    with serving(*args) as program:
        clients = [Client(program.port) for _ in range(allowed)]
        with Client(program.port, greet=False) as another:
            assert another.reply()[:9] == b"421 4.7.0"
        for client in clients:
            client.close()


@pytest.mark.parametrize(("args", "allowed"), [([], 100), (["--max-junk-commands", "2"], 2)])
def test_commands_that_send_no_mail(args: list[str], allowed: int) -> None:
    with serving(*args) as program, Client(program.port) as client:
        client.send(b"NOOP\r\n" * (allowed + 1))
        replies = [client.reply()[:3] for _ in range(allowed + 2)]
        assert replies == [b"250"] * allowed + [b"421", b""]


def test_0_removes_a_limit() -> None:
    with serving("--max-junk-commands", "0") as program, Client(program.port) as client:
        client.send(b"NOOP\r\n" * 200 + b"QUIT\r\n")
        assert [client.reply()[:3] for _ in range(201)] == [b"250"] * 200 + [b"221"]


def test_a_wrong_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.parseargs(["--max-errors", "many"])
    assert "invalid number: 'many'" in capsys.readouterr().err
