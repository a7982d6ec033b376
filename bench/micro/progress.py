"""Tells on the terminal how far a run is, and shows its report.

Nothing is drawn while something is measured: a bar that moves by itself wakes a core some ten times a second,
which is what the slowest hundredth of the calls would then show.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from bench.harness.progress import console_for
from bench.harness.table import Table
from bench.micro.tables import EXPLANATION, tables


class Reporter:
    """What the user sees while the benchmark runs; leaving its context takes the bar down."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or console_for(sys.stdout)
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(), console=self.console, transient=True, auto_refresh=False,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def expect(self, steps: int) -> None:
        """Says how many steps there will be."""
        if self._bar is not None:
            self._bar.update(self._task, total=steps, refresh=True)

    def running(self, text: str) -> None:
        """Names the step that begins now; a log is told of whole rounds only."""
        if self._bar is not None:
            self._bar.update(self._task, description=text, refresh=True)

    def step(self) -> None:
        """A step ended."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1)

    def note(self, text: str) -> None:
        """A line that stays."""
        # As Text: brackets in a message are not markup. Soft wrapping: a log keeps its lines whole.
        self.console.print(Text(text), soft_wrap=True)


def _rich(table: Table) -> RichTable:
    shown = RichTable(
        title=Text(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="left" if index < table.left else "right", no_wrap=index == 0)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def show(console: Console, document: Mapping[str, Any], files: list[Path]) -> None:
    """Prints the report: errors and doubts first, then figures and criteria, then where the files are."""
    for error in document["errors"]:
        console.print(Text(f"ERROR: {error}", style="bold red"), soft_wrap=True)
    for table in tables(document):
        console.print(_rich(table))
    for warning in document["warnings"]:
        console.print(Text(f"Doubt: {warning}", style="yellow"), soft_wrap=True)
    console.print(Text(EXPLANATION), soft_wrap=True)
    for file in files:
        console.print(Text(f"Wrote {file}"), soft_wrap=True)
