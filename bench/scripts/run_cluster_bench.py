"""Measures what several hosts cost and give, by NATS, against the alternatives.

    python bench/scripts/run_cluster_bench.py            # everything, about six minutes
    python bench/scripts/run_cluster_bench.py --quick    # a look, about a minute and a half
    python bench/scripts/run_cluster_bench.py --rows nats,call,acall --no-goodput

Calls one trivial entrypoint over shared memory, over NATS on loopback and through two network namespaces, beside bare
NATS, a Ray actor and a Celery task; then gives one client more load than its pool can bear, with one, two and three
pools to overflow to. Prints tables and writes cluster_<UTC>.json, .md and .svg to bench/results. Rows that
can't run here (no root, no Ray, no Redis) are named with the reason.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 3 done but a row failed, 130 interrupted (nothing written).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import command

command.need("bench-cluster", "matplotlib", "molt_accel", "msgpack", "nats", "psutil", "rich")

from bench.cluster.options import PRESETS, Options  # noqa: E402
from bench.cluster.report import output  # noqa: E402
from bench.cluster.rows import ROWS  # noqa: E402
from bench.cluster.session import Session  # noqa: E402
from bench.core.results import RESULTS  # noqa: E402

PROGRAM = "run_cluster_bench.py"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    width = max(map(len, ROWS))
    rows = "\n".join(f"  {name:{width}}  {row.title}; {row.place}" for name, row in ROWS.items())
    made = command.argument_parser(PROGRAM, __doc__, epilog=f"rows (name, what; where):\n{rows}")
    what = made.add_argument_group("what")
    command.add_options(what, ("--rows", command.names_in, "A,B,...", "only these"))
    what.add_argument("--no-calls", action="store_true", help="leave single calls out")
    what.add_argument("--no-goodput", action="store_true", help="leave goodput out")
    how = made.add_argument_group("how long")
    how.add_argument("--quick", action="store_true", help="two short rounds")
    command.add_options(how, ("--rounds", int, "N", f"rounds ({PRESETS['default'].rounds})"))
    command.add_options(
        made.add_argument_group("load"),
        ("--delay-ms", float, "MS", "of the cable between the namespaces, each way", 0.2),
        ("--executors", int, "N", "goodput: executors of each pool", 2),
        ("--nap-ms", float, "MS", "goodput: for how long the entrypoint sleeps", 20.0),
        ("--timeout-ms", int, "MS", "goodput: the time limit of a call", 250),
        ("--load", float, "X", "goodput: calls per second, in capacities of one pool", 3.5),
        ("--seed", int, "N", "of the order within rounds, and of when calls come", 1),
    )
    made.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go (bench/results)"
    )
    return made


def options_of(arguments: Sequence[str] | None) -> Options:
    """The options a command line asks for; raises BenchError when they aren't allowed."""
    given = parser().parse_args(arguments)
    options = Options(
        out=given.out,
        preset="quick" if given.quick else "default",
        rows=given.rows,
        calls=not given.no_calls,
        goodput=not given.no_goodput,
        rounds=given.rounds,
        delay_ms=given.delay_ms,
        executors=given.executors,
        nap_ms=given.nap_ms,
        timeout_ms=given.timeout_ms,
        load=given.load,
        seed=given.seed,
    )
    options.validate()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    return command.run(PROGRAM, arguments, options_of, Session, output)


if __name__ == "__main__":
    sys.exit(main())
