"""The number of workers that ``auto`` means: processors, and the limits of a container."""

from pathlib import Path

import pytest

from aiosmtpd.runner import processors as module
from aiosmtpd.runner.processors import processors

V1, V1_LONG = "4:cpu,cpuacct:/docker/a", "3:memory:/m\n2:cpu:/docker/a\n1:cpuset:/"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sixteen processors, and control groups in a folder."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16), raising=False)
    monkeypatch.setattr(module, "GROUPS", str(tmp_path))
    monkeypatch.setattr(module, "MINE", str(tmp_path / "mine"))


def limit(folder: Path, quota: str) -> None:
    """Write the limit of a group, as version 2 has it if there are two numbers in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    first, _, second = quota.partition("/")
    if second:
        (folder / "cpu.cfs_quota_us").write_text(f"{first}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{second}\n")
    else:
        (folder / "cpu.max").write_text(f"{quota}\n")


def test_a_machine_without_groups_has_all() -> None:
    assert processors() == 16


@pytest.mark.parametrize(
    ("quota", "number"),
    [
        ("100000 100000", 1),
        ("20000 100000", 1),
        ("150000 100000", 2),
        ("250000 100000", 3),
        ("9900000 100000", 16),
        ("max 100000", 16),
        ("nonsense", 16),
        ("100000 0", 16),
        ("-1 100000", 16),
    ],
)
def test_a_limit_is_rounded_up(quota: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("0::/\n")
    limit(tmp_path, quota)
    assert processors() == number


def test_a_service_has_a_group_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("0::/system.slice/mail.service\n")
    limit(tmp_path, "max 100000")
    limit(tmp_path / "system.slice", "400000 100000")
    assert processors() == 4
    limit(tmp_path / "system.slice/mail.service", "300000 100000")
    assert processors() == 3


@pytest.mark.parametrize("path", ["/kubepods/pod1/a", "/../../a", "/"])
def test_a_container_sees_its_group_as_the_top(path: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(f"0::{path}\n")
    limit(tmp_path, "200000 100000")
    assert processors() == 2


@pytest.mark.parametrize(
    ("mine", "folder"),
    [
        (V1, "cpu,cpuacct/docker/a"),
        (V1, "cpu,cpuacct"),
        (V1, "cpu/docker"),
        (V1_LONG, "cpu/docker/a"),
    ],
)
def test_groups_of_version_1(mine: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(f"{mine}\n0::/\n")
    limit(tmp_path / folder, "150000/100000")
    assert processors() == 2
    limit(tmp_path / folder, "-1/100000")
    assert processors() == 16


def test_groups_of_other_controllers_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("5:cpuset:/a\nnonsense\n")
    limit(tmp_path / "cpuset/a", "100000/100000")
    assert processors() == 16


def test_both_versions_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("1:cpu:/\n0::/a\n")
    limit(tmp_path / "unified/a", "300000 100000")
    limit(tmp_path / "cpu", "500000/100000")
    assert processors() == 3
