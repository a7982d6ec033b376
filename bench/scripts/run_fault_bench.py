"""Measures how fast the worker recovers: from cancels, deadlines and kills. Prints a table of medians.

    python bench/scripts/run_fault_bench.py [--rounds N] [--transport shm,stdio]

Every figure is a time as a caller sees it, in milliseconds, over rounds in which the cases and the transports
take turns. Nothing is asserted: on a busy machine the figures are worse.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core.command import argument_parser  # after the root is on the path
from bench.core.environment import ROOT
from bench.core.report import show_table
from bench.core.statistics import percentile
from bench.core.tables import Table
from molt_accel import Client, MoltError

PROGRAM = "run_fault_bench.py"
_STUBBORN = ("busy_loop", "sleep", "stuck_in_c")
_GRACE_MS = 100
_DEADLINE_MS = 200
_TRANSPORTS = ("shm", "stdio")

Measure = Callable[[Client, Path], float]


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the worker did not recover within 30 s")
        time.sleep(0.0002)


def _cancel(entry: str) -> Measure:
    """From the cancel of a running request until the only executor has answered another one."""

    def measure(client: Client, path: Path) -> float:
        async def run() -> float:
            call = asyncio.create_task(client.acall(entry, str(path), timeout_ms=None))
            while not path.exists():
                await asyncio.sleep(0.0005)
            start = time.perf_counter()
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await client.acall("echo", timeout_ms=10_000)
            return time.perf_counter() - start

        return asyncio.run(run())

    return measure


def _deadline(entry: str) -> Measure:
    """How long after its deadline a call ends."""

    def measure(client: Client, path: Path) -> float:
        start = time.perf_counter()
        with contextlib.suppress(MoltError):
            client.call(entry, str(path), timeout_ms=_DEADLINE_MS)
        return time.perf_counter() - start - _DEADLINE_MS / 1000

    return measure


def _ready(client: Client, gone: int) -> bool:
    """Whether the pool has its size again, without the process that was killed."""
    try:
        state = client.ping()
    except MoltError:
        return False
    executors = state["executors"]
    return state["pid"] != gone and gone not in executors["pids"] and executors["idle"] == executors["size"]


def _kill(victim: str) -> Measure:
    """From kill -9 until the pool has its size again."""

    def measure(client: Client, _: Path) -> float:
        state = client.ping()
        pid: int = state["pid"] if victim == "supervisor" else state["executors"]["pids"][0]
        start = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        _wait_for(lambda: _ready(client, pid))
        return time.perf_counter() - start

    return measure


_CASES: dict[str, Measure] = {
    **{f"cancel {entry}: executor free again": _cancel(entry) for entry in _STUBBORN},
    **{f"deadline of {entry}: overrun": _deadline(entry) for entry in _STUBBORN},
    "kill -9 an executor: pool whole again": _kill("executor"),
    "kill -9 the supervisor: new worker, pool whole": _kill("supervisor"),
}


def _transports(text: str) -> tuple[str, ...]:
    """The transports that an argument names."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= set(_TRANSPORTS):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed are {', '.join(_TRANSPORTS)}, or both")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser(PROGRAM, __doc__)
    parser.add_argument("--rounds", type=int, default=25, metavar="N", help="rounds of all cases (25)")
    parser.add_argument(
        "--transport",
        type=_transports,
        default=_TRANSPORTS if sys.platform == "linux" else ("stdio",),
        metavar="A,B",
        help="only this one; both where both can run",
    )
    return parser


@contextlib.contextmanager
def _clients(transport: str, scratch: Path) -> Iterator[tuple[Client, Client]]:
    """Two clients whose workers nobody else uses: of one executor, and of as many as there are processors."""
    options: dict[str, Any] = {
        "transport": transport,
        "exports": "bench.fault_entrypoints",
        "grace_ms": _GRACE_MS,
        "log_level": "error",
        "runtime_dir": str(scratch / "pools"),
        "linger_ms": 0,
    }
    with (
        Client(executors=1, worker_name="alone", **options) as alone,
        Client(executors=os.cpu_count() or 1, worker_name="whole", **options) as whole,
    ):
        yield alone, whole


def _measure_all(
    transports: Sequence[str], rounds: int, console: Console
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by case and transport."""
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in _CASES}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="molt-faults-")))
        clients = {name: stack.enter_context(_clients(name, scratch)) for name in transports}
        quiet = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stderr(quiet))
        for number in track(range(rounds), "rounds", console=console):
            for index, (name, measure) in enumerate(_CASES.items()):
                for transport in transports if number % 2 == 0 else transports[::-1]:
                    client = clients[transport][name.startswith("kill")]
                    client.start()
                    _wait_for(lambda client=client: _ready(client, 0))  # type: ignore[misc]
                    path = scratch / f"{number}-{index}-{transport}"
                    times[name][transport].append(measure(client, path) * 1000)
    return times


def main() -> int:
    """Run the command. Returns its exit code."""
    parser = _parser()
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}, allowed are whole numbers from 1")
    os.chdir(ROOT)
    console = Console()
    try:
        times = _measure_all(given.transport, given.rounds, console)
    except (MoltError, TimeoutError) as exc:
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    columns = [
        f"{transport} {column}" for transport in given.transport for column in ("median", "p90", "max")
    ]
    rows = []
    for name, by_transport in times.items():
        cells = [name]
        for transport in given.transport:
            values = sorted(by_transport[transport])
            cells += (
                f"{value:.1f}" for value in (percentile(values, 50), percentile(values, 90), values[-1])
            )
        rows.append(tuple(cells))
    title = f"{given.rounds} rounds; grace time {_GRACE_MS} ms; all figures in ms"
    show_table(console, Table(title, ("case", *columns), tuple(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
