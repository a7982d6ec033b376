"""Reports: errors in front of the figures, whole files or none."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.core.criteria import judge
from bench.demo.load.servers import StopReport
from bench.demo.report import html, output, plots
from bench.demo.report.criteria import CRITERIA
from bench.demo.report.output import report_of
from bench.demo.report.tables import tables
from bench.scripts import report
from tests.bench.support.demo import document, load, run, whole, with_everything
from tests.bench.support.reports import in_file, on_terminal


def test_errors_stand_in_front_of_the_figures() -> None:
    text = in_file(report_of(whole(failed={"unavailable_503": 50})))
    told = text.index("offload (closed loop): ")
    assert "50 unavailable_503" not in text[:told]
    assert told < text.index("times the requests per second")
    assert told < text.index("| scenario")
    assert "There were errors" in text[:told]


def test_a_clean_report_speaks_of_no_errors() -> None:
    assert "There were errors" not in in_file(report_of(whole()))


def test_errors_stand_in_front_on_the_console() -> None:
    text = on_terminal(report_of(whole(failed={"timeout_504": 3})))
    assert text.index("THERE WERE ERRORS") < text.index("timeout_504") < text.index("req/s")


def test_headlines_name_processes_ratio_and_range() -> None:
    first, second, third = output.headlines(whole())
    assert first == (
        "offload (6 processes) against baseline-threads (2 processes): "
        "1.55 (1.50-1.60) times the requests per second in the closed loop, "
        "1.29 (1.25-1.33) times the processor time per request, "
        "0.50 (0.50-0.50) times the p95 latency at 60 requests/s."
    )
    against = "offload (6 processes) against baseline-cores (2 processes): "
    assert second.startswith(f"{against}0.97 (0.94-1.00) times")
    assert third.startswith("data-offload (6 processes) against data-baseline")


def test_tables_tell_layout_load_usage_ratios_and_metrics() -> None:
    titles = [table.title for table in tables(whole())]
    parts = ("what ran", "closed loop (", "open loop (constant arrival rate), 60", "memory, closed loop")
    for part in parts:
        assert any(part in title for title in titles), part
    for table in tables(whole()):
        assert table.rows, table.title
        assert all(len(row) == len(table.columns) for row in table.rows), table.title


def test_the_layout_tells_how_many_workers_there_are() -> None:
    runs = [run(name, load(1)) for name in ("baseline-threads", "offload", "offload-cores", "offload-stdio")]
    shared, own = {"transport": "shm"}, {"transport": "stdio"}
    made = document(runs, workers={"offload": shared, "offload-cores": own, "offload-stdio": own})
    cores = made["options"]["cores"]
    table = next(table for table in tables(made) if "what ran" in table.title)
    at = table.columns.index("workers x executors")
    assert [row[at] for row in table.rows] == ["-", "1 x 2", f"{cores} x 2", "1 x 2"]


def test_a_report_of_nothing_good_still_renders() -> None:
    made = document([run("offload", load(0, failed={"status": 4}), rows=0), run("baseline-threads", load(0))])
    text = in_file(report_of(made))
    assert "100.000%" in text
    assert "none was answered" in text


def test_markdown_cells_keep_their_table() -> None:
    made = whole()
    made["errors"] = ["a | b\nc"]
    assert "- **a \\| b c**" in in_file(report_of(made))


def test_the_log_of_what_failed_is_kept() -> None:
    made = document([run("offload", load(1, failed={"status": 1}))], logs={"offload": "Traceback\n~~~ oh"})
    text = in_file(report_of(made))
    assert "## Log of offload, which had errors\n\n~~~\nTraceback\n~ ~ ~ oh\n~~~\n" in text


def test_what_remains_is_told() -> None:
    made = document([run("offload", load(1))], stopped=[StopReport(remaining=["17"])])
    assert "Processes remain after the stop: 17." in in_file(report_of(made))


def test_the_document_is_json_and_names_its_schema() -> None:
    made = json.loads(json.dumps(whole()))
    assert made["schema_version"] == 4
    assert made["configuration"]["fake_database"] == {
        "delay_ms": "3",
        "decode_us_per_row": "0",
        "cpu_iters": "0",
    }
    entry = made["scenarios"]["offload"]
    for name in ("req_s", "p50_ms", "p95_ms", "p99_ms", "p999_ms", "error_rate", "bytes_received"):
        assert entry["closed"][name] is not None, name
    for part in ("server", "worker"):
        assert set(entry["closed"][part]) >= {"cpu_percent", "rss_mib", "processes", "samples"}
    assert set(entry["closed"]["worker_metrics"]["queue_us"]) >= {"p50", "p95"}
    assert len(entry["runs"]) == 4


@pytest.mark.sample(1)
@pytest.mark.parametrize("make", [whole, lambda: document([run("offload", load(0))])], ids=["whole", "none"])
def test_the_picture_is_svg_and_repeatable(make: Callable[[], dict[str, Any]]) -> None:
    first = plots.picture(make())
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    assert first == plots.picture(make())


def test_all_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    svg, md, _, data = output.write(whole(), tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {f"demo_k6_20260102T030405Z.{kind}" for kind in ("json", "md", "svg", "html")}
    text = data.read_text(encoding="utf-8")
    assert json.loads(text)["schema_version"] == 4
    assert text.count("\n") == 1
    assert f"({svg.name})" in md.read_text(encoding="utf-8")


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(html, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        output.write(whole(), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Page:
    """The addresses that a page names, its texts, and the names and ids of its elements."""

    def __init__(self, text: str) -> None:
        self.addresses = re.findall(r'\s(?:src|(?:xlink:)?href|action|data)="([^"]*)"', text)
        self.names = re.findall(r"<(\w+)", text)
        self.ids = re.findall(r'\sid="([^"]*)"', text)
        self.words = unescape(re.sub(r"<[^>]*>", "", text))


@pytest.mark.sample(1)
@pytest.mark.parametrize("make", [whole, with_everything])
def test_the_page_needs_nothing_else(make: Callable[[], dict[str, Any]]) -> None:
    page = Page(html.render(report_of(make())))
    assert not [address for address in page.addresses if not address.startswith("#")]
    assert not {"script", "link", "iframe", "img"} & set(page.names)
    assert page.names.count("svg") == len(list(plots.plots(make())))
    assert len(page.ids) == len(set(page.ids))
    assert {address.removeprefix("#") for address in page.addresses} <= set(page.ids)


def test_the_page_shows_all_tables_and_sentences() -> None:
    made = with_everything()
    page = Page(html.render(report_of(made)))
    for title in [table.title for table in tables(made)]:
        assert title in page.words
    for sentence in output.headlines(made):
        assert sentence in page.words
    assert "NOT reached" in page.words


def test_the_page_escapes_and_tells_errors_first() -> None:
    made = whole(failed={"timeout_504": 3})
    made["warnings"] = ["<b>warning</b>"]
    text = html.render(report_of(made))
    assert "&lt;b&gt;warning" in text
    assert text.index("There were errors") < text.index("<figure")


def test_every_study_has_a_plot() -> None:
    made = with_everything()
    drawn = list(plots.plots(made))
    titles = {section["title"] for section in made["studies"].values()} | {"Where the gain comes from"}
    assert titles <= {plot.title for plot in drawn}
    for plot in drawn:
        assert ElementTree.fromstring(plot.svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert plot.text


def test_criteria_are_judged_by_what_was_seen() -> None:
    found = {entry["name"]: entry["reached"] for entry in with_everything()["criteria"]}
    assert found["break_even_ms"] is True
    assert (found["goodput_gunicorn_2x"], found["goodput_uvicorn_5x"]) == (False, None)
    assert (found["mix_quick_p99"], found["mix_low"]) == (True, True)
    assert (found["neighbour_uvicorn_hammered"], found["neighbour_gunicorn_busy"]) == (False, True)
    assert found["empty_cpu"] is False
    assert found["threads_req_s"] is False
    without = {entry["name"]: entry["reached"] for entry in whole()["criteria"]}
    assert without["break_even_ms"] is None
    made = with_everything()
    made["studies"]["sweep"]["break_even_ms"]["compiled"] = None
    never = next(entry for entry in judge(CRITERIA, made) if entry["name"] == "break_even_ms")
    assert (never["seen"], never["reached"]) == ("never", False)


@pytest.mark.slow
def test_reports_are_made_anew_of_stored_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *made, data = output.write(with_everything(), tmp_path)
    before = [path.read_text(encoding="utf-8") for path in made]
    for path in made:
        path.unlink()
    assert report.main([str(data)]) == 0
    assert [path.read_text(encoding="utf-8") for path in made] == before
    (tmp_path / "other.json").write_text("[]")
    assert report.main([str(tmp_path / "other.json")]) == 2
    assert "no result of the molt-accel demo benchmark, molt-accel micro benchmark" in capsys.readouterr().err
