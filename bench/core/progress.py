"""Tells how far a benchmark is and how long it still takes: a bar on a terminal, plain lines elsewhere.

The bar is drawn between measurements only. One that moves by itself wakes a core some ten times a second, which is
what the slowest hundredth of the calls would then show.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

LOG_COLUMNS = 160


class Reporter:
    """What the user sees while a benchmark runs. Leaving its context takes the bar down.

    Progress is counted in the seconds that were planned (`expect`); the time left is what remains of them. It is not
    stretched by how long the run has taken so far: on a busy machine set-up takes longer than planned, but what follows
    is measured for fixed times.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or console_for(sys.stdout)
        self._total_s = 0.0
        self._done_s = 0.0
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
            self._bar = Progress(*columns, console=self.console, transient=True, auto_refresh=False)
            self._task = self._bar.add_task("starting", total=None, told="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def expect(self, seconds: float) -> None:
        """Says how many seconds the whole run is planned to take."""
        self._total_s = seconds
        self._update(total=seconds)

    def stage(self, text: str) -> None:
        """Names what begins now and will have no result to tell."""
        if self._bar is None:
            self.note(text)
        self.running(text)

    def running(self, text: str) -> None:
        """Names what begins now. Its result follows by `done`, so a log needs no line for it."""
        self._update(description=text)

    def done(self, seconds: float, text: str = "") -> None:
        """Tells that so many planned seconds are behind; `text` is a result that stays on the screen."""
        self._done_s = min(self._done_s + seconds, self._total_s)
        share = self._done_s / self._total_s if self._total_s else 1.0
        told = f"{share:4.0%}, {clock(self._total_s - self._done_s)} left"
        self._update(completed=self._done_s, told=told)
        if text:
            self.note(f"[{told}] {text}")

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        # As Text: brackets in a message are not markup. Soft wrapping: a log keeps its lines whole.
        self.console.print(Text(text), soft_wrap=True)

    def _update(self, **fields: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, refresh=True, **fields)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def console_for(stream: TextIO) -> Console:
    """A console on `stream`. A log has no width of its own, so it gets one that leaves the tables whole."""
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_COLUMNS)
