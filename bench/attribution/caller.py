"""A client process that calls as long as it is told, in one of several ways.

python -m bench.attribution.caller POOL WAY COUNT

Writes the pids of the pool's executors and `ready`, then for each line with a number of seconds how many calls it made.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from bench.micro.peers.molt import EXPORTS, WORKER
from molt_accel import Client

VALUE: Final = {"a": list(range(8)), "k": "x" * 20}
WARM: Final = 300
EXECUTORS: Final = 2


def by_threads(client: Client, count: int, until_s: float) -> int:
    """Call from so many threads. Returns how many calls were made."""
    counts = [0] * count

    def run(index: int) -> None:
        while time.monotonic() < until_s:
            client.call("echo", VALUE)
            counts[index] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def by_tasks(client: Client, count: int, until_s: float) -> int:
    """Call from so many tasks of one event loop. Returns how many calls were made."""
    counts = [0] * count

    async def run(index: int) -> None:
        while time.monotonic() < until_s:
            await client.acall("echo", VALUE)
            counts[index] += 1

    async def all_of_them() -> None:
        await asyncio.gather(*(run(index) for index in range(count)))

    asyncio.run(all_of_them())
    return sum(counts)


WAYS: Final[dict[str, Callable[[Client, int, float], int]]] = {"threads": by_threads, "tasks": by_tasks}


def main(pool: str, way: str, count: str) -> None:
    """Serve the lines of stdin."""
    with Client(
        transport="shm",
        worker_cmd=[*WORKER],
        worker_name=pool,
        exports=EXPORTS,
        executors=EXECUTORS,
        linger_ms=1000,
        log_level="warning",
    ) as client:
        client.start()
        for _ in range(WARM):
            client.call("echo", VALUE)
        report = client.ping()
        print(report["pid"], *report["executors"]["pids"], flush=True)
        for line in sys.stdin:
            print(WAYS[way](client, int(count), time.monotonic() + float(line)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
