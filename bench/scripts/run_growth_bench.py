"""Measures what a call costs as a pool grows: in 32 to 4096 granted channels, with 1 to 64 client processes.

    python bench/scripts/run_growth_bench.py            # about two minutes
    python bench/scripts/run_growth_bench.py --quick    # a look, about a minute
    python bench/scripts/run_growth_bench.py --no-calls # the steps of the native core alone, some seconds

Prints tables and writes growth_<UTC>.json, .md and .svg to bench/results. 64 client processes take two GiB of memory.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 3 done but calls failed, 130 interrupted (nothing written).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import command

command.need("bench-micro", "matplotlib", "molt_accel", "msgpack", "psutil", "rich")

from bench.core.results import RESULTS  # noqa: E402
from bench.growth.options import CLIENTS, PRESETS, Options  # noqa: E402
from bench.growth.report import output  # noqa: E402
from bench.growth.session import Session  # noqa: E402

PROGRAM = "run_growth_bench.py"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.argument_parser(PROGRAM, __doc__)
    made.add_argument("--no-steps", action="store_true", help="leave the steps of the native core out")
    made.add_argument("--no-calls", action="store_true", help="leave calls out")
    made.add_argument("--quick", action="store_true", help="two short rounds")
    command.add_options(
        made,
        ("--rounds", int, "N", f"rounds of calls ({PRESETS['default'].rounds})"),
        ("--most-clients", int, "N", "no more client processes", CLIENTS[-1]),
        ("--out", Path, "DIR", "where the results go", RESULTS),
    )
    return made


def options_of(arguments: Sequence[str] | None) -> Options:
    """The options a command line asks for; raises BenchError when they aren't allowed."""
    given = parser().parse_args(arguments)
    options = Options(
        out=given.out,
        preset="quick" if given.quick else "default",
        steps=not given.no_steps,
        calls=not given.no_calls,
        rounds=given.rounds,
        most_clients=given.most_clients,
    )
    options.validate()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    return command.run(PROGRAM, arguments, options_of, Session, output)


if __name__ == "__main__":
    sys.exit(main())
