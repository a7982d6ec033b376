"""What a batch takes of the machine."""

import os
import subprocess
import sys

from bench.core.cpu import cpu_ns
from bench.micro.usage import Usage

BURN = "import time\nwhile time.process_time() < 0.05: pass"


def burn(ns: int) -> None:
    pid = os.getpid()
    until = cpu_ns([pid])[pid] + ns
    while cpu_ns([pid])[pid] < until:
        pass


def test_what_this_process_took_is_its_own() -> None:
    with Usage([]) as usage:
        burn(20_000_000)
    own, both = usage.taken["own_cpu_ns"], usage.taken["cpu_ns"]
    assert own is not None
    assert both is not None
    assert 20_000_000 <= own <= both


def test_what_the_other_side_took_is_in_the_sum() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"{BURN}\nprint(flush=True)\ninput()"], stdin=-1, stdout=-1
    ) as other:
        assert other.stdout is not None
        with Usage([other.pid]) as usage:
            other.stdout.readline()
        other.kill()
    own, both = usage.taken["own_cpu_ns"], usage.taken["cpu_ns"]
    assert own is not None
    assert both is not None
    assert both > own


def test_children_that_have_ended_count() -> None:
    with Usage([]) as usage:
        subprocess.run([sys.executable, "-S", "-c", BURN], check=True)
    own, both = usage.taken["own_cpu_ns"], usage.taken["cpu_ns"]
    assert own is not None
    assert both is not None
    assert both - own >= 40_000_000
