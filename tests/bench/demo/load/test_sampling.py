"""Sampling processor time and memory of a real process tree."""

import threading
from collections.abc import Callable

import pytest

from bench.core.processes import Family
from bench.demo.load.sampling import MIB, Sampler, Usage
from tests.bench.conftest import Program

Spawn = Callable[..., Program]

NO_MARK = "a mark that nothing carries"
# Uses up as much processor time as it is told, holds some memory, and says when it is done.
BURNER = """
import sys, time
held = bytearray(30_000_000)
print("up", flush=True)
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end:
        pass
    print("done", flush=True)
"""
TREE = f"""
import subprocess, sys
worker = subprocess.Popen(["molt-worker", "-c", {BURNER!r}], executable=sys.executable)
worker.wait()
"""


def burn(process: Program, seconds: float) -> None:
    process.is_told(f"{seconds}")
    assert process.says() == "done"


def ready(process: Program) -> Program:
    assert process.says() == "up"
    return process


def test_processor_time_goes_to_the_part_that_used_it(spawn: Spawn) -> None:
    root = ready(spawn(TREE))
    burn(root, 0.1)
    with Sampler(Family(root.pid, NO_MARK), interval_s=0.05) as sampler:
        burn(root, 0.4)
    usage = sampler.usage
    server, worker = usage.parts["server"], usage.parts["worker"]
    # What was used before the start is left out; the counters tick in hundredths.
    assert worker.cpu_seconds == pytest.approx(0.4, abs=0.05)
    assert server.cpu_seconds == pytest.approx(0.0, abs=0.03)
    assert (server.processes, worker.processes) == (1, 1)
    assert worker.rss_max > 30 * MIB
    assert worker.pss is None or worker.pss > 25 * MIB
    assert worker.samples >= 1
    shown = usage.as_json()
    assert shown["worker"]["cpu_percent"]["max"] >= shown["worker"]["cpu_percent"]["avg"] > 0
    assert shown["worker"]["rss_mib"]["avg"] > 30


def test_a_process_that_comes_and_goes_is_counted(spawn: Spawn) -> None:
    root = ready(spawn(BURNER))
    with Sampler(Family(root.pid, NO_MARK), interval_s=0.05) as sampler:
        burn(root, 0.2)
        root.end()
    assert sampler.usage.parts["server"].cpu_seconds > 0
    assert sampler.usage.parts["server"].processes == 1


def test_servers_that_should_be_idle_are_watched(spawn: Spawn) -> None:
    active, idle = ready(spawn(BURNER)), ready(spawn(BURNER))
    with Sampler(Family(active.pid, NO_MARK), interval_s=5, idle=(Family(idle.pid, NO_MARK),)) as sampler:
        burn(idle, 0.2)
    assert sampler.usage.idle_cpu_seconds == pytest.approx(0.2, abs=0.05)
    assert sampler.usage.parts["server"].cpu_seconds == pytest.approx(0, abs=0.03)


def test_the_load_generator_is_the_child_that_was_reaped_meanwhile(spawn: Spawn) -> None:
    with Sampler(Family(ready(spawn(BURNER)).pid, NO_MARK), interval_s=5) as sampler:
        load = ready(spawn(BURNER))
        burn(load, 0.2)
        load.end()
    assert sampler.usage.load_cpu_seconds >= 0.19


def test_no_sampling_thread_stays(spawn: Spawn) -> None:
    with Sampler(Family(ready(spawn(BURNER)).pid, NO_MARK), interval_s=0.05):
        assert any(thread.name == "bench-sampler" for thread in threading.enumerate())
    assert not any(thread.name == "bench-sampler" for thread in threading.enumerate())


def test_usage_of_nothing_divides_by_nothing() -> None:
    shown = Usage().as_json()
    assert shown["server"]["cpu_percent"] == {"avg": 0.0, "max": 0.0}
    assert shown["other_cpu_percent"] == 0.0


def test_what_others_used_is_never_negative() -> None:
    assert Usage(elapsed_s=1, busy_cpu_seconds=0.5, load_cpu_seconds=0.7).other_percent == 0
