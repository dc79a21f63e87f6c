"""The sockets that the master binds and gives to its workers."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.config import parse_place
from aiosmtpd.runner.slots import HAS_GROUPS, Sockets

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers are processes of POSIX")

LOCAL = parse_place("smtp://127.0.0.1:0")
LINUX = pytest.mark.skipif(not HAS_GROUPS, reason="groups of sockets are Linux's")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def ports(sockets: Sockets) -> list[int]:
    return [address[1] for address in sockets.addresses if isinstance(address, tuple)]


def address_of(fd: int) -> tuple[str, int]:
    with socket.socket(fileno=os.dup(fd)) as sock:
        found: tuple[str, int] = sock.getsockname()
        return found


@LINUX
async def test_each_slot_has_a_socket_of_its_own(sockets: Sockets) -> None:
    await sockets.bind([LOCAL], 3)
    given = [sockets.of_slot([LOCAL], slot, 3) for slot in range(3)]
    assert len({passed.fd for one in given for passed in one}) == 3
    assert {address_of(passed.fd) for one in given for passed in one} == set(sockets.addresses)


@LINUX
async def test_fewer_slots_share_all_sockets(sockets: Sockets) -> None:
    await sockets.bind([LOCAL], 5)
    before = {passed.fd for slot in range(5) for passed in sockets.of_slot([LOCAL], slot, 5)}
    given = [[passed.fd for passed in sockets.of_slot([LOCAL], slot, 2)] for slot in range(2)]
    assert {fd for one in given for fd in one} == before
    assert sorted(map(len, given)) == [2, 3]


@LINUX
async def test_more_slots_get_more_sockets(sockets: Sockets) -> None:
    await sockets.bind([LOCAL], 1)
    (first,) = sockets.of_slot([LOCAL], 0, 1)
    await sockets.bind([LOCAL], 3)
    given = [passed.fd for slot in range(3) for passed in sockets.of_slot([LOCAL], slot, 3)]
    assert given[0] == first.fd
    assert len(set(given)) == 3
    assert {address_of(fd) for fd in given} == set(sockets.addresses)


async def test_a_place_keeps_its_socket_with_another_scheme(sockets: Sockets) -> None:
    await sockets.bind([LOCAL], 1)
    other = parse_place("smtps://127.0.0.1:0")
    before = ports(sockets)
    await sockets.bind([other], 1)
    assert ports(sockets) == before
    assert [passed.scheme for passed in sockets.of_slot([other], 0, 1)] == ["smtps"]


async def test_two_addresses_have_one_port(sockets: Sockets) -> None:
    await sockets.bind([parse_place("0")], 2)
    assert len(set(ports(sockets))) == 1


async def test_a_place_that_goes_is_closed(sockets: Sockets) -> None:
    await sockets.bind([LOCAL], 2)
    (port,) = ports(sockets)
    sockets.keep([])
    assert sockets.addresses == []
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


async def test_a_taken_port_binds_nothing(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.runner.slots.PAUSE", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = parse_place(f"127.0.0.1:{taken.getsockname()[1]}")
        said = r"^Cannot listen on 127\.0\.0\.1:\d+: address already in use$"
        with pytest.raises(Failure, match=said):
            await sockets.bind([LOCAL, place], 2)
    assert sockets.addresses == []


async def test_a_low_port_says_what_it_needs(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(place: object) -> list[socket.socket]:
        raise PermissionError(errno.EACCES, "permission denied")

    monkeypatch.setattr("aiosmtpd.listen.sockets.bind", refuse)
    with pytest.raises(Failure, match=r"permission denied; a port below 1024 needs root, or"):
        await sockets.bind([parse_place("127.0.0.1:25")], 1)
    with pytest.raises(Failure, match=r"permission denied$"):
        await sockets.bind([parse_place("127.0.0.1:2525")], 1)


@LINUX
async def test_a_group_of_another_server_is_not_joined(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.runner.slots.PAUSE", 0.001)
    await sockets.bind([LOCAL], 1)
    (passed,) = sockets.of_slot([LOCAL], 0, 1)
    with socket.socket(fileno=os.dup(passed.fd)) as sock:
        sock.listen()
        second = Sockets()
        with pytest.raises(Failure, match="already in use"):
            await second.bind([parse_place(f"127.0.0.1:{ports(sockets)[0]}")], 1)


async def test_a_port_is_tried_until_it_is_free(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiosmtpd.listen import sockets as listening

    bind, tries = listening.bind, []

    async def late(place: object) -> object:
        tries.append(place)
        if len(tries) < 3:
            raise OSError(errno.EADDRINUSE, "in use")
        return await bind(LOCAL)

    monkeypatch.setattr("aiosmtpd.runner.slots.PAUSE", 0.001)
    monkeypatch.setattr(listening, "bind", late)
    await sockets.bind([LOCAL], 1)
    assert len(tries) == 3


async def test_a_unix_socket_that_was_removed_comes_back(sockets: Sockets, tmp_path: Path) -> None:
    file = tmp_path / "sock"
    place = parse_place(f"lmtp://unix:{file}")
    await sockets.bind([place], 2)
    before = sockets.of_slot([place], 0, 2)
    await sockets.bind([place], 2)
    assert sockets.of_slot([place], 0, 2) == before
    file.unlink()
    await sockets.bind([place], 2)
    assert sockets.of_slot([place], 0, 2) != before
    assert file.exists()
    sockets.close()
    assert not file.exists()


async def test_a_unix_socket_is_taken_before_workers_listen(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.runner.slots.PAUSE", 0.001)
    place = parse_place(f"lmtp://unix:{tmp_path / 'sock'}")
    await sockets.bind([place], 1)
    before = os.stat(tmp_path / "sock")
    with pytest.raises(Failure, match="address already in use"):
        await Sockets().bind([place], 1)
    assert os.path.samestat(os.stat(tmp_path / "sock"), before)


async def test_a_unix_socket_is_one_for_all(sockets: Sockets, tmp_path: Path) -> None:
    place = parse_place(f"lmtp://unix:{tmp_path / 'sock'}")
    await sockets.bind([place], 2)
    first, second = (sockets.of_slot([place], slot, 2) for slot in range(2))
    assert first == second
    assert first[0].scheme == "lmtp"
    assert sockets.addresses == [str(tmp_path / "sock")]
    sockets.close()
    assert not (tmp_path / "sock").exists()


async def test_a_file_that_was_replaced_stays(sockets: Sockets, tmp_path: Path) -> None:
    place = parse_place(f"lmtp://unix:{tmp_path / 'sock'}")
    await sockets.bind([place], 1)
    (tmp_path / "sock").rename(tmp_path / "old")
    (tmp_path / "sock").touch()
    sockets.close()
    assert (tmp_path / "sock").exists()


async def test_a_socket_of_another_program_is_shared(sockets: Sockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        place = parse_place(f"smtp://fd:{sock.fileno()}")
        await sockets.bind([place], 2)
        assert sockets.of_slot([place], 0, 2) == sockets.of_slot([place], 1, 2)
        assert ports(sockets) == [sock.getsockname()[1]]


@pytest.mark.parametrize("place", ["systemd", "systemd:in"])
async def test_the_file_of_a_socket_of_systemd_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with socket.socket(socket.AF_UNIX) as unit:
        unit.bind(str(tmp_path / "s"))
        unit.listen()
        passed = [(unit.fileno(), "in")]
        monkeypatch.setattr("aiosmtpd.runner.slots.passed_sockets", lambda: passed)
        made = Sockets()
        await made.bind([parse_place(place)], 1)
        assert made.addresses == [str(tmp_path / "s")]
        made.close()
        assert (tmp_path / "s").exists()


async def test_systemd_must_have_passed_a_socket(sockets: Sockets) -> None:
    with pytest.raises(Failure, match=r"systemd has passed no socket: see the \.socket unit"):
        await sockets.bind([parse_place("smtp://systemd")], 1)
