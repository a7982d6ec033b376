"""Tells how far a benchmark is, by a live bar on a terminal or plain lines elsewhere; shows the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from bench.harness.table import Table
from bench.harness.tables import CAVEAT, headlines, tables

LOG_COLUMNS = 160


class Reporter:
    """What the user sees while the benchmark runs; leaving its context takes the live bar down."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or console_for(sys.stdout)
        self._total_s = 0.0
        self._done_s = 0.0
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def expect(self, seconds: float) -> None:
        """Says how many seconds of load are planned; progress is a share of them."""
        self._total_s = seconds
        if self._bar is not None:
            self._bar.update(self._task, total=seconds)

    def stage(self, text: str) -> None:
        """Names what is going on now, and will have no result to be told."""
        if self._bar is None:
            self._line(text)
        self.running(text)

    def running(self, text: str) -> None:
        """Names the run that is going on now; its result follows by `done`, so a log needs no line for it."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def done(self, seconds: float, text: str) -> None:
        """A run of that many planned seconds ended, with this result."""
        self._done_s = min(self._done_s + seconds, self._total_s)
        share = self._done_s / self._total_s if self._total_s else 1.0
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done_s)
        self._line(f"[{share:4.0%}] {text}")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._line(text)

    def _line(self, text: str) -> None:
        # As Text: brackets in a message are not markup. Soft wrapping: a log keeps its lines whole.
        self.console.print(Text(text), soft_wrap=True)


def console_for(stream: TextIO) -> Console:
    """A console on `stream`. A log has no width of its own, so it gets one that leaves the tables whole."""
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_COLUMNS)


def _rich(table: Table) -> RichTable:
    shown = RichTable(
        title=Text(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(table.columns):
        left = index < table.left
        shown.add_column(Text(column), justify="left" if left else "right", no_wrap=index == 0)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def show(console: Console, document: Mapping[str, Any], files: list[Path]) -> None:
    """Prints the summary: errors first, then figures, then what they mean and where the files are."""
    if document["errors"]:
        console.print(Text("THERE WERE ERRORS. Read them before the figures:", style="bold red"))
        for error in document["errors"]:
            console.print(Text(f"  - {error}", style="red"), soft_wrap=True)
        console.print()
    for table in tables(document):
        console.print(_rich(table))
    for warning in document["warnings"]:
        console.print(Text(f"Doubt: {warning}", style="yellow"), soft_wrap=True)
    for sentence in headlines(document):
        console.print(Text(sentence, style="bold"), soft_wrap=True)
    console.print(Text(f"Medians over interleaved rounds (least to greatest). {CAVEAT}"), soft_wrap=True)
    console.print(Text(document["shutdown"]["sentence"]), soft_wrap=True)
    for name in document["logs"]:
        console.print(Text(f"The end of {name}'s log is in the files: it had errors."), soft_wrap=True)
    for file in files:
        console.print(Text(f"Wrote {file}"), soft_wrap=True)
