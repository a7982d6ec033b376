"""What perf writes is read, and what it could not count is said."""

from pathlib import Path

import pytest

from bench.attribution import counters
from bench.attribution.counters import EVENTS, Counting, parsed
from bench.core import BenchError

TEXT = "\n".join(f"{number}.5,,{event},1000,100.00,," for number, event in enumerate(EVENTS.values()))


def test_each_event_has_its_count() -> None:
    assert parsed(f"# started\n\n{TEXT}\n") == {name: number + 0.5 for number, name in enumerate(EVENTS)}


@pytest.mark.parametrize("count", ["<not supported>", "<not counted>"])
def test_an_event_that_could_not_be_counted_is_named(count: str) -> None:
    with pytest.raises(
        BenchError, match=r"perf can't count context-switches here: <not .*; it may need root"
    ):
        parsed(TEXT.replace("5.5,,", f"{count},,", 1))


def test_an_event_that_perf_does_not_know_is_named_with_what_perf_says() -> None:
    with pytest.raises(BenchError, match=r"perf counted no cpu_ms, .*write.*unknown tracepoint"):
        parsed("event syntax error: unknown tracepoint")


def test_without_perf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda _: None)
    with pytest.raises(BenchError, match="linux-perf"):
        Counting([1])


def test_waiting_for_a_processor_is_the_sum_of_all_threads(tmp_path: Path) -> None:
    for pid, thread, text in ((7, 7, "900 1000000 5"), (7, 8, "900 500000 5"), (9, 9, "1 250000 1")):
        (tmp_path / f"{pid}/task/{thread}").mkdir(parents=True)
        (tmp_path / f"{pid}/task/{thread}/schedstat").write_text(text)
    assert counters.ready_ms([7, 9], tmp_path) == 1.75


@pytest.mark.parametrize("text", [None, "", "900 soon 5"])
def test_a_kernel_that_does_not_tell_of_waiting_is_an_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "7/task/7").mkdir(parents=True)
        (tmp_path / "7/task/7/schedstat").write_text(text)
    with pytest.raises(BenchError, match="how long threads wait for a processor"):
        counters.ready_ms([7], tmp_path)
