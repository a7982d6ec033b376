"""The loops that measure, the cores that are kept busy, and the reading of processor time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.micro import timing
from bench.micro.burners import Burners, by_session, cores_to_burn
from bench.micro.cpu import Surroundings, Watch, cpu_ns, spent_ns


class Times(SimpleNamespace):
    """Counters as psutil has them; those that aren't given are 0."""

    user = system = nice = steal = children_user = children_system = 0.0


def echo(value: object) -> object:
    return value


def test_latency_ends_at_the_count() -> None:
    samples = timing.latency(echo, 1, calls=50, limit_s=60)
    assert len(samples) == 50
    assert all(sample > 0 for sample in samples)


def test_latency_ends_at_the_time_but_not_before_a_few_calls() -> None:
    assert len(timing.latency(echo, 1, calls=10**9, limit_s=0)) == timing.LEAST_CALLS
    assert timing.LEAST_CALLS < len(timing.latency(echo, 1, calls=10**9, limit_s=0.02)) < 10**6


def test_pauses_are_no_part_of_the_calls() -> None:
    samples = timing.latency(echo, 1, calls=4, limit_s=60, pause_s=0.05)
    assert sorted(samples)[1] < 40_000_000


@pytest.mark.parametrize("threads", [1, 4])
def test_throughput_counts_the_calls_of_all_threads_in_the_window(threads: int) -> None:
    seen = set()
    start = time.monotonic_ns() + 20_000_000

    def call(value: object) -> object:
        seen.add(threading.get_ident())
        assert time.monotonic_ns() >= start
        time.sleep(0.001)
        return value

    done = timing.throughput(call, 1, threads=threads, start_at_ns=start, window_s=0.1)
    assert len(seen) == threads
    assert 1 <= done <= 100 * threads


def test_a_call_that_ends_behind_the_window_does_not_count() -> None:
    done = timing.throughput(
        lambda _: time.sleep(0.05), 1, threads=2, start_at_ns=time.monotonic_ns(), window_s=0.01
    )
    assert done == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_call_raises_ends_the_window(threads: int) -> None:
    def call(_: object) -> object:
        raise LookupError("nobody there")

    with pytest.raises(LookupError, match="nobody there"):
        timing.throughput(call, 1, threads=threads, start_at_ns=time.monotonic_ns(), window_s=60)


def test_conditions_say_which_cores_burn() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert cores_to_burn("idle") == cores_to_burn("spaced") == ()
    assert cores_to_burn("one") == (usable[-1],)
    assert cores_to_burn("all") == tuple(usable)


def test_a_burner_keeps_its_core_busy_and_goes() -> None:
    (core,) = cores_to_burn("one")
    with Burners([core]) as burners:
        (pid,) = burners.pids
        assert psutil.Process(pid).cpu_affinity() == [core]
        before = cpu_ns([pid])
        until = time.monotonic() + 20
        while spent_ns(before, cpu_ns([pid])) < 20_000_000 and time.monotonic() < until:
            time.sleep(0.005)
        assert spent_ns(before, cpu_ns([pid])) >= 20_000_000
    assert not psutil.pid_exists(pid)
    assert burners.pids == []


@pytest.mark.parametrize(("text", "said"), [("1\n", True), ("0\n", False), (None, False)])
def test_whether_sessions_share_is_read(
    text: str | None, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sched_autogroup_enabled"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr("bench.micro.burners.AUTOGROUP", file)
    assert by_session() is said


def test_processor_time_counts_all_threads() -> None:
    own = [os.getpid()]
    before = cpu_ns(own)
    worker = threading.Thread(target=sum, args=(range(3_000_000),))
    alive = threading.Event()
    holder = threading.Thread(target=alive.wait)
    holder.start()
    worker.start()
    worker.join()
    sum(range(1_000_000))
    assert spent_ns(before, cpu_ns(own)) > 1_000_000
    alive.set()
    holder.join()


def test_processes_that_are_gone_are_left_out() -> None:
    assert cpu_ns([2**22 + 1]) == {}
    assert spent_ns({1: 5, 2: 7}, {1: 8, 3: 2}) == 5


def test_a_watch_does_not_take_its_own_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = iter([Times(user=10, system=2, steal=1), Times(user=13, system=3, steal=2)])
    processes = iter([Times(user=1), Times(user=2, system=0.5, children_user=1)])
    fake = SimpleNamespace(
        cpu_times=machine.__next__,
        Process=lambda _: SimpleNamespace(cpu_times=processes.__next__),
        Error=psutil.Error,
    )
    monkeypatch.setattr("bench.micro.cpu.psutil", fake)
    monkeypatch.setattr("bench.micro.cpu.time", SimpleNamespace(monotonic=iter([100.0, 110.0]).__next__))
    during = Watch(lambda: [17]).end()
    # 4 seconds busy, 2.5 of them its own, in 10 seconds.
    assert during == Surroundings(elapsed_s=10.0, other_percent=15.0, steal_percent=10.0)
