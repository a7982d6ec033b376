"""Counts where the time of a call goes: system calls, switches, migrations, processor time and waiting, on each side.

    python bench/scripts/run_attribution.py            # about half a minute

Prints a table in Markdown. In each column stands what one call costs its client, and behind the slash what it costs
executors and supervisor. `ready` is time in which a thread would have run and others had the processors; `asleep` what
is left of a lone caller's time. Needs perf (Debian: linux-perf), and root. perf itself makes calls slower: compare
counts with each other, and take times from the other benchmarks. How many instructions: count_instructions.py.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import command

command.need("bench-micro", "molt_accel", "msgpack", "psutil", "rich")

from rich.progress import track  # noqa: E402

from bench.attribution.counters import Counting  # noqa: E402
from bench.attribution.rows import ROWS, Counted, Row, table  # noqa: E402
from bench.core import BenchError  # noqa: E402
from bench.core.cpu import pids_of  # noqa: E402
from bench.core.processes import Family  # noqa: E402
from bench.micro.burners import Burners, cores_to_burn  # noqa: E402
from bench.micro.client_process import ClientProcess, PeerFailed, begin_window  # noqa: E402
from bench.micro.peers.base import Unavailable  # noqa: E402

PROGRAM = "run_attribution.py"
EXECUTORS, PAYLOAD_BYTES, WARM_UP = 2, 64, 300
PATIENCE_S = 60.0
ATTACHED_NS = 200_000_000
"""Time for perf to attach before calls begin."""


def measure(row: Row, seconds: float, scratch: Path) -> Counted:
    """Count one row. Raises PeerFailed, Unavailable and BenchError."""
    mark = f"attribution-{secrets.token_hex(6)}"
    with ExitStack() as stack:
        clients = []
        for number in range(row.clients):
            settings = {} if row.spins else {"MOLT_SPIN_US": "0"}
            client = ClientProcess(scratch / f"{mark}-{number}.log", mark, settings=settings)
            stack.callback(client.close)
            clients.append(client)
            client.ask(
                "start",
                peer=row.peer,
                scratch=str(scratch / mark),
                workers=EXECUTORS,
                first=number == 0,
                timeout_s=PATIENCE_S,
            )
            client.ask("warm_up", size=PAYLOAD_BYTES, calls=WARM_UP, timeout_s=PATIENCE_S)
        pids = {client.pid for client in clients}
        worker = set(pids_of(Family(None, mark))) - pids
        stack.enter_context(Burners(cores_to_burn(row.busy)))
        calls_in(clients, row, seconds / 4)  # and a while before, so that waiters have learned what to do
        counting = Counting(pids), Counting(worker)
        calls = calls_in(clients, row, seconds)
        mine, theirs = (each.end() for each in counting)
        return Counted(row, calls, seconds, mine, theirs)


def calls_in(clients: Sequence[ClientProcess], row: Row, seconds: float) -> int:
    """How many calls the clients of a row make in so many seconds. Raises PeerFailed."""
    begin_window(clients, size=PAYLOAD_BYTES, callers=row.count, window_s=seconds, head_start_ns=ATTACHED_NS)
    return sum(client.receive(seconds + PATIENCE_S)["calls"] for client in clients)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    made = command.argument_parser(PROGRAM, __doc__)
    command.add_options(made, ("--seconds", float, "S", "how long each row is counted", 2.0))
    given = made.parse_args(arguments)
    try:
        command.check_bounds({"--seconds": given.seconds}, 0.1, 600, "0.1 to 600 seconds")
        with tempfile.TemporaryDirectory(prefix="ma-") as scratch:
            counted = [
                measure(row, given.seconds, Path(scratch)) for row in track(ROWS, "counting", transient=True)
            ]
        print(table(counted))
    except (BenchError, PeerFailed, Unavailable) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return command.CANNOT_RUN
    except KeyboardInterrupt:
        return command.INTERRUPTED
    return command.DONE


if __name__ == "__main__":
    sys.exit(main())
