"""Runs the demo benchmark, baselines against offload under k6, in one command; prints and stores results.

    python bench/scripts/run_demo_bench.py            less than three minutes on two cores
    python bench/scripts/run_demo_bench.py --quick    a look, under a minute
    python bench/scripts/run_demo_bench.py --full     every scenario and study, for figures to keep: about 45 minutes

Says first what it will do and how long that takes. Starts one gunicorn for each scenario (and through the demo its
worker), proves that all answer alike, warms them up, loads them in turn for several rounds, stops everything it
started, and writes demo_k6_<UTC>.json, .md, .svg and .html.

Exit codes: 0 done; 1 can't run; 2 wrong usage; 3 done, but scenarios had errors; 130 interrupted, nothing written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import command

command.need("bench", "django", "gunicorn", "jinja2", "matplotlib", "orjson", "psutil", "rich")

from bench.core import BenchError  # noqa: E402
from bench.core.results import RESULTS  # noqa: E402
from bench.demo.options import PRESETS, TRANSPORTS, Options, parse_assignment  # noqa: E402
from bench.demo.report import output  # noqa: E402
from bench.demo.scenarios import SCENARIOS, chosen  # noqa: E402
from bench.demo.session import Session  # noqa: E402
from bench.demo.studies.registry import OF_PRESET, STUDIES, chosen_studies  # noqa: E402

PROGRAM = "run_demo_bench.py"
DATABASE = {
    "MOLT_FAKE_DB_DELAY_MS": "db_delay_ms",
    "MOLT_FAKE_DB_DECODE_US_PER_ROW": "db_decode_us",
    "MOLT_FAKE_DB_CPU_ITERS": "db_cpu_iters",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    marks = {"always": "", "full": " +", "named": " *"}
    names = ", ".join(f"{scenario.name}{marks[scenario.runs]}" for scenario in SCENARIOS)
    rounds = PRESETS["default"].rounds
    of_list, of_data = rounds["list"], rounds["data"]
    made = command.argument_parser(
        PROGRAM, __doc__, epilog=f"Scenarios (+ with --full or when named, * only when named): {names}"
    )
    how_long = made.add_argument_group("how long")
    how_long.add_argument("--quick", action="store_true", help="one short round of each kind, no studies")
    how_long.add_argument("--full", action="store_true", help="many long rounds of every scenario and study")
    command.add_options(
        how_long,
        (
            "--duration",
            float,
            "S",
            f"seconds of one run (list {of_list.duration_s:g}, data {of_data.duration_s:g})",
        ),
        ("--rounds", int, "N", f"closed-loop rounds (list {of_list.closed}, data {of_data.closed})"),
        ("--study-rounds", int, "N", "rounds of each study (1; with --full 5)"),
        ("--open-rounds", int, "N", f"open-loop rounds (list {of_list.open}, data {of_data.open})"),
        ("--warmup", int, "N", "warm-up requests of a scenario; the data path takes a tenth"),
    )
    what = made.add_argument_group("what")
    what.add_argument("--no-data", action="store_true", help="leave the data path out")
    command.add_options(
        what,
        ("--scenarios", command.names_in, "A,B,...", "only these, and also those that don't run by default"),
        (
            "--studies", str, "A,B,...",
            f"questions asked besides: all, none, or some of {', '.join(STUDIES)} ({','.join(OF_PRESET['default'])})",
        ),
        ("--data-rows", int, "N", "rows of the data path's table", 10_000),
        ("--concurrency", int, "N", "clients of the closed loop", 16),
        ("--rate", float, "R", "requests per second of the open loop, for every group"),
        (
            "--rate-share", float, "X",
            "without --rate: share of the slowest scenario's closed-loop throughput", 0.6,
        ),
    )  # fmt: skip
    servers = made.add_argument_group("servers and worker")
    servers.add_argument(
        "--transport", choices=TRANSPORTS, default="auto", help="of scenarios that name none (auto)"
    )
    servers.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE",
        help="set in every server's environment, over what the caller's says; repeatable",
    )  # fmt: skip
    command.add_options(
        servers,
        ("--server-processes", int, "N", "of the scenarios that don't take one for each core", 1),
        ("--server-threads", int, "N", "threads of each", 8),
        ("--executors", int, "N", "executors of a worker (one for each core)"),
        ("--max-queue", int, "N", "places in the worker's queue (its default)"),
        ("--db-delay-ms", int, "N", "fake database: latency of a query"),
        ("--db-decode-us", int, "N", "fake database: extra processor time for each row"),
        ("--db-cpu-iters", int, "N", "fake database: extra loop iterations for each request"),
        ("--app", str, "APP", "WSGI application", Options.__dataclass_fields__["app"].default),
    )
    files = made.add_argument_group("files and tools")
    files.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go (bench/results)"
    )
    command.add_options(
        files,
        ("--k6", str, "PATH", "k6 to use (PATH, else the k6 package)"),
        ("--sample-interval", float, "S", "seconds between samples", 0.25),
    )
    return made


def options_of(arguments: Sequence[str] | None) -> Options:
    """The options a command line asks for; raises BenchError when they contradict or aren't allowed."""
    given = parser().parse_args(arguments)
    if given.quick and given.full:
        raise BenchError("--quick and --full exclude each other")
    studies = {None: None, "all": tuple(STUDIES), "none": ()}
    database = {name: getattr(given, option) for name, option in DATABASE.items()}
    options = Options(
        out=given.out,
        preset="quick" if given.quick else "full" if given.full else "default",
        scenarios=given.scenarios,
        data=not given.no_data,
        studies=studies[given.studies] if given.studies in studies else command.names_in(given.studies),
        server_processes=given.server_processes,
        server_threads=given.server_threads,
        executors=given.executors,
        max_queue=given.max_queue,
        concurrency=given.concurrency,
        duration_s=given.duration,
        closed_rounds=given.rounds,
        open_rounds=given.open_rounds,
        study_rounds=given.study_rounds,
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
    chosen_studies(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    return command.run(PROGRAM, arguments, options_of, Session, output)


if __name__ == "__main__":
    sys.exit(main())
