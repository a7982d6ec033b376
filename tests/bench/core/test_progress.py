"""What the user sees while a benchmark runs."""

import io

from rich.console import Console

from bench.core.progress import Reporter, console_for


def test_progress_without_a_terminal_is_plain_lines() -> None:
    stream = io.StringIO()
    with Reporter(console_for(stream)) as reporter:
        reporter.expect(100)
        reporter.stage("starting [3] servers")
        reporter.running("not told")
        reporter.done(20)
        reporter.done(20, "closed loop, round 1: offload: 12 req/s")
        reporter.done(90, "more than planned")
    assert stream.getvalue().splitlines() == [
        "starting [3] servers",
        "[ 40%, 1:00 left] closed loop, round 1: offload: 12 req/s",
        "[100%, 0:00 left] more than planned",
    ]


def test_progress_on_a_terminal_keeps_results_and_takes_its_bar_down() -> None:
    stream = io.StringIO()
    with Reporter(Console(file=stream, force_terminal=True, width=100, highlight=False)) as reporter:
        reporter.expect(2)
        reporter.running("pipe [64]")
        reporter.done(1)
        reporter.stage("offload")
        reporter.done(1, "a result")
    for text in ("pipe [64]", "offload", "50%, 0:01 left", "a result"):
        assert text in stream.getvalue()
