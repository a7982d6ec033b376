"""Counts the instructions that a call takes, by valgrind, and fails if a change has added more than 3 %.

    python bench/scripts/count_instructions.py            # about two minutes
    python bench/scripts/count_instructions.py --update   # these are the known ones from now on

Cases: `pipe` is multiprocessing.Pipe with pickle, which the others are held against; `call` the caller's part of
`Client.call`; `view` what offloading adds to a view of Django in the server, the call included; `serve` all of the
executor's part; `run` that but for the ring; `ring` both sides of the ring alone.

Exit codes: 0 done, 1 can't run, 2 wrong usage, 3 a case takes more than is allowed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.instructions import count, gate


def main() -> int:
    """Count, print the table, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--update", action="store_true", help="write the counts to bench/instructions/known.json"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no worker is left behind
    where = count.here()
    try:
        now = count.all_cases(lambda line: print(line, file=sys.stderr, flush=True))
    except count.CountError as exc:
        print(f"count_instructions.py: {exc}", file=sys.stderr)
        return 1
    before = gate.known(where)
    print(gate.table(before, now))
    if options.update:
        gate.remember(where, now)
        return 0
    if before is None:
        print(f"nothing is known of {where}, so nothing is judged; --update keeps these counts")
        return 0
    wrong = gate.excesses(before, now)
    for each in wrong:
        print(each, file=sys.stderr)
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
