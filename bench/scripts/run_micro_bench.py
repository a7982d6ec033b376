"""Measures what one call costs, against the alternatives, on an idle machine and on a busy one.

    python bench/scripts/run_micro_bench.py            # everything, about eight minutes
    python bench/scripts/run_micro_bench.py --quick    # a look, about a minute and a half
    python bench/scripts/run_micro_bench.py --peers shm,pipe,executor --conditions idle

Starts every peer (this project's client on each transport, the bare ring below it, and what else carries a
call from one process to another), measures them in turn, prints tables and writes micro_<UTC>.json, .md and
.svg to bench/results. Peers that can't run here are named with the reason.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 3 done but a peer failed, 130 interrupted (nothing written).
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Named before the first of them fails to import deep inside: this script is run by people new to the project.
_MISSING = [
    name for name in ("matplotlib", "molt_accel", "msgpack", "psutil", "rich") if find_spec(name) is None
]
if _MISSING:
    sys.exit(f"The benchmark needs {', '.join(_MISSING)}: pip install -e '.[bench-micro]'")

from bench.harness.errors import BenchError  # noqa: E402
from bench.micro import artifacts, progress  # noqa: E402
from bench.micro.options import CONDITIONS, PRESETS, Options, parse_list, parse_sizes  # noqa: E402
from bench.micro.payloads import size_name  # noqa: E402
from bench.micro.peers import PEERS  # noqa: E402
from bench.micro.session import Session  # noqa: E402

DONE, CANNOT_RUN, USAGE, HAD_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    preset = PRESETS["default"]
    width = max(map(len, PEERS))
    peers = "\n".join(f"  {name:{width}}  {info.title}; {info.carries}" for name, info in PEERS.items())
    made = argparse.ArgumentParser(
        prog="run_micro_bench.py",
        description=__doc__,
        epilog=f"peers (name, what, payload as):\n{peers}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = made.add_argument_group("what")
    what.add_argument("--peers", metavar="A,B,...", help="only these")
    what.add_argument(
        "--sizes",
        metavar="N,N,...",
        help=f"payload sizes ({','.join(size_name(size).replace(' ', '') for size in preset.sizes)})",
    )
    what.add_argument(
        "--conditions",
        metavar="A,B,...",
        default=",".join(CONDITIONS),
        help="of %(default)s; all sizes are measured under idle only",
    )
    what.add_argument("--no-throughput", action="store_true", help="leave several callers at once out")
    how = made.add_argument_group("how long")
    how.add_argument("--quick", action="store_true", help="two short rounds, three sizes")
    how.add_argument("--rounds", type=int, metavar="N", help=f"rounds ({preset.rounds})")
    how.add_argument(
        "--calls", type=int, metavar="N",
        help=f"most calls of a batch, which its time ends as a rule ({preset.small.calls})",
    )  # fmt: skip
    how.add_argument(
        "--window", type=float, metavar="S", help=f"seconds of a throughput window ({preset.window_s:g})"
    )
    how.add_argument(
        "--idle", type=float, metavar="S",
        help=f"seconds for which idle processor time is watched, 0: not at all ({preset.idle_s:g})",
    )  # fmt: skip
    load = made.add_argument_group("load")
    load.add_argument(
        "--executors", type=int, default=2, metavar="N", help="processes of each pool, several callers (2)"
    )
    load.add_argument(
        "--latency-executors", type=int, default=1, metavar="N", help="processes of each pool, one caller (1)"
    )
    load.add_argument(
        "--pause-us",
        type=int,
        default=1000,
        metavar="N",
        help="of the condition `spaced`: between two calls (1000)",
    )
    load.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within rounds (1)")
    made.add_argument(
        "--out",
        type=Path,
        default=ROOT / "bench" / "results",
        metavar="DIR",
        help="where the results go (bench/results)",
    )
    return made


def options_of(given: argparse.Namespace) -> Options:
    """The options a command line asks for; raises BenchError when they aren't allowed."""
    options = Options(
        out=given.out,
        preset="quick" if given.quick else "default",
        peers=None if given.peers is None else parse_list(given.peers),
        sizes=None if given.sizes is None else parse_sizes(given.sizes),
        conditions=parse_list(given.conditions),
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
    given = parser().parse_args(arguments)
    try:
        options = options_of(given)
    except BenchError as error:
        print(f"run_micro_bench.py: {error}", file=sys.stderr)
        return USAGE
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "bench/scripts/run_micro_bench.py", *words])
    _interrupt_once()
    reporter = progress.Reporter()
    try:
        with reporter:
            document = Session(options, reporter).run(command)
            reporter.running("writing the results")
            stamp = document["created_utc"].replace("-", "").replace(":", "").replace("+0000", "Z")
            written = artifacts.write(document, options.out, stamp)
    except BenchError as error:
        print(f"run_micro_bench.py: {error}", file=sys.stderr)
        return CANNOT_RUN
    except OSError as error:
        print(f"run_micro_bench.py: {type(error).__name__}: {error}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        print(
            "run_micro_bench.py: interrupted; all it started is stopped, nothing is written", file=sys.stderr
        )
        return INTERRUPTED
    progress.show(reporter.console, document, written)
    return HAD_ERRORS if document["errors"] else DONE


def _interrupt_once() -> None:
    """The first interrupt or termination ends the run; later ones must not cut its cleaning up short."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


if __name__ == "__main__":
    sys.exit(main())
