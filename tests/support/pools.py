"""What tests of shared pools have in common: the pool's name, a look into its memory, and its log."""

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client
from molt_accel.ipc.control import socket_path
from molt_accel.ipc.shm.attach import connect, observe
from molt_accel.ipc.shm.layout import ChannelState, state_of
from tests.support.peer import ENTRIES, PATIENCE_S, SHARED
from tests.support.processes import closing_all, logged_worker, wait_for_file, wait_until

#: None of these may ever stand in a worker's log, nor a traceback that is not part of a line: they are bugs of its own.
BUGS = re.compile(r"supervisor_bug|executor_failed|forkserver_failed|^Traceback", re.M)


class Window:
    """A look at the state words of a pool, as an observer has it: the supervisor isn't asked for them."""

    def __init__(self, name: str = "pool") -> None:
        sock = connect(path_of(name))
        assert sock is not None
        self._sock: socket.socket = sock
        self.view = observe(sock)

    def states(self) -> Counter[ChannelState]:
        """How many channels are in which state, without those that are IDLE."""
        words = [self.view.word(channel) for channel in range(self.view.in_use)]
        return Counter(state for state in map(state_of, words) if state is not ChannelState.IDLE)

    def wait(self, *states: ChannelState) -> None:
        """Wait until the channels that are not IDLE are in these states, and no others."""
        wanted = Counter(states)
        wait_until(lambda: self.states() == wanted, PATIENCE_S)

    def close(self) -> None:
        self._sock.close()


class Gate:
    """Requests that occupy all executors until it is opened."""

    def __init__(self, client: Client, folder: Path, executors: int = 1) -> None:
        self._threads = ThreadPoolExecutor(executors)
        self._paths = [folder / f"gate{number}" for number in range(executors)]
        self._calls = [
            self._threads.submit(client.call, "wait_for_file", str(path), timeout_ms=None)
            for path in self._paths
        ]
        for path in self._paths:
            wait_for_file(f"{path}.running")

    def open(self) -> None:
        for path in self._paths:
            path.touch()
        assert [call.result(PATIENCE_S) for call in self._calls] == ["released"] * len(self._calls)
        self._threads.shutdown()


MakeClient = Callable[..., Client]
Share = Callable[..., Client]
Look = Callable[..., Window]


def path_of(name: str = "pool") -> str:
    return socket_path(os.environ["MOLT_RUNTIME_DIR"], name)


@pytest.fixture
def window() -> Iterator[Look]:
    with closing_all(Window) as look:
        yield look


@pytest.fixture
def pool_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log of all workers that are started meanwhile, which must not tell of bugs."""
    log = tmp_path / "pool.log"
    monkeypatch.setenv("MOLT_WORKER_CMD", logged_worker(log))
    log.touch()
    yield log
    text = log.read_text(errors="backslashreplace")
    assert not BUGS.search(text), text


@pytest.fixture
def share(pool_log: Path) -> Iterator[Share]:
    with closing_all(lambda **config: Client(**{**SHARED, **config})) as make:
        yield make


@pytest.fixture
def serve(pool_log: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts workers by hand, as a service manager does, and kills them in the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, name: str = "pool", ready: bool = True) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "molt_worker", "--shm", name]
        with pool_log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--exports", ENTRIES, "--executors", "2", *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        started.append(process)
        if ready:
            wait_until(lambda: os.path.exists(path_of(name)) or process.poll() is not None, PATIENCE_S)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def with_worker(client: Client) -> Client:
    """The client, once its worker is ready."""
    client.start()
    return client


def health(client: Client) -> dict[str, Any]:
    return client.ping(timeout_ms=PATIENCE_S * 1000)


def idle(client: Client) -> dict[str, Any]:
    """Wait until every executor of the pool is idle and none is on its way; returns the report."""

    def whole() -> dict[str, Any] | None:
        found = health(client)
        pool = found["executors"]
        return found if (pool["idle"], len(pool["pids"])) == (pool["size"], pool["size"]) else None

    return dict(wait_until(whole, PATIENCE_S))
