"""Counts where the time of a call goes: system calls, switches, migrations and processor time, on each side.

    python bench/scripts/run_attribution.py            # about half a minute

Prints a table in Markdown. In each column stands what one call costs its client, and behind the slash what it costs
executors and supervisor. Needs perf (Debian: linux-perf), and root. perf itself makes calls slower: compare counts with
each other, and take times from the other benchmarks. How many instructions a call takes: count_instructions.py.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.core import command  # noqa: E402

command.need("bench-micro", "molt_accel", "msgpack", "psutil", "rich")

from rich.progress import track  # noqa: E402

from bench.attribution.counters import Counting  # noqa: E402
from bench.attribution.rows import ROWS, Counted, Row, table  # noqa: E402
from bench.core import BenchError  # noqa: E402
from bench.micro.burners import Burners, cores_to_burn  # noqa: E402

PROGRAM = "run_attribution.py"
STOP_S = 20.0


def start(row: Row, number: int, pool: str) -> subprocess.Popen[str]:
    """Start a client process of a row."""
    environment = dict(os.environ) | ({} if row.spins else {"MOLT_SPIN_US": "0"})
    return subprocess.Popen(
        [sys.executable, "-m", "bench.attribution.caller", pool, row.way, str(row.count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, start_new_session=True,
    )  # fmt: skip


def said(client: subprocess.Popen[str]) -> str:
    """A client's next line. Raises BenchError if it has ended."""
    assert client.stdout is not None
    if line := client.stdout.readline():
        return line
    raise BenchError(f"a client process ended with code {client.wait()}")


def tell(client: subprocess.Popen[str], what: str) -> None:
    """Give a client a line."""
    assert client.stdin is not None
    client.stdin.write(what + "\n")
    client.stdin.flush()


def measure(row: Row, number: int, seconds: float) -> Counted:
    """Count one row. Raises BenchError."""
    with ExitStack() as stack:
        clients = []
        for index in range(row.clients):
            clients.append(start(row, index, f"attribution-{os.getpid()}-{number}"))
            stack.callback(stop, clients[-1])
        worker = {int(pid) for client in clients for pid in said(client).split()}
        stack.enter_context(Burners(cores_to_burn(row.busy)))
        for client in clients:  # and a while before, so that waiters have learned what to do
            tell(client, str(seconds / 4))
        for client in clients:
            said(client)
        counting = Counting(client.pid for client in clients), Counting(worker)
        time.sleep(0.2)  # perf is attached
        for client in clients:
            tell(client, str(seconds))
        calls = sum(int(said(client)) for client in clients)
        mine, theirs = (each.end() for each in counting)
        return Counted(row, calls, seconds, mine, theirs)


def stop(client: subprocess.Popen[str]) -> None:
    """Have a client end, and its pool with the last one."""
    assert client.stdin is not None
    client.stdin.close()
    try:
        client.wait(STOP_S)
    except subprocess.TimeoutExpired:
        client.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    made = command.argument_parser(PROGRAM, __doc__)
    command.add_options(made, ("--seconds", float, "S", "how long each row is counted", 2.0))
    given = made.parse_args(arguments)
    try:
        command.check_bounds({"--seconds": given.seconds}, 0.1, 600, "0.1 to 600 seconds")
        rows = track(list(enumerate(ROWS)), "counting", transient=True)
        print(table([measure(row, number, given.seconds) for number, row in rows]))
    except BenchError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
