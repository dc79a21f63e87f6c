"""The places at which the command line listens."""

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client import Client
from tests.conftest import Certificates
from tests.net.program import Program, cert, reach, reach_tls, refused, serving
from tests.net.support import free_port

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
IPV6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


@contextmanager
def listening_at(*places: str, more: Sequence[str] = ()) -> Iterator[Program]:
    """Run one server for all these places."""
    with serving(*more, *(word for place in places for word in ("-l", place))) as program:
        yield program


def each_greets(places: tuple[str, ...], address: str) -> None:
    """Check that a server listens at each of these places, and calls it *address* (a pattern)."""
    with listening_at(*places) as program:
        assert len(program.addresses) == len(places)
        for found in program.addresses:
            assert re.fullmatch(address, found)
            with reach(found) as client:
                assert client.greeting.startswith(b"220 ")


def test_host_and_port() -> None:
    places = "127.0.0.1:0", "smtp://127.0.0.1:0", "SMTP://127.0.0.1:0/"
    each_greets(places, r"127\.0\.0\.1:\d+")


@IPV6
def test_ipv6() -> None:
    each_greets(("[::1]:0", "::1:0", "smtp://[::1]:0"), r"\[::1]:\d+")


@IPV6
def test_a_port_alone_is_that_of_all_loopbacks() -> None:
    with listening_at(":0", "0", "smtp://:0") as program:
        ports = [address.rpartition(":")[2] for address in program.addresses[::2]]
        pairs = [(f"[::1]:{port}", f"127.0.0.1:{port}") for port in ports]
        assert len(pairs) == 3
        assert program.addresses == [address for pair in pairs for address in pair]
        for address in program.addresses:
            with reach(address) as client:
                assert client.greeting.startswith(b"220 ")


def test_a_port_of_choice() -> None:
    spellings = {
        spelling: free_port() for spelling in ("127.0.0.1:{}", ":{}", "{}", "localhost:{}")
    }
    places = [spelling.format(port) for spelling, port in spellings.items()]
    with listening_at(*places, more=["-d"]) as program:
        for port in spellings.values():
            assert f"127.0.0.1:{port}" in program.addresses
            with Client(port) as client:
                assert client.ask(b"NOOP") == b"250 OK\r\n"


@pytest.mark.parametrize("args", [[], ["-l", "127.0.0.1"], ["-l", "localhost:"]])
def test_the_port_by_default(args: list[str]) -> None:
    with Program("-n", "-d", *args) as program:
        line = program.err_line()
        if "address already in use" in line:
            pytest.skip("port 8025 is in use")
        assert "127.0.0.1:8025" in line
        with Client(8025) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def test_a_unix_socket(path: str) -> None:
    spellings = {f"{path}{n}": text for n, text in enumerate(["unix:", "unix://", "smtp://unix:"])}
    places = [text + path for path, text in spellings.items()]
    with listening_at(*places, more=["-d"]) as program:
        assert program.addresses == list(spellings)
        for one in spellings:
            with reach(one) as client:
                assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert program.end().code == 0
    assert not any(map(os.path.exists, spellings))


def test_a_relative_unix_socket(tmp_path: Path) -> None:
    with serving("-d", "-l", "unix:here", cwd=tmp_path) as program:
        with reach(str(tmp_path / "here")) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert program.end().code == 0
    assert not (tmp_path / "here").exists()


def test_a_unix_socket_that_a_dead_server_left(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with serving("-d", "-l", f"unix:{path}"), reach(path) as client:
        assert client.ask(b"NOOP") == b"250 OK\r\n"


def test_a_unix_socket_of_another_server(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        error = refused("-n", "-l", f"unix:{path}")
    assert error.startswith(f"aiosmtpd: error: Cannot listen on '{path}': address already in use; ")
    assert os.path.exists(path)


def test_an_inherited_unix_socket_keeps_its_file(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(path)
        ours.listen()
        fd = ours.fileno()
        with Program("-n", "-l", f"lmtp://fd:{fd}", pass_fds=[fd]) as program:
            with reach(path) as client:
                assert client.ask(b"LHLO x")[:3] == b"250"
            assert program.end() == (0, "", "")
        assert os.path.exists(path)


def test_each_scheme_is_served(certificates: Certificates) -> None:
    places = [part for name in ("smtp", "smtps") for part in ("-l", f"{name}://127.0.0.1:0")]
    more = ("-l", "127.0.0.1:0", "-l", "lmtp://127.0.0.1:0")
    with serving(*cert(certificates, "smtps"), *places, *more) as program:
        smtp, smtps, default, lmtp = program.addresses
        with reach(smtp) as client:
            assert client.ask(b"EHLO x")[:3] == b"250"
        for address in smtps, default:
            with reach_tls(address, certificates) as client:
                assert client.ask(b"EHLO x")[:3] == b"250"
        with reach(lmtp) as client:
            assert client.ask(b"EHLO x")[:3] == b"500"
            assert client.ask(b"LHLO x")[:3] == b"250"
        assert program.end() == (0, "", "")


def test_addresses_are_printed_in_the_order_given(path: str) -> None:
    with serving("-l", f"lmtp://unix:{path}", "-l", "smtp://127.0.0.1:0") as program:
        assert program.addresses[0] == path
