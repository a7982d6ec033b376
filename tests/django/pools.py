"""A client and a multiprocessing pool, as a program: ``python -m tests.django.pools METHOD``."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings

from molt_accel import Client
from tests.conftest import EXPORTS

client = Client(transport="stdio", exports=EXPORTS, executors=1, log_level="error")


def call(number: int) -> tuple[int, int]:
    """This process and its worker, after a call."""
    assert client.call("echo", number) == number
    return os.getpid(), client.ping(timeout_ms=20_000)["pid"]


def main(method: str) -> None:
    """Make calls in this process and in a pool's, and compare who made them."""
    own = call(-1)
    with multiprocessing.get_context(method).Pool(2) as pool:
        pairs = set(pool.map(call, range(20), chunksize=1))
        pool.close()
        pool.join()
    assert len(dict(pairs)) == len(pairs) == len({worker for _, worker in pairs}), pairs
    assert own not in pairs
    assert call(-1) == own
    print("done")


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: a fork of a process with threads
    main(sys.argv[1])
