"""Measures what compiling gains: classic programs through Client.call, in Python and compiled, results compared.

    python bench/scripts/run_programs_bench.py [--rounds N] [--out DIR]

Builds the programs first (a few seconds), then has both workers run each program in turn, round by round. Times are
those of the handlers, as the calls' metrics tell them. Exit codes: 0 done; 1 can't build, or results differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT))

from bench.harness import environment  # noqa: E402  # after the root is on the path
from bench.harness.stats import Spread, spread  # noqa: E402
from bench.programs.sizes import EXPORTS, FULL  # noqa: E402
from molt_accel import Client  # noqa: E402
from molt_accel.options import CallMetrics  # noqa: E402

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


def _text(found: Spread, digits: int = 1) -> str:
    return f"{found.median:.{digits}f} ({found.min:.{digits}f}-{found.max:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, print the table and write the files. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds (7)")
    parser.add_argument(
        "--out",
        type=Path,
        default=_ROOT / "bench" / "results",
        metavar="DIR",
        help="for the files (bench/results)",
    )
    given = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="molt-programs-") as build_dir:
        command = [
            sys.executable,
            "-m",
            "molt_worker",
            "build",
            EXPORTS,
            "--strict",
            "--build-dir",
            build_dir,
        ]
        with console.status("compiling the programs"):
            done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return 1
        times = _measure(given.rounds, build_dir)
    rows: list[Row] = []
    for name, found in times.items():
        python, compiled = spread(found[False]), spread(found[True])
        ratio = spread(slow / fast for slow, fast in zip(found[False], found[True], strict=True))
        assert python is not None
        assert compiled is not None
        assert ratio is not None
        rows.append(Row(name, python, compiled, ratio))
    mean = geometric_mean(row.ratio.median for row in rows)
    table = Table("program", "Python ms", "compiled ms", "times as fast", title="compiled against Python")
    cells = [(row.name, *map(_text, (row.python_ms, row.compiled_ms, row.ratio))) for row in rows]
    for line in cells:
        table.add_row(*line)
    console.print(table)
    console.print(
        f"Medians of {given.rounds} interleaved rounds (least-greatest). Geometric mean: {mean:.1f}."
    )
    _write(given.out, rows, cells, mean, given.rounds, done.stdout)
    return 0


def _write(
    out: Path, rows: list[Row], cells: list[tuple[str, ...]], mean: float, rounds: int, built: str
) -> None:
    created = datetime.now(UTC)
    stamp = created.strftime("%Y%m%dT%H%M%SZ")
    out.mkdir(parents=True, exist_ok=True)
    document = {
        "schema_version": 1,
        "kind": "molt-accel programs benchmark",
        "created_utc": created.isoformat(timespec="seconds"),
        "git": environment.git_state(_ROOT),
        "machine": environment.machine(),
        "rounds": rounds,
        "build": built.strip().splitlines()[-1],
        "programs": [
            {"name": row.name}
            | {key: getattr(row, key).as_json() for key in ("python_ms", "compiled_ms", "ratio")}
            for row in rows
        ],
        "geometric_mean": mean,
    }
    lines = [
        f"# Compiled against Python, {document['created_utc']}",
        "",
        f"Handler times in executors, medians of {rounds} interleaved rounds (least-greatest). "
        f"Geometric mean of the ratios: {mean:.1f}. {document['build']}.",
        "",
        "| program | Python ms | compiled ms | times as fast |",
        "|:--|--:|--:|--:|",
        *("| " + " | ".join(line) + " |" for line in cells),
        "",
    ]
    (out / f"programs_{stamp}.md").write_text("\n".join(lines), encoding="utf-8")
    (out / f"programs_{stamp}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
