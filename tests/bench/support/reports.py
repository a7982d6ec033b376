"""A report as a reader sees it."""

import io
from pathlib import Path

from rich.console import Console

from bench.core.report import Report, markdown, show


def in_file(report: Report) -> str:
    """The markdown file."""
    return markdown(report, "chart.svg")


def on_terminal(report: Report) -> str:
    """What is printed; it ends by naming a file."""
    stream = io.StringIO()
    show(Console(file=stream, width=200), report, [Path("a.json")])
    assert stream.getvalue().rstrip().endswith("Wrote a.json")
    return stream.getvalue()
