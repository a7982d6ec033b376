"""The loops that measure."""

import threading
import time

import pytest

from bench.micro import timing


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
    assert sorted(timing.latency(echo, 1, calls=4, limit_s=60, pause_s=0.05))[1] < 40_000_000


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
    start = time.monotonic_ns()
    assert timing.throughput(lambda _: time.sleep(0.05), 1, threads=2, start_at_ns=start, window_s=0.01) == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_call_raises_ends_the_window(threads: int) -> None:
    def call(_: object) -> object:
        raise LookupError("nobody there")

    with pytest.raises(LookupError, match="nobody there"):
        timing.throughput(call, 1, threads=threads, start_at_ns=time.monotonic_ns(), window_s=60)
