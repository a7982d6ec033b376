"""Reading the demo's metrics rows."""

import json
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from bench.demo.load.worker_metrics import MetricsFile, MetricsSample, pooled


def row(**fields: object) -> bytes:
    return json.dumps({"status": "Ok", "endpoint": "offload", **fields}).encode() + b"\n"


def test_figures_of_rows() -> None:
    sample = MetricsSample()
    for queue in range(101):
        sample.add_line(row(queue_us=queue, queue_depth=2, executor=1))
    summary = sample.as_json()
    assert (summary["rows"], summary["statuses"]) == (101, {"Ok": 101})
    assert summary["endpoints"] == {"offload": 101}
    assert summary["queue_us"] == {"count": 101, "mean": 50, "p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert summary["queue_depth"]["p95"] == 2
    assert "exec_us" not in summary


def test_lines_that_are_no_rows_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(row(exec_us=1) + b'{"exec_us": 2, "sta\n' + b"\xff\xfe\n[1]\n\n7\n" + row(exec_us=3))
    sample = MetricsFile(path).read_new()
    assert (sample.rows, sample.bad_lines) == (2, 4)
    assert sample.values["exec_us"] == [1, 3]


def test_values_that_are_no_numbers_are_left_out() -> None:
    sample = MetricsSample()
    sample.add_line(row(queue_us="5", exec_us=None, handler_us=True, decode_us=4))
    assert sample.values == {"decode_us": [4]}


def test_slices_begin_where_the_last_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = MetricsFile(path)
    assert reader.read_new().rows == 0
    path.write_bytes(row(exec_us=1))
    assert reader.read_new().values["exec_us"] == [1]
    with path.open("ab") as file:
        file.write(row(exec_us=2) + row(exec_us=3)[:20])
    assert reader.read_new().values["exec_us"] == [2]
    with path.open("ab") as file:
        file.write(row(exec_us=3)[20:])
    assert reader.read_new().values["exec_us"] == [3]
    assert reader.read_new().rows == 0


def test_a_torn_end_is_counted_when_nothing_follows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(row() + b'{"torn')
    reader = MetricsFile(path)
    assert reader.read_new().bad_lines == 0
    assert reader.read_new(last=True).bad_lines == 1


def test_pooling_keeps_every_row() -> None:
    first, second = MetricsSample(), MetricsSample()
    first.add_line(row(exec_us=1))
    second.add_line(row(exec_us=9))
    second.add_line(b"torn")
    whole = pooled([first, second])
    assert (whole.rows, whole.bad_lines, whole.values["exec_us"]) == (2, 1, [1, 9])
    assert first.values["exec_us"] == [1]


@given(st.binary(max_size=200))
def test_no_line_is_fatal(line: bytes) -> None:
    sample = MetricsSample()
    sample.add_line(line)
    assert sample.rows + sample.bad_lines == 1
    sample.as_json()


@example(1.79765e308)
@example(10**400)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
)
def test_no_value_is_fatal(value: object) -> None:
    sample = MetricsSample()
    sample.add_line(json.dumps({"queue_us": value, "status": value, "endpoint": value}).encode())
    sample.as_json()
