"""Figures and criteria of made-up samples."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.criteria import judge
from bench.core.statistics import percentile
from bench.micro.options import Options
from bench.micro.report.criteria import SIXTEEN, criteria
from bench.micro.report.figures import CURVE, Batch, Idle, Measured, curve
from bench.micro.timing import KEPT, thinned
from tests.bench.support.micro import MIB, SMALL, batch, measured, options, window


def judged_of(made: Measured, chosen: Options | None = None) -> list[dict[str, Any]]:
    return judge(criteria(chosen or options()), made)


def by_name(judged: list[dict[str, Any]], part: str) -> dict[str, Any]:
    (found,) = [entry for entry in judged if part in entry["title"]]
    return found


def seen(entry: dict[str, Any]) -> Any:
    """The figure of a criterion, of a spread its median."""
    return entry["seen"]["median"] if isinstance(entry["seen"], dict) else entry["seen"]


def test_a_batch_has_percentiles_mean_and_bandwidth() -> None:
    made = Batch("pipe", "idle", 2 * MIB, 0, 4, 2_500_000, [1_000_000, 2_000_000, 3_000_000, 4_000_000])
    assert (made.p50_us, made.p99_us) == (2500, pytest.approx(3970))
    assert (made.mean_us, made.mib_s) == (2500, pytest.approx(2 / 0.0025))


def test_a_window_has_calls_per_second_and_processor_time_per_call() -> None:
    made = window("pipe", 1000)
    assert (made.calls_s, made.cpu_us_per_call) == (10_000, 10)
    assert window("pipe", 0).cpu_us_per_call is None


def test_a_batch_has_processor_time_per_call_where_it_was_read() -> None:
    made = batch("pipe", 20)
    assert (made.cpu_us_per_call, made.own_cpu_us_per_call) == (20, 10)
    bare = replace(made, cpu_ns=None, own_cpu_ns=None)
    assert (bare.cpu_us_per_call, bare.own_cpu_us_per_call) == (None, None)


def test_idle_time_is_a_share_of_a_core() -> None:
    assert Idle("shm", 4, 10.0, 20_000_000).percent == pytest.approx(0.2)


def test_a_curve_is_that_of_all_rounds_together() -> None:
    values = curve([batch("a", 10), batch("a", 20, round_=1)])
    assert len(values) == len(CURVE)
    assert (values[0], values[-1]) == (10, 20)
    assert values == sorted(values)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_few_samples_are_only_sorted(samples: list[int]) -> None:
    assert thinned(samples) == sorted(samples)


def test_thinning_keeps_ends_and_percentiles() -> None:
    chance = random.Random(5)
    samples = [round(chance.paretovariate(1.5) * 1000) for _ in range(100_000)]
    ordered, kept = sorted(samples), thinned(samples)
    assert len(kept) == KEPT
    assert (kept[0], kept[-1]) == (ordered[0], ordered[-1])
    for q in (1, 50, 90, 99):
        assert percentile(kept, q) == pytest.approx(percentile(ordered, q), rel=0.01)


FAST = {
    "ring": 8.0, "shm": 10.0, "shm-same": 10.0, "acall": 8.0, "pipe": 50.0, "pipe-own": 60.0, "executor": 300.0,
    "gunicorn": 700.0, "stdio": 150.0, "view": 100.0, "view-offload": 105.0, "shm-io": 12.0, "shm-same-io": 12.5,
    "shm-4": 10.0, "shm-8": 10.0, "shm-park": 20.0, "shm-same-park": 40.0,
}  # fmt: skip


def test_criteria_are_reached_by_a_fast_client() -> None:
    judged = judged_of(measured(**FAST))
    for part, value in (
        ("of shm / ring", 1.25),
        ("of pipe-own / shm", 6.0),
        ("of pipe / shm-same", 5.0),
        ("p50 of executor / shm", 30.0),
        ("of gunicorn / shm", 70.0),
        ("one core busy, 64 B: p50 of shm / pipe-own", 1 / 6),
        ("one core busy, 64 B: mean of shm / pipe-own", 1 / 6),
        ("every core busy, 64 B: p99 of shm-same / pipe", 0.2),
        ("one core busy, 64 B: p50 of shm-io / pipe-own", 0.2),
        ("every core busy, 64 B: mean of shm-same-io / pipe", 0.25),
        ("one core busy, 64 B: mean of shm / shm-park", 0.5),
        ("every core busy, 64 B: p99 of shm-same / shm-same-park", 0.25),
        ("of shm / executor, 16 threads", 30.0),
        ("of shm / pipe-own, 16 threads", 6.0),
        ("of shm-same / pipe, 4 processes", 5.0),
        ("of acall, 64 tasks / shm, 16 threads", 1.25),
        ("processor time of a call", 10.0),
        ("empty view / not: the server's process", 1.05),
        ("empty view / not: server and worker", 1.05),
        ("at 1 MiB", 5.0),
    ):
        entry = by_name(judged, part)
        assert seen(entry) == pytest.approx(value, rel=0.02), part
        assert entry["reached"] is True, part
    for peer in ("shm", "shm-4", "shm-8"):
        assert seen(by_name(judged, f"time of client and worker, {peer},")) == pytest.approx(0.1)


def test_large_payloads_are_judged_as_bytes_against_bytes() -> None:
    """Packed, shm is the slower one here; only what travels as it is counts."""
    made = measured(**FAST)
    made.batches = [each for each in made.batches if each.size == SMALL or each.peer.endswith("-raw")]
    made.batches += [batch("shm", 9000, size=MIB), batch("pipe", 1000, size=MIB)]
    assert seen(by_name(judged_of(made), "at 1 MiB, bytes as they are")) == pytest.approx(5)
    made.batches = [each for each in made.batches if each.peer != "pipe-raw"]
    assert by_name(judged_of(made), "at 1 MiB")["seen"] is None


def test_criteria_are_missed_by_a_slow_client() -> None:
    slow = {
        "shm": 900.0,
        "shm-same": 900.0,
        "shm-io": 900.0,
        "shm-same-io": 900.0,
        "acall": 9000.0,
        "view-offload": 200.0,
    }
    judged = judged_of(measured(**(FAST | slow)))
    # What is no matter of speed is reached.
    assert [entry["name"] for entry in judged if entry["reached"]] == [
        "cpu_shm",
        "idle_cpu_shm",
        "idle_cpu_shm-4",
        "idle_cpu_shm-8",
        "idle_cpu_stdio",
    ]


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    judged = judged_of(Measured())
    assert {entry["reached"] for entry in judged} == {None}
    assert {entry["seen"] for entry in judged} == {None}


def test_a_figure_at_its_limit_is_reached() -> None:
    judged = judged_of(measured(**{"shm": 50.0, "shm-io": 50.0, "pipe-own": 50.0}))
    busy = [entry for entry in judged if "busy" in entry["title"] and "pipe-own" in entry["title"]]
    assert {entry["reached"] for entry in busy} == {True}
    assert len(busy) == 12


def test_only_rounds_that_both_took_part_in_count() -> None:
    made = measured(rounds=3, **FAST)
    made.batches = [each for each in made.batches if each.peer != "gunicorn" or each.round == 2]
    assert len(by_name(judged_of(made), "of gunicorn / shm")["seen"]["rounds"]) == 1


def test_there_is_a_criterion_for_each_large_size() -> None:
    made = list(criteria(options(sizes=(SMALL, MIB, 4 * MIB))))
    names = [each.title for each in made]
    assert len({each.name for each in made}) == len(made)
    assert [name for name in names if "bytes per second" in name] == [
        "bytes per second of shm / pipe at 1 MiB, bytes as they are",
        "bytes per second of shm / pipe at 4 MiB, bytes as they are",
    ]
    assert any(SIXTEEN.name in name for name in names)
