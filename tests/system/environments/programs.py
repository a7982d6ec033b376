"""What is run in those places:
``python -m tests.system.environments.programs NAME ARGUMENT...`` prints a line of JSON.
"""

import contextlib
import json
import logging
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from molt_accel import Client, MoltError, MoltTimeout
from molt_accel.ipc.shm.layout import Gauge
from tests.support import EXPORTS
from tests.support.processes import wait_until

_LARGE = os.urandom(3_000_000)
_LONG_MS = 60_000


def _client(**config: Any) -> Client:
    return Client(**{"exports": EXPORTS, "executors": 2, "log_level": "error", **config})


def _use(client: Client) -> None:
    """Small and large calls, several at a time."""
    with ThreadPoolExecutor(4) as threads:
        small = threads.map(lambda number: client.call("echo", number, timeout_ms=_LONG_MS), range(40))
        large = [
            threads.submit(client.call, "echo_raw", _LARGE, codec="raw", timeout_ms=_LONG_MS)
            for _ in range(4)
        ]
        assert list(small) == list(range(40))
        assert all(each.result() == _LARGE for each in large)


def _told(client: Client) -> dict[str, Any]:
    report = client.ping(timeout_ms=_LONG_MS)
    return {"transport": report["transport"], "deaths": report["executor_deaths"], "pid": report["pid"]}


def calls(transport: str) -> dict[str, Any]:
    """A client that is used; or the error that its first call ends with."""
    with _client(transport=transport) as client:
        try:
            client.call("echo", 1, timeout_ms=_LONG_MS)
        except MoltError as exc:
            return {"error": type(exc).__name__, "detail": exc.detail}
        _use(client)
        return _told(client)


def pools(count: str) -> dict[str, Any]:
    """Several pools with defaults, all of them used at the same time; what became of each."""
    found = []
    with contextlib.ExitStack() as stack:
        for number in range(int(count)):
            client = stack.enter_context(_client(transport="auto", worker_name=f"pool{number}"))
            client.start()
            found.append(client)
        with ThreadPoolExecutor(len(found)) as threads:
            list(threads.map(_use, found))
        return {"transports": [_told(client)["transport"] for client in found]}


@contextlib.contextmanager
def _full(path: str) -> Iterator[None]:
    """Fill a file system to its last page meanwhile."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
        yield
    os.unlink(path)


def filled(transport: str) -> dict[str, Any]:
    """A pool that runs while /dev/shm is filled, and is used then, by pages that it has never touched before."""
    with _client(transport=transport) as client:
        client.start()
        before = _told(client)
        with _full("/dev/shm/filler"):
            _use(client)
            with _client(transport=transport) as second:  # attaches while there is no room
                _use(second)
            other = _client(transport="shm", worker_name="other")
            try:
                other.call("echo", 1, timeout_ms=_LONG_MS)
            except MoltError as exc:
                refused = exc.detail
            other.close()
        return {"same": _told(client) == before, **before, "refused": refused}


def idle(transport: str) -> dict[str, Any]:
    """What a client and its worker need in a second without calls, and how many of both may spin."""
    with _client(transport=transport) as client:
        _use(client)
        supervisor = psutil.Process(_told(client)["pid"])
        family = [psutil.Process(), supervisor, *supervisor.children(recursive=True)]

        def spent_s() -> float:
            return sum(times.user + times.system for times in (each.cpu_times() for each in family))

        before_s = spent_s()
        time.sleep(1)
        spent = spent_s() - before_s
        connection: Any = getattr(client._transport, "_connection", None)
        arena = getattr(connection, "arena", None)
        return {
            "spent_s": spent,
            "spinners": sum(map(arena.gauge, (Gauge.CLIENT_SPINNERS, Gauge.EXECUTOR_SPINNERS)))
            if arena
            else 0,
            "cpus": len(os.sched_getaffinity(0)),
            "members": len(family),
        }


def stepped(transport: str, path: str) -> dict[str, Any]:
    """Calls under way while the wall clock is stepped by hours, forth and back."""
    with (
        open(path, "r+b") as file,
        mmap.mmap(file.fileno(), 8) as memory,
        _client(transport=transport) as client,
    ):
        client.start()
        offset = memoryview(memory).cast("q")
        stop = threading.Event()

        def step() -> None:
            while not stop.is_set():
                for hours in (6, 0, -6, 0):
                    offset[0] = hours * 3600 * 10**9
                    stop.wait(0.02)

        offset[0] = 6 * 3600 * 10**9
        jumped_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        offset[0] = 0
        jumped_s -= time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        stepper = threading.Thread(target=step)
        stepper.start()
        late, began_s = 0, time.monotonic()
        try:
            for _ in range(8):
                assert client.call("sleep", 0.05, timeout_ms=_LONG_MS) == "slept"
                _use(client)
                try:
                    client.call("sleep", 50, timeout_ms=50)
                except MoltTimeout as exc:
                    late += exc.phase == "running"
            spent_s = time.monotonic() - began_s
        finally:
            stop.set()
            stepper.join()
            offset.release()
        return {"late": late, "spent_s": spent_s, "jumped_h": round(jumped_s / 3600), **_told(client)}


def patched(transport: str) -> dict[str, Any]:
    """gevent's greenlets in the place of threads: do others run while one waits, and does it see its worker die?"""
    from gevent import monkey

    monkey.patch_all()
    import gevent

    ticks = 0
    done = False

    def tick() -> None:
        nonlocal ticks
        while not done:
            ticks += 1
            gevent.sleep(0.005)

    with _client(transport=transport) as client:
        try:
            client.call("echo", 1, timeout_ms=_LONG_MS)
        except MoltError as exc:
            return {"error": type(exc).__name__, "detail": exc.detail}
        ticker = gevent.spawn(tick)
        slept = gevent.spawn(client.call, "sleep", 0.2, timeout_ms=_LONG_MS).get()
        done = True
        ticker.join()
        told = _told(client)
        endless = gevent.spawn(lambda: _outcome(client))
        wait_until(lambda: client.ping(timeout_ms=_LONG_MS)["in_flight"])
        os.kill(told["pid"], 9)
        return {**told, "slept": slept, "ticks": ticks, "outcome": endless.get(timeout=_LONG_MS / 1000)}


def _outcome(client: Client) -> str:
    try:
        return str(client.call("sleep", 1000, timeout_ms=None))
    except MoltError as exc:
        return type(exc).__name__


PROGRAMS = {each.__name__: each for each in (calls, pools, filled, idle, stepped, patched)}

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    print(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])))
