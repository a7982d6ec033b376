"""A fork server that the test plays: the pool's sockets are real, but no process is forked."""

import contextlib
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from molt_accel.config import Config
from molt_accel.errors import MoltError
from molt_accel.ipc.frame import FrameError, FrameParser, Item, encode
from molt_accel.ipc.messages import Codec, Hello
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.processes import pool as pool_module
from molt_worker.processes.commands import (
    TO_FORKSERVER,
    Command,
    Exited,
    ExportRow,
    Kill,
    Ready,
    Spawn,
    Spawned,
)
from molt_worker.processes.endpoint import Endpoint
from molt_worker.processes.handles import ExecutorHandle, ExecutorState, ForkserverHandle, StopWords
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.runtime.metrics import Counters


class FakeForkserver(ForkserverHandle):
    """What the pool holds of a fork server whose other end is the test's."""

    #: What it has imported.
    rows: ClassVar = [ExportRow("echo", Codec.MSGPACK, Codec.MSGPACK, "m:echo", False)]

    def __init__(self, config: Config, words: StopWords, make_endpoint: object, descriptors: object) -> None:
        control, self.other_end = socket.socketpair()
        control.setblocking(False)
        self.other_end.setblocking(False)
        super().__init__(os.getpid(), control, config, words)
        self.started_ns = self.heard_ns = pool_module.time.monotonic_ns()  # it may be the test's clock
        self.killed = False
        self.forks = True  #: it has memory and processes for that
        self.stopped = False  #: by SIGSTOP: it reads nothing
        self._parser = FrameParser(messages=TO_FORKSERVER)
        self._fds: deque[int] = deque()
        self.told: list[Command] = []
        self.children: dict[int, FakeExecutor] = {}  # those it was told to fork

    def spawn(self, number: int) -> ExecutorHandle | None:
        executor = super().spawn(number)
        if executor is not None:
            executor.asked_ns = pool_module.time.monotonic_ns()
        return executor

    def kill(self) -> None:
        self.killed = True
        self.other_end.close()

    def reap(self) -> int:
        return -9 if self.killed else 0

    def report(self, message: Item) -> None:
        self.other_end.sendall(encode(message))

    def loaded(self) -> None:
        self.report(Ready(self.rows))

    def exited(self, number: int, code: int) -> None:
        self.report(Exited(number, code))

    def obey(self) -> None:
        while self.other_end.fileno() >= 0 and not self.stopped:
            try:
                data, fds, _, _ = socket.recv_fds(self.other_end, 65536, 16)
            except BlockingIOError:
                return
            if not data:
                return
            self._fds.extend(fds)
            self._parser.feed(data)
            for item in self._parser.frames():
                assert isinstance(item, Command)
                self.told.append(item)
                if isinstance(item, Spawn) and not self.forks:
                    os.close(self._fds.popleft())
                    self.exited(item.executor, 1)
                elif isinstance(item, Spawn):
                    child = FakeExecutor(socket.socket(fileno=self._fds.popleft()), item.slot)
                    self.children[item.executor] = child
                    self.report(Spawned(item.executor, os.getpid()))

    def close(self) -> None:
        self.stopped = False
        self.obey()
        self.other_end.close()
        self.control.close()
        for child in self.children.values():
            child.sock.close()


class FakeExecutor:
    def __init__(self, sock: socket.socket, slot: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.slot = slot
        self._parser = FrameParser()

    def greet(self) -> None:
        self.send(Hello())

    def send(self, item: Item) -> None:
        self.sock.sendall(encode(item))

    def received(self) -> list[Item | FrameError]:
        while True:
            try:
                data = self.sock.recv(65536)
            except (BlockingIOError, ConnectionResetError):
                break
            if not data:
                break
            self._parser.feed(data)
        return self._parser.frames()

    def retired(self) -> bool:
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False


class Logged:
    """Something with a log, fake fork servers perhaps, and an end."""

    def __init__(self) -> None:
        self._log_file = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self.sink = LogSink(as_json=False, level="debug", fd=self._log_file.fileno())
        self.forkservers: list[FakeForkserver] = []

    @property
    def forkserver(self) -> FakeForkserver:
        """The newest one."""
        return self.forkservers[-1]

    def log(self) -> str:
        self._log_file.seek(0)
        return self._log_file.read().decode()

    def forget_log(self) -> None:
        self._log_file.truncate(0)

    def close(self) -> None:
        for forkserver in self.forkservers:
            forkserver.close()
        self.sink.close()
        self._log_file.close()


class Stage(Logged):
    """A pool with fake fork servers, and the loop that moves it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.config = Config.load(environ={}, **{"executors": 2, **options})
        self.loop = EventLoop(self.sink)
        self.counters = Counters()
        self.pool: Any = None
        self.owner: Any = None
        self.settle: Callable[[], object] = lambda: None  # called before each turn

    def numbers(self) -> list[int]:
        return [executor.number for executor in self.pool.living()]

    def executor(self, number: int) -> ExecutorHandle:
        executor: ExecutorHandle = self.pool._executors[number]
        return executor

    def turn(self) -> None:
        """Let everything happen that can without waiting for time to pass."""
        for _ in range(20):
            for forkserver in self.forkservers:
                forkserver.obey()
            self.settle()
            self.loop.at(1)  # something is due at once, so that a turn never waits
            self.loop.turn(lambda now_ns: None)

    def pass_time(self, seconds: float) -> None:
        """Let the pool look at everything that has a time, as if so much had passed."""
        self.pool.on_timers(time.monotonic_ns() + int(seconds * 1e9))
        self.turn()

    def load(self) -> FakeForkserver:
        self.pool.start_forkserver()
        forkserver = self.forkservers[-1]
        forkserver.loaded()
        self.turn()
        return forkserver

    def start(self) -> FakeForkserver:
        forkserver = self.load()
        for child in list(forkserver.children.values()):
            child.greet()
        self.turn()
        return forkserver

    def greet(self, number: int) -> None:
        self.forkserver.children[number].greet()
        self.turn()

    def reap(self, number: int, code: int) -> None:
        self.forkserver.children[number].sock.close()
        self.turn()
        self.forkserver.exited(number, code)
        self.turn()

    def close(self) -> None:
        super().close()
        if self.pool is not None:
            for executor in self.pool._executors.values():
                executor.sock.close()
        self.loop.close()


class Recorder:
    """The pool's owner and delivery: writes down what it is told; executors served as many as `counts` says."""

    descriptors = ()

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.told: list[tuple[Any, ...]] = []
        self.counts: dict[int, int] = {}
        self.accepts = True
        self.is_idle = False

    def seen(self) -> list[tuple[Any, ...]]:
        told, self.told = self.told, []
        return told

    def make_endpoint(self, sock: socket.socket, number: int, slot: int) -> Endpoint:
        pytest.fail("forked")

    def withdraw(self, executor: ExecutorHandle) -> bool:
        self.told.append(("withdrawn", executor.number))
        return self.is_idle

    def served(self, executor: ExecutorHandle) -> int:
        return self.counts.get(executor.number, 0)

    def on_executor_ready(self, executor: ExecutorHandle) -> None:
        assert executor.state is ExecutorState.READY
        self.told.append(("ready", executor.number))

    def on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        self.told.append(("message", executor.number, message))
        return self.accepts

    def on_closed(self, executor: ExecutorHandle) -> None:
        self.stage.forkservers[-1].obey()
        killed = any(Kill(executor.number) in forkserver.told for forkserver in self.stage.forkservers)
        self.told.append(("closed", executor.number, executor.state, killed))

    def on_reaped(self, executor: ExecutorHandle, exit_code: int | None) -> None:
        assert executor.slot in self.stage.pool.words._lent  # nobody else is in it yet
        self.told.append(("reaped", executor.number, exit_code))

    def on_exports(self, exports: ExportTable) -> None:
        assert self.stage.pool.exports is exports
        self.told.append(("exports", len(exports), self.stage.counters.reloads))

    def on_reload_failed(self, why: MoltError) -> None:
        self.told.append(("reload failed", type(why), why.detail))

    def on_start_failed(self, why: MoltError) -> None:
        self.told.append(("start failed", type(why), why.detail))


def record(stage: Stage, slots: int = 16) -> Pool:
    stage.owner = Recorder(stage)
    return Pool(
        *(stage.config, stage.loop, stage.sink, stage.counters, StopWords(slots), stage.owner, stage.owner)
    )


@contextlib.contextmanager
def staging(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Gives a function that makes stages, whose fork servers are fakes. In the end none may have logged a bug."""
    stages: list[Any] = []

    def make_forkserver(*args: Any) -> FakeForkserver:
        forkserver = FakeForkserver(*args)
        stages[-1].forkservers.append(forkserver)
        return forkserver

    def make_one(**options: Any) -> Any:
        stages.append(make(**options))
        return stages[-1]

    monkeypatch.setattr(pool_module.ForkserverHandle, "start", make_forkserver)
    yield make_one
    bugs = [line for stage in stages for line in stage.log().splitlines() if "supervisor_bug" in line]
    for stage in stages:
        stage.close()
    assert not bugs, bugs


MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeStage]:
    """Makes stages, each with the pool that the given function makes for it."""
    with staging(Stage, monkeypatch) as make_one:

        def make(make_pool: Callable[[Stage], Pool], **options: Any) -> Stage:
            stage = make_one(**options)
            stage.pool = make_pool(stage)
            return stage

        yield make
