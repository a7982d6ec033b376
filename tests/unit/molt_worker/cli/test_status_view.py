"""molt_worker.cli.status_view: how a pool and its executors are shown."""

import dataclasses
import os

import pytest

from molt_accel import __version__
from molt_accel.errors import BusyReason
from molt_accel.ipc.shm.layout import Gauge
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.cli import status_view
from molt_worker.cli.observer import PoolPlace
from molt_worker.supervisor.shm.snapshot import ExecutorStatus, Running
from tests.support.observed_arena import Stage

_S = 1_000_000_000
POOL = PoolPlace("shop", "/run/molt", "/run/molt/shop.sock")


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 us"), (0.00042, "420 us"), (0.0123, "12.3 ms"), (0.5, "500.0 ms"), (1, "1.0 s"),
        (119.94, "119.9 s"), (600, "10 min"), (9000, "2.5 h"), (260_000, "3.0 d"), (-0.2, "-200.0 ms"),
    ],
)  # fmt: skip
def test_a_duration_has_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert status_view.duration(seconds) == text


def test_an_executor_is_a_line_of_the_table() -> None:
    running = Running("report", stopping=False, for_ms=1500.0, deadline_ms=-250.0)
    assert status_view.row(ExecutorStatus(12, 3456, "busy", running, 78_901, 5 * 2**20)) == [
        "12", "3456", "busy", "report", "1.5 s", "-250.0 ms", "78,901", "5.0 MiB",
    ]  # fmt: skip
    assert status_view.row(ExecutorStatus(13, 3457, "starting", None, 0, None)) == [
        *("13", "3457", "starting", "", "", "", "0", "-")
    ]


@pytest.mark.parametrize(
    ("entry", "shown"), [(None, "?"), ("a\x1b[2Jb\nc", "a?[2Jb?c"), ("w\u00f6rk", "w\u00f6rk")]
)
def test_an_entry_can_not_move_the_cursor(entry: str | None, shown: str) -> None:
    running = Running(entry, stopping=False, for_ms=None, deadline_ms=None)
    assert status_view.row(ExecutorStatus(1, 2, "busy", running, 0, None))[3:6] == [shown, "", ""]


def test_the_lines_of_a_pool(stage: Stage) -> None:
    stage.arena.set_gauge(Gauge.SERVING, 1)
    stage.arena.set_gauge(Gauge.SPIN_NS, 45_678)
    stage.arena.set_gauge(Gauge.CLIENT_SPINNERS, 1)
    stage.arena.set_gauge(Gauge.EXECUTOR_SPINNERS, 2)
    stage.arena.set_gauge(Gauge.EXECUTOR_STARTS, 6)
    stage.arena.set_gauge(Gauge.EXECUTOR_DEATHS, 3)
    stage.arena.set_gauge(Gauge.CLIENTS, 2)
    executor = stage.executor(0, 1)
    stage.executor(1, 2)
    stage.request(0)
    stage.run(executor)
    stage.answer(executor, queue_us=2, exec_us=100)
    stage.request(1, "report")
    stage.run(executor)
    looked = dataclasses.replace(
        stage.take(),
        uptime_s=7500,
        pid=77,
        log="/run/molt/shop.log",
        memory={
            "arena_bytes": 2**23,
            "supervisor_rss_bytes": 2**24,
            "forkserver_rss_bytes": None,
            "executors_rss_bytes": 3 * 2**20,
        },
    )
    lines = status_view.as_text(POOL, looked).splitlines()
    assert lines[:-3] == [
        f"pool        shop  serving  version {__version__}  pid 77  up 2.1 h",
        "socket      /run/molt/shop.sock",
        "log         /run/molt/shop.log",
        "exports     0, 0 of them compiled",
        "executors   1 busy, 2 of 2 ready",
        "queue       0 of 16 places, 1 in flight",
        "clients     2",
        "calls       1  (Ok 1)",
        "queue time  p50 2 us, p95 3 us, p99 3 us",
        "exec time   p50 104 us, p95 111 us, p99 112 us",
        "restarts    6 executors started, 3 died, 0 recycled, 0 reloads",
        "memory      arena 8.0 MiB, supervisor 16.0 MiB, fork server -, executors 3.0 MiB",
        "spin        up to 45 us, 1 client and 2 executors at a time",
        "",
    ]
    assert lines[-3].split() == [
        "executor", "pid", "state", "entry", "for", "deadline", "in", "calls", "memory",
    ]  # fmt: skip
    assert lines[-2].split()[:4] == ["1", str(os.getpid()), "busy", "report"]
    assert lines[-1].split()[:4] == ["2", str(os.getpid()), "idle", "0"]


def test_a_pool_without_spinning_bad_frames_and_calls_says_so(stage: Stage) -> None:
    stage.arena.set_gauge(Gauge.BAD_FRAMES, 3)
    shown = dict(status_view.facts(POOL, stage.take()))
    assert (shown["spin"], shown["bad frames"]) == ("never", "3")
    assert (shown["calls"], shown["queue time"], shown["exec time"]) == ("0", "-", "-")
    assert "calls/s" not in shown


def test_a_second_look_tells_the_rate_and_what_came_since(stage: Stage) -> None:
    executor = stage.executor(0, 1)
    for channel in range(2):
        stage.request(channel)
        stage.run(executor)
        stage.answer(executor, queue_us=3, exec_us=3)
    before = stage.take()
    for channel in range(3):
        stage.request(2 + channel)
        stage.run(executor)
        stage.answer(executor, queue_us=2**20, exec_us=1)
    now = dataclasses.replace(stage.take(), taken_ns=before.taken_ns + 2 * _S)
    shown = dict(status_view.facts(POOL, now, before))
    assert (shown["calls"], shown["calls/s"]) == ("5  (Ok 5)", "1.5")
    assert shown["queue time"].split("   now: ")[1] == "p50 1.2 s, p95 1.3 s, p99 1.3 s"
    idle = dataclasses.replace(now, taken_ns=now.taken_ns + _S)
    assert dict(status_view.facts(POOL, idle, now))["queue time"].endswith("   now: -")
    assert dict(status_view.facts(POOL, idle, now))["calls/s"] == "0.0"


def test_entrypoints_and_refusals_are_shown_if_there_are_any(stage: Stage) -> None:
    assert "refused" not in status_view.as_text(POOL, stage.take())
    stage.arena.set_entry("report", DELAY_NS[Priority.LOW], 2)
    stage.arena.learn(stage.core.entry_id("report"), 12_345_678, False)
    stage.arena.set_gauge(Gauge.SHED + list(BusyReason).index(BusyReason.QUEUE_DELAY), 1234)
    stage.request(0, "report")
    stage.arena.set_standing(stage.core.entry_id("report"), 1, True)
    looked = stage.take()
    lines = status_view.as_text(POOL, looked).splitlines()
    assert "refused     queue_delay 1,234" in lines
    assert lines[-2:] == [
        "entry   priority    takes  running  queued  refused",
        "report  low       12.3 ms   0 of 2       1        1",
    ]
    assert status_view.as_table(POOL, looked, None) is not None
