"""Measures what one call costs, against the alternatives, on an idle machine and on a busy one.

    python bench/scripts/run_micro_bench.py            # everything, about eleven minutes
    python bench/scripts/run_micro_bench.py --quick    # a look, about a minute and a half
    python bench/scripts/run_micro_bench.py --peers shm,pipe,executor --conditions idle

Starts every peer (this project's client on each transport, the bare ring below it, and what else carries a
call from one process to another), measures them in turn, prints tables and writes micro_<UTC>.json, .md and
.svg to bench/results. Peers that can't run here are named with the reason.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 3 done but a peer failed, 130 interrupted (nothing written).
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
from bench.micro.options import CONDITIONS, PRESETS, Options, parse_sizes  # noqa: E402
from bench.micro.payloads import size_name  # noqa: E402
from bench.micro.peers.table import PEERS  # noqa: E402
from bench.micro.report import output  # noqa: E402
from bench.micro.session import Session  # noqa: E402

PROGRAM = "run_micro_bench.py"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    preset = PRESETS["default"]
    width = max(map(len, PEERS))
    peers = "\n".join(f"  {name:{width}}  {info.title}; {info.carries}" for name, info in PEERS.items())
    sizes = ",".join(size_name(size).replace(" ", "") for size in preset.sizes)
    made = command.argument_parser(PROGRAM, __doc__, epilog=f"peers (name, what, payload as):\n{peers}")

    what = made.add_argument_group("what")
    what.add_argument("--no-throughput", action="store_true", help="leave several callers at once out")
    command.add_options(
        what,
        ("--peers", command.names_in, "A,B,...", "only these"),
        ("--sizes", str, "N,N,...", f"payload sizes ({sizes})"),
        (
            "--conditions", str, "A,B,...",
            "all sizes are measured under idle only; quota needs root", ",".join(CONDITIONS),
        ),
    )  # fmt: skip
    how = made.add_argument_group("how long")
    how.add_argument("--quick", action="store_true", help="two short rounds, three sizes")
    most = f"most calls of a batch, which its time ends as a rule ({preset.small.calls})"
    idle = f"seconds for which idle processor time is watched, 0: not at all ({preset.idle_s:g})"
    command.add_options(
        how,
        (
            "--rounds",
            int,
            "N",
            f"rounds; without --peers, those that no criterion is about take part in every third ({preset.rounds})",
        ),
        ("--calls", int, "N", most),
        ("--window", float, "S", f"seconds of a throughput window ({preset.window_s:g})"),
        ("--idle", float, "S", idle),
    )
    command.add_options(
        made.add_argument_group("load"),
        ("--executors", int, "N", "processes of each pool, several callers", 2),
        ("--latency-executors", int, "N", "processes of each pool, one caller", 1),
        ("--pause-us", int, "N", "of the condition `spaced`: between two calls", 1000),
        ("--seed", int, "N", "of the order within rounds", 1),
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
        peers=given.peers,
        sizes=None if given.sizes is None else parse_sizes(given.sizes),
        conditions=command.names_in(given.conditions),
        rounds=given.rounds,
        calls=given.calls,
        executors=given.executors,
        latency_executors=given.latency_executors,
        throughput=not given.no_throughput,
        window_s=given.window,
        idle_s=given.idle,
        pause_us=given.pause_us,
        seed=given.seed,
    )
    options.validate()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    return command.run(PROGRAM, arguments, options_of, Session, output)


if __name__ == "__main__":
    sys.exit(main())
