"""The folders of the spool, which pass from one worker to the next."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Spool
from aiosmtpd.runner import folders
from aiosmtpd.runner.folders import Leftovers, free_folder
from tests.delivery.support import until


def opened(folder: Path) -> Spool:
    spool = Spool(folder)
    spool.open()
    return spool


def test_a_slot_has_the_folder_of_its_number(tmp_path: Path) -> None:
    assert free_folder(str(tmp_path), 2) == "2"


def test_a_locked_folder_is_left_to_its_worker(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "2"), opened(tmp_path / "2.1")
    assert free_folder(str(tmp_path), 2) == "2.2"
    first.close()
    assert free_folder(str(tmp_path), 2) == "2"
    assert free_folder(str(tmp_path), 2, {"2"}) == "2.2"
    second.close()


def closed(log: list[str]) -> set[str]:
    return {line.partition(" ")[2] for line in log if line.startswith("close")}


class Handler:
    """A delivery that has nothing to deliver."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.messages = 0

    async def open(self) -> None:
        self.log.append(f"open {self.name}")

    async def close(self) -> None:
        self.log.append(f"close {self.name}")

    async def counts(self) -> Any:
        return self


@pytest.mark.parametrize(
    ("slot", "wanted"), [(0, {".", "0.1", "3", "7.2"}), (1, {"1.1"}), (2, {"2"})]
)
async def test_each_slot_empties_its_own_folders(
    tmp_path: Path, slot: int, wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LOOK", 0.001)
    names = ("0", "0.1", "1", "1.1", "2", "3", "7.2", "other", ".")
    for name in names:
        opened(tmp_path / name).close()
    log: list[str] = []
    own = {0: "0", 1: "1", 2: "2.1"}[slot]
    left = Leftovers(str(tmp_path), slot, 3, own, lambda name: Handler(name, log))
    task = asyncio.ensure_future(left.run())
    await asyncio.to_thread(until, lambda: closed(log) == wanted)
    task.cancel()
    await asyncio.wait([task])
    # An empty one is not opened again until it changes.
    assert sorted(log) == sorted(f"{word} {name}" for name in wanted for word in ("open", "close"))


class Refusing(Handler):
    """A delivery whose spool cannot be opened the first time, or counted the first time."""

    async def open(self) -> None:
        await super().open()
        if len(self.log) == 1:
            raise RuntimeError("not now")

    async def counts(self) -> Any:
        if len(self.log) == 2:
            self.log.append("counted")
            raise RuntimeError("not now")
        return self


async def test_a_folder_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LOOK", 0.001)
    monkeypatch.setattr(folders, "PAUSE", 0.01)
    opened(tmp_path / "1.1").close()
    log: list[str] = []
    left = Leftovers(str(tmp_path), 1, 2, "1", lambda name: Refusing(name, log))
    task = asyncio.ensure_future(left.run())
    await asyncio.to_thread(until, lambda: closed(log) == {"1.1"})
    task.cancel()
    await asyncio.wait([task])
    assert log == ["open 1.1", "open 1.1", "counted", "close 1.1"]
