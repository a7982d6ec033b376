"""How long it pays to spin: the measured price of sleeping, within bounds, and none where processors are few."""

import threading
from pathlib import Path

import pytest

from molt_worker.supervisor.shm import spinning
from molt_worker.supervisor.shm.spinning import SpinLimits

MACHINE = 96
"""Processors of the machine, of which a worker may be given less."""


def with_processors(monkeypatch: pytest.MonkeyPatch, count: int, quota: float) -> None:
    monkeypatch.setattr(spinning, "default_executors", lambda: count)
    monkeypatch.setattr(spinning.os, "cpu_count", lambda: MACHINE)
    monkeypatch.setattr(spinning, "quota", lambda: quota)


class Meter:
    """A meter that measures what the test says, on two threads, as it must."""

    price_ns = 0

    def __init__(self) -> None:
        self._sides: list[int] = []
        self._both = threading.Barrier(2)

    def run(self, side: int, rounds: int) -> int:
        self._sides.append(side)
        self._both.wait(60)
        assert sorted(self._sides) == [0, 1]
        assert rounds > 0
        return self.price_ns


METER = "molt_accel.ipc.shm._native.ParkMeter"


@pytest.mark.parametrize(
    ("price_ns", "spin_ns"),
    [
        (1, 50_000),
        (49_999, 50_000),
        (70_000, 70_000),
        (100_001, 100_000),
        (10**12, 100_000),  # something else had the processor meanwhile
    ],
)
def test_a_spin_lasts_as_sleeping_costs(monkeypatch: pytest.MonkeyPatch, price_ns: int, spin_ns: int) -> None:
    with_processors(monkeypatch, 2, 2.0)
    monkeypatch.setattr(METER, Meter)
    monkeypatch.setattr(Meter, "price_ns", price_ns)
    assert spinning.measure() == SpinLimits(spin_ns, clients=1, executors=1, cpus=MACHINE, narrow=True)


@pytest.mark.parametrize(
    ("count", "quota", "clients", "executors"),
    [(2, 64.0, 1, 1), (3, 3.0, 2, 1), (8, 8.0, 7, 4), (64, 2.5, 1, 1), (64, 4.0, 3, 2), (96, 96.0, 95, 48)],
)
def test_so_many_spin_at_once_that_others_have_a_processor_too(
    monkeypatch: pytest.MonkeyPatch, count: int, quota: float, clients: int, executors: int
) -> None:
    with_processors(monkeypatch, count, quota)
    limits = spinning.measure()  # by the real meter
    assert (limits.clients, limits.executors, limits.cpus) == (clients, executors, MACHINE)
    assert limits.narrow == (min(count, quota) < MACHINE)
    assert 50_000 <= limits.spin_ns <= 100_000


@pytest.mark.parametrize(("count", "quota"), [(1, 64.0), (64, 1.99), (64, 0.5), (64, 0.0)])
def test_where_there_are_no_two_processors_nobody_spins_and_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, count: int, quota: float
) -> None:
    with_processors(monkeypatch, count, quota)
    monkeypatch.setattr(METER, lambda: pytest.fail("it was measured"))
    assert spinning.measure() == SpinLimits(50_000, 0, 0, 1, True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("200000 100000\n", 2.0), ("50000 100000\n", 0.5), ("max 100000\n", 32.0), ("100000 0\n", 32.0),
        ("", 32.0), ("what else\n", 32.0), ("1 2 3\n", 32.0), (None, 32.0),
    ],
)  # fmt: skip
def test_a_quota_is_what_the_control_group_may_use_and_without_one_all_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None, expected: float
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    file = tmp_path / "cpu.max"
    if said is not None:
        file.write_text(said)
    assert spinning.quota(str(tmp_path), str(tmp_path / "none")) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/system.slice/web.service\n", {"system.slice/web.service/cpu.max": "150000 100000"}, 1.5),
        ("0::/system.slice/web.service\n", {"system.slice/cpu.max": "50000 100000"}, 0.5),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "200000 100000"},
            2.0,
        ),
        (
            "4:memory:/m\n3:cpu,cpuacct:/web\n0::/\n",
            {"cpu/web/cpu.cfs_quota_us": "50000", "cpu/web/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (
            "3:cpu:/docker/1\n",
            {
                "cpu/cpu.cfs_quota_us": "150000",
                "cpu/cpu.cfs_period_us": "100000",
            },  # as its own mount shows it
            1.5,
        ),
        ("3:cpu:/web\n", {"cpu/web/cpu.cfs_quota_us": "-1", "cpu/web/cpu.cfs_period_us": "100000"}, 32.0),
        ("no control group", {}, 32.0),
    ],
)
def test_a_quota_may_stand_in_any_control_group_around_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: dict[str, str], expected: float
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    root = tmp_path / "groups"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert spinning.quota(str(root), str(tmp_path / "own")) == expected
