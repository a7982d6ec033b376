"""Measures what compiling gains: classic programs through Client.call, in Python and compiled, results compared.

    python bench/scripts/run_programs_bench.py [--rounds N] [--out DIR]

Builds the programs first (a few seconds), then has both workers run each program in turn, round by round. Times are
those of the handlers, as the calls' metrics tell them. Exit codes: 0 done; 1 can't build, or results differ.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import results  # after the root is on the path
from bench.core.command import argument_parser
from bench.core.environment import ROOT
from bench.core.progress import console_for
from bench.core.report import markdown_table, show_table
from bench.core.statistics import Spread, ratio, spread
from bench.core.tables import Table, with_range
from bench.programs.sizes import EXPORTS, FULL
from molt_accel import Client
from molt_accel.options import CallMetrics

PROGRAM = "run_programs_bench.py"
KIND = results.Kind("molt-accel programs benchmark", "programs", 1)
_TIMEOUT_MS = 120_000


class Row(NamedTuple):
    """One program's figures."""

    name: str
    python_ms: Spread
    compiled_ms: Spread
    ratio: Spread


def _measure(rounds: int, build_dir: str) -> dict[str, dict[bool, list[float]]]:
    """Handler times in milliseconds by program and by whether it was compiled. SystemExit where results differ."""
    times: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {False: [], True: []})
    results: dict[str, object] = {}
    options: dict[str, Any] = {
        "exports": EXPORTS,
        "build_dir": build_dir,
        "executors": 1,
        "log_level": "warning",
        "linger_ms": 0,
    }
    with (
        Client(compiled="off", worker_name="bench-programs-python", **options) as python,
        Client(compiled="require", worker_name="bench-programs-compiled", **options) as compiled,
    ):
        for _ in track(range(rounds), "rounds", transient=True):
            for name, size in FULL.items():
                for client in (python, compiled):
                    seen: list[CallMetrics] = []
                    result = client.call(name, size, timeout_ms=_TIMEOUT_MS, metrics_hook=seen.append)
                    if results.setdefault(name, result) != result:
                        raise SystemExit(f"{name}: {result!r} is not {results[name]!r}")
                    assert seen[0].compiled == (client is compiled)
                    times[name][seen[0].compiled].append(seen[0].handler_us / 1000)
    return times


def _build(folder: str) -> str | None:
    """Compiles the programs; the last line that the build printed, or None if it failed."""
    command = ["build", EXPORTS, "--strict", "--build-dir", folder]
    done = subprocess.run(
        [sys.executable, "-m", "molt_worker", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return None if done.returncode else done.stdout.strip().splitlines()[-1]


def _rows(times: dict[str, dict[bool, list[float]]]) -> Iterator[Row]:
    for name, found in times.items():
        python, compiled = spread(found[False]), spread(found[True])
        gain = ratio(*(dict(enumerate(found[which])) for which in (False, True)))
        assert python is not None
        assert compiled is not None
        assert gain is not None
        yield Row(name, python, compiled, gain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, print the table and write the files. Returns the exit code."""
    parser = argument_parser(PROGRAM, __doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds (7)")
    parser.add_argument(
        "--out", type=Path, default=results.RESULTS, metavar="DIR", help="for the files (bench/results)"
    )
    given = parser.parse_args(arguments)
    console = console_for(sys.stdout)
    heading = results.Heading(KIND, PROGRAM)
    with tempfile.TemporaryDirectory(prefix="molt-programs-") as build_dir:
        with console.status("compiling the programs"):
            built = _build(build_dir)
        if built is None:
            return 1
        rows = list(_rows(_measure(given.rounds, build_dir)))
    mean = geometric_mean(row.ratio.median for row in rows)
    spreads = ("python_ms", "compiled_ms", "ratio")
    table = Table(
        "Compiled against Python",
        ("program", "Python ms", "compiled ms", "times as fast"),
        tuple((row.name, *(with_range(getattr(row, name).as_json(), 1) for name in spreads)) for row in rows),
    )
    summary = (
        f"Handler times in executors, medians of {given.rounds} interleaved rounds (least-greatest). "
        f"Geometric mean of the ratios: {mean:.1f}. {built}."
    )
    show_table(console, table)
    console.print(summary)
    document = heading.document(
        errors=[],
        warnings=[],
        rounds=given.rounds,
        build=built,
        programs=[
            {"name": row.name} | {name: getattr(row, name).as_json() for name in spreads} for row in rows
        ],
        geometric_mean=mean,
    )
    stem = given.out / f"{KIND.prefix}_{results.stamp_of(document)}"
    title = f"# Compiled against Python, {document['created_utc']}"
    lines = [title, "", summary, "", *markdown_table(table)]
    results.write(document, stem, {"md": lambda: "\n".join(lines) + "\n"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
