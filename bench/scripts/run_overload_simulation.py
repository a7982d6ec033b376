"""Simulates what pools refuse under load: the rule itself, a bounded queue, CoDel, the rule with other constants.

    python bench/scripts/run_overload_simulation.py [--quick] [--seconds S] [--out DIR]

Nothing is started and nothing is measured: time is that of the next event, so a run does not depend on the machine.
Prints tables and writes `overload_<UTC>.json`, `.md` and `.svg`. Takes a few minutes, `--quick` a part of one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import results  # after the root is on the path
from bench.core.command import argument_parser
from bench.core.progress import console_for
from bench.core.report import show_table
from bench.overload import report, study

PROGRAM = "run_overload_simulation.py"
KIND = results.Kind("molt-accel overload simulation", "overload", 1)
_SECONDS, _QUICK_SECONDS = 60.0, 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, print the tables and write the files. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argument_parser(PROGRAM, __doc__)
    parser.add_argument("--quick", action="store_true", help=f"runs of {_QUICK_SECONDS:g} s")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"of each long run ({_SECONDS:g})")
    parser.add_argument(
        "--out", type=Path, default=results.RESULTS, metavar="DIR", help="for the files (bench/results)"
    )
    given = parser.parse_args(words)
    seconds = given.seconds or (_QUICK_SECONDS if given.quick else _SECONDS)
    console = console_for(sys.stdout)
    heading = results.Heading(KIND, " ".join([PROGRAM, *(["--quick"] if given.quick else [])]))
    with console.status("simulating: rules"):
        rules = study.compare_rules(seconds)
    with console.status("simulating: variants"):
        variants = study.compare_variants(seconds)
    with console.status("simulating: several entrypoints"):
        scenes = {scene.name: study.play(scene, seconds) for scene in study.scenes()}
        curves = study.curves(seconds)
    document = heading.document(
        errors=[],
        warnings=[],
        simulated_s=seconds,
        rules=rules,
        variants=variants,
        scenes=scenes,
        curves=curves,
    )
    for table in report.tables(document):
        show_table(console, table)
    console.print(report.EXPLANATION)
    stem = given.out / f"{KIND.prefix}_{results.stamp_of(document)}"
    renderings = {
        "md": lambda: report.markdown(document, f"{stem.name}.svg"),
        "svg": lambda: report.picture(document),
    }
    for path in results.write(document, stem, renderings):
        console.print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
