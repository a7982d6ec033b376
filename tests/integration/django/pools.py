"""A client and a multiprocessing pool, as a program: ``python -m tests.integration.django.pools METHOD``."""

import multiprocessing
import os
import sys
import warnings

from molt_accel import Client
from tests.support import EXPORTS

client = Client(exports=EXPORTS, executors=1, log_level="error")


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
    workers = {worker for _, worker in pairs}
    assert len(dict(pairs)) == len(pairs), pairs  # none ever changed its worker
    assert own not in pairs
    if client.config.transport == "shm":
        assert workers == {own[1]}, pairs
    else:
        assert len(workers) == len(pairs), pairs
        assert own[1] not in workers
    assert call(-1) == own
    print("done")


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: a fork of a process with threads
    main(sys.argv[1])
