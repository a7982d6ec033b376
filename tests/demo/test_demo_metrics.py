"""The metrics file: whole lines from threads and forked processes, and no request fails for its sake."""

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from demo.django_app import metrics
from demo.django_app.metrics import JsonLines
from molt_accel.options import CallMetrics
from tests.support.processes import exit_code, fork, in_thread

LONG = "x" * 3000


def rows_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_without_a_path_nothing_happens() -> None:
    JsonLines("").write({"a": 1})


def test_a_row_is_a_line_behind_those_that_were_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"old":1}\n', encoding="utf-8")
    sink = JsonLines(str(path))
    sink.write({"entry": "café\nnew line", "us": 1.5})
    sink.reset()
    sink.write({"again": True})
    sink.reset()
    assert rows_of(path) == [{"old": 1}, {"entry": "café\nnew line", "us": 1.5}, {"again": True}]


def test_lines_of_threads_and_forked_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(str(path))
    sink.write({"writer": "parent", "number": 0})
    descriptor = sink._descriptor

    def write(writer: str) -> None:
        for number in range(100):
            sink.write({"writer": writer, "number": number, "long": LONG})

    def write_in_child(writer: str) -> None:
        sink.reset()
        assert sink._descriptor == -1
        write(writer)

    children = [fork(functools.partial(write_in_child, f"child {child}")) for child in range(4)]
    threads = [in_thread(write, f"thread {number}") for number in range(4)]
    for thread in threads:
        thread.join()
    assert [exit_code(pid) for pid in children] == [0] * 4
    assert sink._descriptor == descriptor
    sink.reset()

    rows = rows_of(path)[1:]
    writers = [f"{kind} {number}" for kind in ("child", "thread") for number in range(4)]
    assert len(rows) == 800
    assert all(row["long"] == LONG for row in rows)
    for writer in writers:
        assert [row["number"] for row in rows if row["writer"] == writer] == list(range(100))


def test_a_forked_child_forgets_the_views_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The instance that the fork handler was registered with, given a file for the length of this test.
    monkeypatch.setattr(metrics.SINK, "path", str(tmp_path / "metrics.jsonl"))
    metrics.SINK.write({"from": "parent"})
    held = metrics.SINK._lock

    def write_in_child() -> None:
        assert metrics.SINK._descriptor == -1
        metrics.SINK.write({"from": "child"})

    with held:  # as if another thread were just opening the file
        pid = fork(write_in_child)
    assert exit_code(pid) == 0
    metrics.SINK.reset()
    assert rows_of(tmp_path / "metrics.jsonl") == [{"from": "parent"}, {"from": "child"}]


def test_failures_are_logged_once_and_raise_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = JsonLines(str(tmp_path / "nowhere" / "metrics.jsonl"))
    with caplog.at_level(logging.ERROR, "demo.metrics"):
        sink.write({"a": 1})
        sink.write({"a": 2})
    assert [record.getMessage() for record in caplog.records] == [
        f"MOLT_DEMO_METRICS_PATH: can't append to {sink.path!r}: No such file or directory"
    ]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_logged_once_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sink = JsonLines("/dev/full")
    with caplog.at_level(logging.ERROR, "demo.metrics"):
        sink.write({"a": 1})
        sink.write({"a": 2})
    sink.reset()
    assert [record.getMessage() for record in caplog.records] == [
        "MOLT_DEMO_METRICS_PATH: can't append to '/dev/full': No space left on device"
    ]


def test_a_short_write_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = JsonLines(str(tmp_path / "metrics.jsonl"))
    monkeypatch.setattr(os, "write", lambda descriptor, line: 3)
    with caplog.at_level(logging.ERROR, "demo.metrics"):
        sink.write({"a": 1})
    assert "only 3 of 8 bytes were taken" in caplog.text
    sink.reset()


def test_the_hook_writes_metrics_under_its_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonLines(str(tmp_path / "metrics.jsonl"))
    monkeypatch.setattr(metrics, "SINK", sink)
    call = CallMetrics("list_items", "Ok", "00000000000000ff", 1_700_000_000_000, queue_us=1500, exec_us=2500)
    metrics.recorder("offload")(call)
    sink.reset()
    (row,) = rows_of(tmp_path / "metrics.jsonl")
    assert row == {"endpoint": "offload", **call.as_dict()}
    assert (row["queue_ms"], row["exec_ms"], row["status"]) == (1.5, 2.5, "Ok")
