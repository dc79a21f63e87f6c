"""The sockets of ``[admin]`` in the master."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.doors import Doors
from aiosmtpd.runner.tables import Admin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

HTTP = "127.0.0.1:0"


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Doors]:
    monkeypatch.setattr("aiosmtpd.runner.slots.PAUSE", 0.0)
    found = Doors()
    yield found
    found.keep(Admin())


def at(path: Path, http: str | None = None) -> Admin:
    return Admin(http=http, socket=str(path))


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


async def test_the_control_socket_is_for_its_owner_alone(doors: Doors, tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    mask = os.umask(0)
    try:
        await doors.open(at(path))
    finally:
        os.umask(mask)
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())
    # Also while no desk runs, clients wait.
    assert connects(path)
    doors.keep(Admin())
    assert not path.exists()


async def test_a_file_that_was_removed_comes_back(doors: Doors, tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    await doors.open(at(path))
    before = doors.descriptors(at(path))["ctl"]
    await doors.open(at(path))
    assert doors.descriptors(at(path))["ctl"] == before
    path.unlink()
    await doors.open(at(path))
    assert connects(path)
    assert doors.descriptors(at(path))["ctl"] != before
    doors.keep(Admin())
    assert not path.exists()


async def test_the_socket_of_a_server_that_has_gone_is_replaced(
    doors: Doors, tmp_path: Path
) -> None:
    path = tmp_path / "ctl"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    await doors.open(at(path))
    assert connects(path)


async def test_another_server_or_file_is_not_replaced(doors: Doors, tmp_path: Path) -> None:
    path, second = tmp_path / "ctl", Doors()
    await doors.open(at(path))
    with pytest.raises(Failure, match=r"^Cannot listen at .*ctl: another server listens there$"):
        await second.open(at(path))
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"^Cannot listen at .*file: not a socket$"):
        await second.open(at(tmp_path / "file"))
    # The socket of another server stays when this one ends.
    path.unlink()
    (tmp_path / "ctl").touch()
    doors.keep(Admin())
    assert path.exists()


async def test_places_are_bound_all_or_none(doors: Doors, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    both = at(tmp_path / "file", HTTP)
    with pytest.raises(Failure, match="not a socket"):
        await doors.open(both)
    assert doors.descriptors(both) == {"http": [], "ctl": []}
    assert doors.address(both) is None


async def test_places_that_stay_keep_their_sockets(doors: Doors, tmp_path: Path) -> None:
    first, second = at(tmp_path / "a", HTTP), at(tmp_path / "b", HTTP)
    await doors.open(first)
    address, before = doors.address(first), doors.descriptors(first)
    await doors.open(second)
    doors.keep(second)
    assert doors.address(second) == address
    assert doors.descriptors(second)["http"] == before["http"]
    assert ((tmp_path / "a").exists(), (tmp_path / "b").exists()) == (False, True)


async def test_a_port_that_is_taken_is_one_line(doors: Doors) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Failure, match=rf"^Cannot listen at {place}: address already in use$"):
            await doors.open(Admin(http=place))
