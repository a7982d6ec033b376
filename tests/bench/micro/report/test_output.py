"""Reports of the micro benchmark: from a results document alone, whole files or none."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.core.cpu import Surroundings
from bench.micro.options import CONDITIONS
from bench.micro.peers.table import PEERS
from bench.micro.report import output
from bench.micro.report.figures import Measured
from bench.micro.report.output import report_of
from bench.micro.report.plots import picture
from bench.micro.report.tables import tables
from tests.bench.support.micro import MIB, batch, document, measured, options
from tests.bench.support.reports import in_file, on_terminal

FAST = {"ring": 5.0, "shm": 10.0, "pipe": 50.0, "executor": 300.0}
WHOLE = FAST | {"shm-same": 20.0, "pipe-own": 40.0, "acall": 10.0, "view": 100.0, "view-offload": 105.0}


def test_tables_are_whole_and_tell_everything() -> None:
    report = report_of(document(measured(**WHOLE)))
    assert report.criteria is not None
    made = [*report.tables, report.criteria]
    titles = [table.title for table in made]
    for part in (
        "Peers", "64 B, an idle machine", "64 B, one core", "64 B, every core", "64 B, a quota", "what a call took",
        "by size", "there and back", "processes: calls/s", "loop: calls/s", "us/call", "nobody had", "Django request",
        "Nothing asked", "Criteria",
    ):  # fmt: skip
        assert any(part in title for title in titles), part
    for table in made:
        assert table.rows, table.title
        assert all(len(row) == len(table.columns) for row in table.rows), table.title


def test_latency_stands_beside_the_references_within_rounds() -> None:
    (latency,) = [
        t for t in tables(document(measured(**FAST))) if t.title == "One caller, 64 B, an idle machine"
    ]
    cells = dict(zip(latency.columns, next(row for row in latency.rows if row[0] == "executor"), strict=True))
    assert (cells["p50 us"], cells["p50 / ring"]) == ("450 (300-600)", "60.0")
    assert (cells["p50 / pipe"], cells["p99 / pipe"], cells["mean / pipe"]) == ("6.00", "6.00", "6.00")
    assert cells["p50 / shm"] == "-"  # shm-same stands for it, and took no part


def test_like_stands_beside_like() -> None:
    made = document(measured(**WHOLE))
    (latency,) = [
        t for t in tables(made) if t.title.startswith("One caller, 64 B, one core") and "took" not in t.title
    ]
    cells = {line[0]: dict(zip(latency.columns, line, strict=True)) for line in latency.rows}
    assert (cells["shm"]["p50 / pipe"], cells["shm-same"]["p50 / pipe"]) == ("0.25", "0.40")
    assert (cells["acall"]["p50 / shm"], cells["executor"]["p50 / shm"]) == ("1.00", "15.0")


@pytest.mark.parametrize("words", [CONDITIONS[name] for name in ("idle", "one", "all", "quota")])
def test_what_a_call_took_is_told_under_every_condition(words: str) -> None:
    title = f"One caller, 64 B, {words}: what a call took"
    (took,) = [t for t in tables(document(measured(rounds=1, **FAST))) if t.title == title]
    assert next(line for line in took.rows if line[0] == "pipe") == ("pipe", "50.0", "25.0", "25.0")


def test_peers_of_few_rounds_are_held_against_the_same_rounds() -> None:
    made = measured(rounds=3, **FAST)
    made.batches = [each for each in made.batches if each.peer != "executor" or each.round == 2]
    (latency,) = [t for t in tables(document(made)) if t.title == "One caller, 64 B, an idle machine"]
    cells = dict(zip(latency.columns, next(row for row in latency.rows if row[0] == "executor"), strict=True))
    assert cells["p50 / pipe"] == "6.00"


def test_a_condition_that_was_not_measured_is_a_warning() -> None:
    (warning,) = document(measured(**FAST), left_out={"quota": "no control group"})["warnings"]
    assert warning == "quota was not measured: no control group."


def test_raw_rows_stand_beside_raw_references_and_come_first() -> None:
    made = measured(**FAST)
    made.batches = [each for each in made.batches if each.peer != "shm-raw"]
    made.batches += [batch("shm-raw", 200 * (1 + number), size=MIB, round_=number) for number in range(2)]
    (table,) = [t for t in tables(document(made)) if "there and back" in t.title]
    cells = {line[0]: dict(zip(table.columns, line, strict=True)) for line in table.rows}
    assert list(cells) == ["ring-raw", "shm-raw", "pipe-raw", "ring", "shm", "pipe", "executor"]
    assert {name: line["payload"] for name, line in cells.items()} == {
        "ring-raw": "as it is", "shm-raw": "as it is", "pipe-raw": "as it is",
        "ring": "msgpack", "shm": "msgpack", "pipe": "msgpack", "executor": "pickle",
    }  # fmt: skip
    assert (cells["shm-raw"]["/ pipe"], cells["shm"]["/ pipe"]) == ("10.0", "5.00")


def test_a_scheduler_that_shares_by_session_is_a_warning_on_busy_cores() -> None:
    (warning,) = document(measured(**FAST), by_session=True)["warnings"]
    assert "sessions (autogroup)" in warning
    assert document(measured(**FAST), by_session=True, chosen=options(conditions=("idle",)))["warnings"] == []


def test_a_p99_of_few_calls_on_busy_cores_is_a_warning() -> None:
    made = measured(**FAST)
    made.batches.append(replace(batch("pipe", 9, condition="all", round_=7), calls=40))
    made.batches.append(replace(batch("pipe", 9, condition="idle", round_=7), calls=40))
    (warning,) = document(made)["warnings"]
    assert warning.endswith("few calls in a batch: pipe (40).")


def test_what_did_not_run_is_named_with_the_reason() -> None:
    made = document(measured(**FAST), not_run={"zmq": "zmq isn't installed"})
    assert (made["errors"], made["peers"]["zmq"]["not_run"]) == ([], "zmq isn't installed")
    assert "| zmq isn't installed |" in in_file(report_of(made))
    assert set(made["peers"]) == set(PEERS)


def test_what_failed_is_an_error_in_front() -> None:
    made = document(measured(**FAST), not_run={"zmq": "it broke"}, failed={"zmq": "it broke"})
    text = in_file(report_of(made))
    assert text.index("There were errors") < text.index("zmq failed: it broke") < text.index("Criteria")
    text = on_terminal(report_of(made))
    assert text.startswith("THERE WERE ERRORS")
    assert text.index("zmq failed: it broke") < text.index("Peers")


def test_other_programs_few_rounds_and_what_had_to_be_killed_are_warnings() -> None:
    made = document(
        measured(**FAST),
        surroundings={"idle": Surroundings(10, 40, 0), "one": Surroundings(10, 1, 30)},
        left_over=["17 pebble"],
        chosen=options(rounds=1),
    )
    assert [warning.split(" ")[0] for warning in made["warnings"]] == ["Other", "The", "1", "Processes"]
    assert document(measured(**FAST))["warnings"] == []


def test_criteria_come_first_in_the_file_and_last_on_the_terminal() -> None:
    made = document(measured(**FAST))
    shown = on_terminal(report_of(made))
    assert shown.index("Peers") < shown.index("Criteria")
    text = in_file(report_of(made))
    assert text.index("## Criteria") < text.index("## Peers")
    assert "NOT reached" in text
    assert "not measured" in text  # gunicorn took no part


def test_the_report_and_the_picture_of_nothing_can_be_made() -> None:
    made = document(Measured(), not_run=dict.fromkeys(PEERS, "nothing works"))
    assert "nothing works" in in_file(report_of(made))
    assert ElementTree.fromstring(picture(made)).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_picture_is_repeatable_and_has_conditions_and_tasks() -> None:
    made = document(measured(**WHOLE))
    assert picture(made) == picture(made)
    for part in ("a quota of one processor", "every core", "tasks that call at once", ">acall<"):
        assert part in picture(made), part


def test_all_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    written = output.write(document(measured(**FAST)), tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        f"micro_20260102T030405Z.{kind}" for kind in ("json", "md", "svg")
    }
    svg, md, data = written
    assert json.loads(data.read_text(encoding="utf-8"))["schema_version"] == 3
    assert f"({svg.name})" in md.read_text(encoding="utf-8")
