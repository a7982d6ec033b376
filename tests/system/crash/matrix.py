"""The kill matrix: at each point between two steps somebody is killed or stopped, and nothing may be lost by it.

    python tests/system/crash/matrix.py --repeat 20

A cell is a point, who passes it, what befalls them, and how much the pool has to do besides. A run of a cell is passed
if each call had one outcome that fits, run at most once and with the right content, if other clients' calls went on,
and if afterwards the pool is whole: all executors ready, all channels IDLE, nothing queued or in flight, and no
process, descriptor, file or shared memory left over.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import queue
import resource
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

#: How often a log that is no terminal is told how far it is.
_TELL_S: Final = 60.0

if TYPE_CHECKING:  # clients import this module as their main one, and need nothing of it
    from tests.system.crash.matrix_stage import Cell, Result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Kill or stop processes of a shared pool at each point between two steps; see what becomes of it.",
        epilog="A cell's name is actor:point:action:load, for example executor:executor.done:kill:idle.",
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="runs of each cell (default: 1)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="only cells with such names, as in a shell: 'client:*:idle'; may be given more than once",
    )
    parser.add_argument(
        "--sample",
        action="store_true",
        help="each point with SIGKILL once, and of each other action a cell for each actor",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="pools at a time (default: 1)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where crash_matrix.json and crash_matrix.md are written",
    )
    parser.add_argument(
        "--build",
        type=Path,
        metavar="FOLDER",
        help="where the native core with failpoints is, or will be, built",
    )
    parser.add_argument("--list", action="store_true", help="name the cells and exit")
    return parser


def chosen(patterns: Sequence[str] | None, *, sample: bool) -> list[Cell]:
    """The cells to run."""
    from tests.system.crash.matrix_stage import CELLS, Action, Load

    cells = [cell for cell in CELLS if not cell.senseless]
    if sample:
        kept = {(cell.point.name, cell.actor): cell for cell in reversed(cells) if cell.action is Action.KILL}
        of: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
        for cell in cells:
            if cell.load is Load.SATURATED:
                of[cell.actor, cell.action].append(cell)
        cells = list(dict.fromkeys([*kept.values(), *(group[len(group) // 2] for group in of.values())]))
    if patterns:
        cells = [cell for cell in cells if any(fnmatch.fnmatch(str(cell), pattern) for pattern in patterns)]
    return cells


class Matrix:
    """Runs cells on several stages at a time."""

    def __init__(self, cells: list[Cell], repeat: int, jobs: int, library: Path) -> None:
        self._runs: queue.SimpleQueue[tuple[Cell, int]] = queue.SimpleQueue()
        # All cells once before any twice, so that what is wrong shows early.
        for repetition in range(repeat):
            for cell in cells:
                self._runs.put((cell, repetition))
        self._library = library
        self._jobs = jobs
        self.total: Final = len(cells) * repeat
        self.results: Final[list[Result]] = []
        self.errors: Final[list[str]] = []
        self._stop = threading.Event()

    def run(self) -> None:
        """Run them all, and show how far it is."""
        from rich.console import Console
        from rich.progress import (
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "tests.system.crash.matrix_client"])
        threads = [threading.Thread(target=self._work, args=(context,)) for _ in range(self._jobs)]
        for thread in threads:
            thread.start()
        columns = [
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        ]
        console = Console(stderr=True)
        shown, told_s = 0, time.monotonic()
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=self.total)
            try:
                while any(thread.is_alive() for thread in threads):
                    time.sleep(0.2)
                    for result in self.results[shown:]:
                        shown += 1
                        if result.failure:
                            console.print(f"FAILED {result.cell}\n{result.failure}", markup=False)
                    progress.update(
                        task, completed=shown, description=str(self.results[-1].cell) if shown else ""
                    )
                    if not console.is_terminal and time.monotonic() - told_s > _TELL_S:
                        told_s = time.monotonic()
                        console.print(f"{shown} of {self.total} runs")
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join()

    def _work(self, context: Any) -> None:
        from tests.system.crash.matrix_stage import Stage

        stage: Stage | None = None
        try:
            while not self._stop.is_set():
                try:
                    cell, repetition = self._runs.get_nowait()
                except queue.Empty:
                    break
                stage = stage or Stage(context, self._library)
                result = stage.run(cell, repetition)
                self.results.append(result)
                if result.failure:
                    stage.destroy()
                    stage = None
            if stage is not None:
                stage.close()
        except BaseException as exc:
            self.errors.append(f"{type(exc).__name__}: {exc}")
            self._stop.set()
            raise


def _environ(library: Path) -> None:
    """Processes that are started from now on have failpoints; this one has none."""
    from tests.system.crash.failpoints.build import HERE

    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE / "hook"), str(ROOT), os.environ.get("PYTHONPATH")])
    )
    os.environ["MOLT_FAILPOINTS_NATIVE"] = str(library)
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def document(results: list[Result]) -> dict[str, Any]:
    """What is known of each cell."""
    from tests.system.crash.matrix_stage import CELLS, median

    of = defaultdict(list)
    for result in results:
        of[result.cell].append(result)
    rows = []
    for cell in CELLS:
        runs = of[cell]
        answers = sorted(answer for run in runs for answer in run.answers_ms)
        rows.append(
            {
                "cell": str(cell),
                "point": cell.point.name,
                "moment": cell.point.moment,
                "actor": cell.actor.value,
                "action": cell.action.label,
                "load": cell.load.value,
                "senseless": cell.senseless,
                "runs": len(runs),
                "passes": sum(not run.failure for run in runs),
                "answers_ms": [round(answer, 2) for answer in answers],
                "median_answer_ms": median(answers),
                "median_seconds": median(run.seconds for run in runs),
                "failures": [run.failure for run in runs if run.failure],
            }
        )
    return {"cells": rows, "answers": _answers(rows)}


def _answers(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """From whose death it took how long to the answers of what it ended, in ms."""
    found = {}
    for actor in dict.fromkeys(row["actor"] for row in rows):
        values = sorted(value for row in rows if row["actor"] == actor for value in row["answers_ms"])
        if values:
            at = {"median": 0.5, "p95": 0.95, "max": 1.0}
            found[actor] = {name: values[int(share * (len(values) - 1))] for name, share in at.items()}
            found[actor]["count"] = len(values)
    return found


def markdown(found: dict[str, Any]) -> str:
    """The table, a row for each point and who passes it."""
    actions = list(dict.fromkeys((row["action"], row["load"]) for row in found["cells"]))
    lines = [
        "| who | point | moment | "
        + " | ".join(f"{action}, {load}" for action, load in actions)
        + " | answer |",
        "|---|---|---|" + "---|" * (len(actions) + 1),
    ]
    table: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in found["cells"]:
        table[row["actor"], row["point"], row["moment"]].append(row)
    for (actor, point, moment), rows in table.items():
        shown = ["-" if row["senseless"] else f"{row['passes']}/{row['runs']}" for row in rows]
        answers = sorted(answer for row in rows for answer in row["answers_ms"])
        middle = f"{answers[len(answers) // 2]:.1f} ms" if answers else ""
        lines.append(f"| {actor} | {point} | {moment} | " + " | ".join(shown) + f" | {middle} |")
    lines += ["", "-: makes no sense:"]
    lines += [f"- {row['cell']}: {row['senseless']}" for row in found["cells"] if row["senseless"]]
    lines += ["", "From a death to the answers of the calls that it ended:"]
    for actor, figures in found["answers"].items():
        told = ", ".join(f"{name} {value:.1f} ms" for name, value in figures.items() if name != "count")
        lines.append(f"- {actor}: {told} ({figures['count']} calls)")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if every run was passed."""
    from tests.system.crash.failpoints.build import build

    options = _parser().parse_args(arguments)
    cells = chosen(options.only, sample=options.sample)
    if options.list:
        print(*cells, sep="\n")
        return 0
    if not cells:
        print("matrix: no cell has such a name", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="molt-points-") as folder:
        library = build(options.build or Path(folder))
        _environ(library)
        matrix = Matrix(cells, options.repeat, options.jobs, library)
        matrix.run()
    found = document(matrix.results)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "crash_matrix.json").write_text(json.dumps(found, indent=1))
        (options.output / "crash_matrix.md").write_text(markdown(found))
    passed = sum(not result.failure for result in matrix.results)
    print(f"{passed} of {matrix.total} runs passed, {len(cells)} cells; answers: {found['answers']}")
    for error in matrix.errors:
        print(f"matrix: {error}", file=sys.stderr)
    return 0 if passed == matrix.total and not matrix.errors else 1


if __name__ == "__main__":
    sys.exit(main())
