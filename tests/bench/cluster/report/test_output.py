"""Reports of the benchmark of several hosts: from a results document alone."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from bench.cluster.figures import Measured
from bench.cluster.options import Options
from bench.cluster.report import output
from bench.cluster.report.output import report_of
from bench.cluster.report.plots import picture
from bench.cluster.report.tables import tables
from bench.cluster.rows import ROWS
from bench.core.cpu import Surroundings
from bench.core.tables import Table
from bench.scripts import report as script
from tests.bench.support.cluster import USUAL, document, goodput, measured
from tests.bench.support.reports import in_file, on_terminal


def of(made: dict[str, object], title: str) -> Table:
    (table,) = [table for table in tables(made) if title in table.title]
    assert all(len(row) == len(table.columns) for row in table.rows)
    return table


def test_rows_stand_beside_bare_nats_in_a_table_for_each_place() -> None:
    made = document(measured(**USUAL))
    cells = {row[0]: dict(zip(of(made, "over loopback").columns, row, strict=True))
             for row in of(made, "over loopback").rows}  # fmt: skip
    assert list(cells) == ["nats", "nats-uvloop", "call", "acall", "ray", "celery"]
    assert cells["call"]["p50 us"] == "420 (280-560)"
    assert cells["call"]["p50 / bare NATS"] == "1.40 (1.40-1.40)"
    assert cells["call"]["calls/s, 1 caller"] == cells["call"]["calls/s, 16 callers"]
    assert of(made, "without a network").rows[0][-1] == "0.05 (0.05-0.05)"
    assert "of 0.2 ms each way" in of(made, "another network namespace").title


def test_goodput_stands_beside_one_pool_and_the_capacity() -> None:
    table = of(document(measured(**USUAL)), "Goodput with overflow")
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["in time/s"] for row in cells] == ["98.0 (98.0-98.0)", "193 (193-193)", "288 (288-288)"]
    assert [row["capacity"] for row in cells] == ["100", "200", "300"]
    assert cells[2]["/ one pool"] == "2.94 (2.94-2.94)"
    ended = of(document(measured()), "How the calls of goodput ended")
    assert (ended.columns, ended.rows[0]) == (("pools", "busy", "in_time"), ("1", "5040", "1960"))


def test_criteria_are_judged() -> None:
    reached = {each["name"]: each["reached"] for each in document(measured(**USUAL))["criteria"]}
    assert {name for name, is_reached in reached.items() if not is_reached} == {"p50_call_nats_uvloop"}
    slow = document(measured(of_pools=800, nats=200.0, call=310.0, acall=290.0, ray=300.0))["criteria"]
    assert {each["name"]: each["reached"] for each in slow} == {
        "p50_call_nats": False, "p50_acall_nats": True, "p50_call_ray": False, "p50_call_celery": None,
        "p50_call_nats_uvloop": None,
        "goodput_pools": False,
    }  # fmt: skip


def test_what_did_not_run_is_named_with_the_reason_and_has_no_figures() -> None:
    figures = {name: us for name, us in USUAL.items() if name != "ray"}
    made = document(measured(**figures), not_run={"ray": "ray isn't installed"})
    assert made["errors"] == []
    assert "| ray isn't installed |" in in_file(report_of(made))
    assert "ray" not in [row[0] for row in of(made, "over loopback").rows]


def test_what_failed_is_an_error_in_front_and_goodput_tells_why_it_is_missing() -> None:
    made = document(Measured(), not_run={"goodput": "it broke"}, failed={"goodput": "it broke"})
    assert on_terminal(report_of(made)).startswith("THERE WERE ERRORS")
    assert "Goodput was not measured: it broke" in in_file(report_of(made))


def test_what_makes_figures_doubtful_is_a_warning() -> None:
    made = measured(**USUAL)
    made.runs += [replace(goodput(3, 1000), behind_ms=80.0), goodput(1, 850)]
    warnings = document(
        made,
        surroundings={"calls": Surroundings(10, 40, 30)},
        left_over=["17 celery"],
        chosen=Options(rounds=1),
    )["warnings"]
    assert [warning.split(" ")[0] for warning in warnings] == ["Other", "The", "1", "The", "One", "Processes"]
    assert document(measured(**USUAL))["warnings"] == []


def test_the_report_and_the_picture_of_nothing_can_be_made() -> None:
    for chosen in (Options(), Options(calls=False), Options(goodput=False)):
        made = document(Measured(), not_run=dict.fromkeys(ROWS, "nothing works"), chosen=chosen)
        assert "not measured" in in_file(report_of(made))
        assert ElementTree.fromstring(picture(made)).tag == "{http://www.w3.org/2000/svg}svg"


def test_all_files_are_written_and_can_be_made_anew(tmp_path: Path) -> None:
    made = document(measured(**USUAL))
    svg, md, data = output.write(made, tmp_path)
    assert [path.name for path in (svg, md, data)] == [
        f"cluster_20260102T030405Z.{kind}" for kind in ("svg", "md", "json")
    ]
    assert json.loads(data.read_text(encoding="utf-8"))["kind"] == "molt-accel cluster benchmark"
    before = svg.read_text(encoding="utf-8"), md.read_text(encoding="utf-8")
    svg.unlink()
    assert script.main([str(data)]) == 0
    assert (svg.read_text(encoding="utf-8"), md.read_text(encoding="utf-8")) == before
