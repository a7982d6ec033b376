"""Reading processor time."""

import os
import threading
from types import SimpleNamespace

import psutil
import pytest

from bench.core.cpu import Surroundings, Watch, cpu_ns, cpu_seconds, idle_percent, spent_ns
from tests.support.processes import in_thread


class Times(SimpleNamespace):
    """Counters as psutil has them; those that aren't given are 0."""

    user = system = nice = steal = children_user = children_system = 0.0


def test_processor_time_counts_all_threads() -> None:
    own = [os.getpid()]
    before = cpu_ns(own)
    worker = threading.Thread(target=sum, args=(range(3_000_000),))
    alive = threading.Event()
    holder = in_thread(alive.wait)
    worker.start()
    worker.join()
    sum(range(1_000_000))
    assert spent_ns(before, cpu_ns(own)) > 1_000_000
    alive.set()
    holder.join()


def test_processes_that_are_gone_are_left_out() -> None:
    assert cpu_ns([2**22 + 1]) == {}
    assert cpu_seconds(2**22 + 1) is None
    assert spent_ns({1: 5, 2: 7}, {1: 8, 3: 2}) == 5


def test_a_watch_does_not_take_its_own_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = iter([Times(user=10, system=2, steal=1), Times(user=13, system=3, steal=2)])
    processes = iter([Times(user=1), Times(user=2, system=0.5, children_user=1)])
    fake = SimpleNamespace(
        cpu_times=machine.__next__,
        Process=lambda _: SimpleNamespace(cpu_times=processes.__next__),
        Error=psutil.Error,
    )
    monkeypatch.setattr("bench.core.cpu.psutil", fake)
    monkeypatch.setattr("bench.core.cpu.time", SimpleNamespace(monotonic=iter([100.0, 110.0]).__next__))
    during = Watch(lambda: [17]).end()
    # 4 seconds busy, 2.5 of them its own, in 10 seconds.
    assert during == Surroundings(elapsed_s=10.0, other_percent=15.0, steal_percent=10.0)


def test_idleness_is_a_share_of_what_there_was_to_have() -> None:
    before = Times(user=5.0, idle=100.0)
    assert idle_percent(before, Times(user=6.0, idle=102.0, iowait=1.0, steal=7.0)) == pytest.approx(75)
    assert idle_percent(before, before) is None
