"""A worker driven frame by frame, without the client library: every byte on its way is the test's."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import pytest

from molt_accel import codec
from molt_accel.errors import Status
from molt_accel.ipc.frame import DEFAULT_MAX_FRAME_BYTES, FrameError, Item, encode
from molt_accel.ipc.messages import PING, STDIO_FROM_WORKER, Cancel, Codec, Hello, Request, Response
from molt_accel.ipc.stream import FrameStream
from tests.support import EXPORTS
from tests.support.processes import wait_until

#: Longer than anything here takes on a slow machine; reaching it is a failure.
PATIENCE_S = 30.0
Taken = TypeVar("Taken", bound=Item)
COMMAND = [sys.executable, "-m", "molt_worker", "--stdio"]
#: Entrypoints that run until they are stopped, and whether their executor survives that.
STOPPED = [
    ("announce_and_sleep", True), ("spin", True), ("check_loop", True), ("clean_up", True),
    ("swallow_stop", True), ("stuck_in_c", False), ("never_stops", False),
]  # fmt: skip


class Driver:
    """One worker process and the frames it sent so far.

    Args:
        log_path: The file that becomes the worker's stderr.
        flags: Command line flags; those given later win.
        stdin, stdout: Descriptors in place of pipes, as for Popen.
    """

    def __init__(
        self, log_path: Path, *flags: str, stdin: Any = subprocess.PIPE, stdout: Any = subprocess.PIPE
    ):
        self._log_path = log_path
        with log_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, "--exports", EXPORTS, "--executors", "1", *flags],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                bufsize=0,
            )
        self.pid = self.process.pid
        self.received: list[Item] = []
        self.ended = False
        self._ids = 0
        self._known: set[psutil.Process] = set()  # its descendants
        pipes = [pipe.fileno() for pipe in (self.process.stdout, self.process.stdin) if pipe is not None]
        for fd in pipes:
            os.set_blocking(fd, False)
        self.stream: FrameStream | None = None
        if len(pipes) == 2:
            self.stream = FrameStream(*pipes, DEFAULT_MAX_FRAME_BYTES, STDIO_FROM_WORKER)

    # -- bytes and frames -------------------------------------------------------------------------------
    def send_bytes(self, data: bytes) -> None:
        assert self.stream is not None
        self.stream._out.append(data)
        self.stream.pending_bytes += len(data)
        while not self.stream.flush():
            self._pump(PATIENCE_S, writing=True)

    def send(self, item: Request | Response | Cancel) -> int:
        self.send_bytes(encode(item))
        return item.request_id

    def request(self, entry: str, payload: object = None, **fields: Any) -> Request:
        self._ids += 1
        fields = {"request_id": self._ids, "sent_ns": time.monotonic_ns(), **fields}
        data = codec.encode(fields.get("codec", Codec.MSGPACK), payload)
        return Request(entry=entry, payload=data, **fields)

    def start(self, entry: str, payload: object = None, **fields: Any) -> int:
        return self.send(self.request(entry, payload, **fields))

    def call(self, entry: str, payload: object = None, **fields: Any) -> Response:
        return self.response(self.start(entry, payload, **fields))

    def cancel(self, request_id: int, generation: int = 0) -> None:
        self.send(Cancel(request_id, generation))

    def _pump(self, timeout_s: float, *, writing: bool = False) -> None:
        assert self.stream is not None
        poll = select.poll()
        poll.register(self.stream.read_fd, select.POLLIN)
        if writing:
            poll.register(self.stream.write_fd, select.POLLOUT)
        ready = dict(poll.poll(timeout_s * 1000))
        if self.stream.read_fd in ready:
            self.ended = self.stream.fill() is None
            for item in self.stream.frames():
                assert not isinstance(item, FrameError), f"the worker sent a bad frame: {item}"
                self.received.append(item)

    def take(self, kind: type[Taken], wanted: Callable[[Taken], bool] = lambda item: True) -> Taken:
        until = time.monotonic() + PATIENCE_S
        seen = 0
        while True:
            for index in range(seen, len(self.received)):
                item = self.received[index]
                if isinstance(item, kind) and wanted(item):
                    del self.received[index]
                    return item
            seen = len(self.received)
            assert not self.ended, f"the worker closed its stdout: {self.log()}"
            assert time.monotonic() < until, f"no such frame came: {self.log()}"
            self._pump(until - time.monotonic())

    def response(self, request_id: int) -> Response:
        return self.take(Response, lambda response: response.request_id == request_id)

    def drain(self) -> list[Item]:
        """Everything that comes until the worker closes its stdout."""
        until = time.monotonic() + PATIENCE_S
        while not self.ended:
            assert time.monotonic() < until, "the worker didn't stop"
            self._pump(until - time.monotonic())
        return self.received

    # -- the worker -------------------------------------------------------------------------------------
    def wait_ready(self) -> Self:
        self.take(Hello)
        self.wait_idle()
        return self

    def wait_idle(self) -> dict[str, Any]:
        """Wait until every executor of the pool is idle and none is on its way; returns the report."""

        def whole() -> dict[str, Any] | None:
            report = self.ping()
            pool = report["executors"]
            return report if (pool["idle"], len(pool["pids"])) == (pool["size"], pool["size"]) else None

        return dict(wait_until(whole))

    def ping(self) -> dict[str, Any]:
        self.remember_descendants()
        return dict(value_of(self.call(PING)))

    def pids(self) -> list[int]:
        return list(self.ping()["executors"]["pids"])

    def remember_descendants(self) -> None:
        try:
            self._known |= set(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def rss(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def log(self) -> str:
        return self._log_path.read_text(errors="backslashreplace")

    def wait_log(self, text: str) -> str:
        wait_until(lambda: text in self.log())
        return self.log()

    def end_input(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End the worker if it lives, and check that it had no bug of its own and left nobody."""
        self.remember_descendants()
        self.end_input()
        if self.process.stdout is not None:
            self.process.stdout.close()
        try:
            self.wait()
        finally:
            self.process.kill()
            self.process.wait()
        wait_until(lambda: all(dead(process) for process in self._known))
        assert "supervisor_bug" not in self.log(), self.log()
        assert "executor_failed" not in self.log(), self.log()
        assert "forkserver_failed" not in self.log(), self.log()


def dead(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie has, and waits only for somebody to reap it."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def value_of(response: Item) -> Any:
    assert isinstance(response, Response)
    body = codec.decode(response.codec, response.payload)
    assert response.status is Status.OK, body
    return body


def error_of(response: Item) -> tuple[Status, dict[str, Any]]:
    assert isinstance(response, Response)
    assert response.status is not Status.OK
    return response.status, codec.decode(Codec.MSGPACK, response.payload)


def deadline(ms: float) -> int:
    """The `deadline_ns` that lies so many milliseconds ahead."""
    return time.monotonic_ns() + int(ms * 1e6)


MakeDriver = Callable[..., Driver]
MakeModule = Callable[[str, str], Path]


@pytest.fixture
def make_driver(tmp_path: Path) -> Iterator[MakeDriver]:
    """Starts drivers with the tests' entrypoints and one executor, and closes them in the end."""
    drivers: list[Driver] = []

    def make(*flags: str, ready: bool = True, **pipes: Any) -> Driver:
        driver = Driver(tmp_path / f"worker{len(drivers)}.log", *flags, **pipes)
        drivers.append(driver)
        return driver.wait_ready() if ready else driver

    yield make
    for driver in drivers:
        driver.close()


#: For `make_module`: executors that do as `act` says when they are forked, as long as the file `switch` is there.
FORK_HOOK = """
import os
from molt_worker import export

def hook():
    if os.path.exists({switch!r}):
        open({log!r}, "a").write("start\\n")
        {act}

os.register_at_fork(after_in_child=hook)

@export
def answer(payload):
    return 42

@export
def die(payload):
    os._exit(1)
"""

#: For `make_module`: the import waits for the file `gate`.
SLOW_EXPORTS = """
import os, time
while not os.path.exists({gate!r}):
    time.sleep(0.001)
from molt_worker import export

@export
def answer(payload):
    return 42
"""


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """Writes a module that workers started from now on can import; returns its path."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # a rewrite within one second must be seen

    def make(name: str, source: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(source)
        return path

    return make
