"""Client processes for tests of shared pools: real ones, that can be stopped and killed.

As a program it reads commands from stdin, a line of JSON each, runs each on a thread of its own, and writes what came
of it. `Peer` is the other end of that, in the test.
"""

import collections
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltError, errors
from tests.support import ROOT
from tests.support.processes import closing_all, wait_until

#: Longer than anything here takes on a slow machine; reaching it is a failure.
PATIENCE_S = 60.0
ENTRIES = "tests.support.pool_entrypoints"
#: What clients of shared pools have in common.
SHARED = {
    "transport": "shm", "worker_name": "pool", "exports": ENTRIES, "executors": 2, "log_level": "warning",
}  # fmt: skip


@contextlib.contextmanager
def loading(
    peers: list["Peer"],
    folder: Path,
    *,
    threads: int = 3,
    pause_s: float = 0,
    options: dict[str, Any] | None = None,
) -> Iterator[list[dict[str, int]]]:
    """Clients that call without a pause meanwhile, all of them from the start; afterwards their outcomes are there."""
    until = folder / "until"
    loads = [
        peer.start("load", until=str(until), threads=threads, pause_s=pause_s, options=options or {})
        for peer in peers
    ]
    outcomes: list[dict[str, int]] = []
    try:
        for peer in peers:
            wait_until(Path(f"{until}.{peer.pid}").exists, PATIENCE_S)
        yield outcomes
    finally:
        until.touch()
    for load in loads:
        outcomes.append(load.result(PATIENCE_S))
        calls = outcomes[-1].pop("calls")
        assert sum(outcomes[-1].values()) == calls  # each has exactly one


class Gone(Exception):
    """The peer's process ended before it answered."""


class Peer:
    """A client process."""

    def __init__(self, **config: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.peer", json.dumps({**SHARED, **config})],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._answers: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, do: str, **arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        assert self._process.stdin is not None
        with self._lock:
            self._number += 1
            self._answers[self._number] = answer
            line = json.dumps({"number": self._number, "do": do, **arguments})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return answer

    def do(self, do: str, **arguments: Any) -> Any:
        return self.start(do, **arguments).result(PATIENCE_S)

    def begin(self, entry: str, payload: Any = None, **options: Any) -> Future[Any]:
        return self.start("call", entry=entry, payload=payload, options=options)

    def call(self, entry: str, payload: Any = None, **options: Any) -> Any:
        return self.begin(entry, payload, **options).result(PATIENCE_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            future = self._answers.pop(answer["number"])
            if "error" in answer:
                kind = getattr(errors, answer["error"])
                future.set_exception(kind(answer["detail"], facts=answer["facts"]))
            else:
                future.set_result(answer["value"])
        for future in list(self._answers.values()):
            future.set_exception(Gone())

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop it, until `resume`. It has certainly stopped afterwards."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_S)

    def close(self) -> int:
        """Have it close its client and exit; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            return self._process.wait(PATIENCE_S)
        except BrokenPipeError:
            return self._process.wait(PATIENCE_S)
        finally:
            self.kill()
            self._process.stdout.close()


MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer() -> Iterator[MakePeer]:
    with closing_all(Peer) as make:
        yield make


# -- the program --------------------------------------------------------------------------------------------
def pattern(size: int, seed: int = 0) -> bytes:
    """So many bytes of which each part can be told from any other."""
    return random.Random(seed).randbytes(size)


def call(client: Client, entry: str, payload: Any, options: dict[str, Any]) -> Any:
    return client.call(entry, payload, **options)


def ping(client: Client) -> Any:
    return client.ping(timeout_ms=PATIENCE_S * 1000)


def here(client: Client) -> None:
    """Answer, without a word to the pool."""


def start(client: Client) -> None:
    client.start()


def close(client: Client) -> None:
    client.close()


def echo_bytes(client: Client, size: int, seed: int = 0, options: dict[str, Any] | None = None) -> bool:
    payload = pattern(size, seed)
    reply: bytes = client.call("echo_raw", payload, codec="raw", **(options or {}))
    return hashlib.sha256(reply).digest() == hashlib.sha256(payload).digest()


def big_reply(client: Client, order: dict[str, Any]) -> bool:
    reply: bytes = client.call("big_when", order, timeout_ms=120_000)
    expected = (bytes(range(251)) * (order["size"] // 251 + 1))[: order["size"]]
    return hashlib.sha256(reply).digest() == hashlib.sha256(expected).digest()


def load(
    client: Client,
    until: str,
    threads: int,
    who: str = "",
    pause_s: float = 0,
    options: dict[str, Any] | None = None,
) -> dict[str, int]:
    """Call from several threads until a file exists: how often each outcome. A wrong answer is one, too.

    The first good answer is told by another file.
    """
    outcomes: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def work(thread: int) -> None:
        seen: collections.Counter[str] = collections.Counter()
        number = 0
        while not os.path.exists(until):
            number += 1
            nonce = [who, os.getpid(), thread, number]
            try:
                outcome = "Ok" if client.call("echo", nonce, **(options or {})) == nonce else "WRONG"
                if not seen["Ok"]:
                    Path(f"{until}.{os.getpid()}").touch()
            except MoltError as exc:
                outcome = type(exc).__name__
                if outcome == "MoltWorkerUnavailable":
                    outcome += f": {exc.detail}"
            except BaseException as exc:
                outcome = repr(exc)
            seen[outcome] += 1
            time.sleep(pause_s)
        seen["calls"] = number
        with lock:
            outcomes.update(seen)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return dict(outcomes)


OPERATIONS = {each.__name__: each for each in (call, ping, here, start, close, echo_bytes, big_reply, load)}


def main(config: dict[str, Any]) -> None:
    client = Client(**config)
    writing = threading.Lock()

    def run(number: int, do: str, arguments: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"number": number}
        try:
            answer["value"] = OPERATIONS[do](client, **arguments)
        except MoltError as exc:
            answer |= {"error": type(exc).__name__, "detail": exc.detail, "facts": exc.facts}
            if not hasattr(errors, answer["error"]):
                answer["error"] = errors.row_of(exc).exception.__name__
        with writing:
            print(json.dumps(answer), flush=True)

    for line in sys.stdin:
        command = json.loads(line)
        number, do = command.pop("number"), command.pop("do")
        threading.Thread(target=run, args=(number, do, command), daemon=True).start()
    client.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
