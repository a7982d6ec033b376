"""The matrix's entrypoints, and the ledger in which each run of a request is counted."""

import functools
import mmap
import os
import signal
import time
from typing import Final

from molt_accel.ipc.failpoint import failpoint
from molt_worker import export
from tests.support.entrypoints import sleep_through_everything

#: Requests by number, modulo this: more than there are between two looks at the ledger.
LEDGER_BYTES: Final = 1 << 20
Order = tuple[int, object]


@functools.cache
def ledger() -> mmap.mmap:
    """How often each request was run; shared by all processes of a stage."""
    with open(os.environ["MOLT_MATRIX_LEDGER"], "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def runs(number: int) -> int:
    """How often the request of this number was run."""
    return ledger()[number % LEDGER_BYTES]


def _begin(order: Order) -> Order:
    # Here, and not in the runner: no call shall pay for it.
    failpoint("executor.running")
    ledger()[order[0] % LEDGER_BYTES] += 1
    return order


@export
def echo(order: Order) -> Order:
    """Returns what it got."""
    return _begin(order)


@export
def nap(order: Order) -> Order:
    """Sleeps so many seconds; a soft interrupt ends it."""
    _begin(order)
    time.sleep(float(str(order[1])))
    return order


@export(max_concurrency=1)
def narrow(order: Order) -> Order:
    """Sleeps so many seconds; one at a time."""
    _begin(order)
    time.sleep(float(str(order[1])))
    return order


@export
def stuck(order: Order) -> Order:
    """Swallows every interrupt."""
    _begin(order)
    sleep_through_everything()


@export
def crash(order: Order) -> Order:
    """Kills its executor."""
    _begin(order)
    os.kill(os.getpid(), signal.SIGKILL)
    return order
