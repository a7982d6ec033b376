"""A real fork server, as its supervisor sees it: it imports, forks, signals and reaps, and ends with the supervisor."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import Status
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import Codec, Hello, Request, Response, StartFailed
from molt_accel.ipc.stream import FrameStream
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes import sources
from molt_worker.processes.commands import (
    EXIT_BAD_EXPORTS,
    Exited,
    ExportRow,
    Interrupt,
    Kill,
    Ready,
    Sources,
    Spawn,
    Spawned,
)
from molt_worker.processes.endpoint import SocketEndpoint
from molt_worker.processes.handles import ExecutorHandle, ForkserverHandle, StopWords
from tests.support import EXPORTS, entrypoints
from tests.support.driver import PATIENCE_S, dead
from tests.support.processes import wait_for_file, wait_until

Item = TypeVar("Item")
Start = Callable[..., ForkserverHandle]

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


def hear(stream: FrameStream, kind: type[Item]) -> Item:
    """The next message, which must be of this kind. Those that came along with it wait in `stream`."""
    waiting: list[Any] = stream.__dict__.setdefault("waiting", [])
    while not waiting:
        assert stream.wait_readable(PATIENCE_S)
        assert stream.fill() is not None, "it has ended"
        waiting += stream.frames()
    message = waiting.pop(0)
    assert isinstance(message, kind)
    return message


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def make(exports: str = EXPORTS, **options: Any) -> ForkserverHandle:
            config = Config.load(environ={}, exports=exports, log_level="error", **options)
            words = StopWords(4)
            started = ForkserverHandle.start(
                config, words, lambda sock, number, slot: SocketEndpoint(sock, 4096)
            )
            stack.callback(reap, started)
            return started

        yield make


def reap(forkserver: ForkserverHandle) -> int | None:
    """Its exit code once it has ended, which it does at the latest now; None: it was reaped before."""
    forkserver.stop()
    with suppress(ChildProcessError):
        return forkserver.reap()
    return None


@pytest.fixture
def loaded(start: Start) -> ForkserverHandle:
    forkserver = start()
    hear(forkserver.stream, Sources)
    hear(forkserver.stream, Ready)
    return forkserver


@pytest.fixture
def spawn(loaded: ForkserverHandle) -> Iterator[Callable[[int], tuple[ExecutorHandle, int]]]:
    """Has executors forked; returns each with its pid when it is ready."""
    with ExitStack() as stack:

        def fork_one(number: int) -> tuple[ExecutorHandle, int]:
            executor = loaded.spawn(number)
            assert executor is not None
            stack.callback(executor.sock.close)
            spawned = hear(loaded.stream, Spawned)
            assert spawned.executor == number
            hear(executor.stream, Hello)
            return executor, spawned.pid

        yield fork_one


def ask(executor: ExecutorHandle, entry: str, payload: object) -> None:
    executor.stream.send(Request(5, entry, codec.encode(Codec.MSGPACK, payload), generation=9))


def test_it_says_what_it_has_imported_and_from_which_files(start: Start) -> None:
    forkserver = start()
    source = os.path.abspath(entrypoints.__file__)
    known = hear(forkserver.stream, Sources)
    assert source in dict(known.files)
    assert not sources.changed(known)
    rows = hear(forkserver.stream, Ready).exports
    assert ExportRow("echo", Codec.MSGPACK, Codec.MSGPACK, f"{EXPORTS}:echo", False) in rows
    assert reap(forkserver) == 0


def test_programs_that_the_exports_start_inherit_none_of_its_descriptors(
    start: Start, tmp_path: Path
) -> None:
    """One that lives on would keep the supervisor from seeing the fork server's end."""
    source = """
import subprocess, sys
code = "import os; print(*sorted(os.listdir('/proc/self/fd')))"
done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True)
if done.stdout.split() != ["0", "1", "2", "3"]:  # the last one is that of the listing
    raise RuntimeError(done.stdout)
from tests.support.entrypoints import echo
"""
    (tmp_path / "starts_a_program.py").write_text(source)
    forkserver = start("starts_a_program", import_path=str(tmp_path))
    files = dict(hear(forkserver.stream, Sources).files)
    assert str(tmp_path / "starts_a_program.py") in files


def test_exports_that_can_t_be_imported_are_reported_and_it_exits(start: Start) -> None:
    forkserver = start("no.such.module")
    error = hear(forkserver.stream, StartFailed).error
    assert str(error["detail"]).startswith(
        "no.such.module: can't import no.such.module: ModuleNotFoundError: No module named 'no'; looked in "
    )
    assert forkserver.reap() == EXIT_BAD_EXPORTS


def test_executors_are_its_children_and_answer(loaded: ForkserverHandle, spawn: Any) -> None:
    for number in (3, 4):
        executor, pid = spawn(number)
        assert psutil.Process(pid).ppid() == loaded.pid
        assert os.getpgid(pid) == pid
        ask(executor, "pid", None)
        answer = hear(executor.stream, Response)
        assert (answer.status, answer.executor) == (Status.OK, number)
        assert codec.decode(Codec.MSGPACK, answer.payload) == pid


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda forkserver, executor: forkserver.tell(Kill(executor.number)), -signal.SIGKILL),
        (lambda forkserver, executor: ask(executor, "crash", {"exit": 3}), 3),
        (lambda forkserver, executor: executor.sock.close(), 0),
    ],
    ids=["killed", "exits", "retired"],
)
def test_an_executor_s_end_is_reported_with_its_exit_code(
    loaded: ForkserverHandle, spawn: Any, end: Callable[[ForkserverHandle, ExecutorHandle], None], code: int
) -> None:
    for number in (7, 8):
        executor, pid = spawn(number)
        end(loaded, executor)
        assert hear(loaded.stream, Exited) == Exited(number, code)
        assert not psutil.pid_exists(pid)
        loaded.tell(Kill(number))  # nobody any more


def test_what_an_executor_leaves_running_ends_with_it(
    loaded: ForkserverHandle, spawn: Any, tmp_path: Path
) -> None:
    executor, pid = spawn(1)
    ask(executor, "start_and_sleep", str(tmp_path / "child"))
    child = psutil.Process(int(wait_for_file(tmp_path / "child")))
    os.kill(pid, signal.SIGKILL)
    assert hear(loaded.stream, Exited) == Exited(1, -signal.SIGKILL)
    wait_until(lambda: dead(child))


def test_no_signal_is_written_to_a_descriptor_that_may_be_the_entrypoint_s(spawn: Any) -> None:
    executor, _ = spawn(1)
    ask(executor, "wakeup_fd", None)
    assert codec.decode(Codec.MSGPACK, hear(executor.stream, Response).payload) == -1


def test_a_fork_that_fails_is_reported_and_costs_no_other_executor(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, fork, attempts = os.getpid(), os.fork, count(1)

    def full() -> int:
        if os.getpid() != here and next(attempts) <= 6:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", full)
    forkserver = start()
    hear(forkserver.stream, Sources)
    hear(forkserver.stream, Ready)
    for number in range(1, 8):  # more than there are slots
        executor = forkserver.spawn(number)
        assert executor is not None
        if number < 7:
            assert hear(forkserver.stream, Exited) == Exited(number, 1)
            assert executor.stream.wait_readable(PATIENCE_S)
            assert executor.stream.fill() is None  # the fork server has closed its end
            forkserver.words.give_back(executor.slot)
        else:
            assert hear(forkserver.stream, Spawned).executor == number
            hear(executor.stream, Hello)
        executor.sock.close()


def test_an_executor_has_no_descriptor_of_one_that_is_forked_after_it(loaded: ForkserverHandle) -> None:
    """Its own comes with the first byte of its command, and the next one's with the command's rest."""
    os.kill(loaded.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, loaded.pid, os.WSTOPPED)
    command, spawning = encode(Interrupt(77)), encode(Spawn(1, 0))  # 77 is none that there is
    count, rest = divmod(65536, len(command))  # as much as is received at a time
    while not 0 < rest < len(spawning):
        count, rest = count - 1, rest + len(command)
    loaded.control.sendall(command * count)
    executors = [loaded.spawn(number) for number in (1, 2)]
    os.kill(loaded.pid, signal.SIGCONT)
    held = []
    for executor in executors:
        assert executor is not None
        pid = hear(loaded.stream, Spawned).pid
        hear(executor.stream, Hello)
        held.append(len(os.listdir(f"/proc/{pid}/fd")))
        executor.sock.close()
    assert held[0] == held[1]


def test_a_request_that_was_stopped_before_it_is_read_never_runs(spawn: Any, tmp_path: Path) -> None:
    executor, _ = spawn(1)
    executor.word.stop(9, StopReason.CANCELLED)
    ask(executor, "append", {"path": str(tmp_path / "log"), "text": "it ran"})
    assert hear(executor.stream, Response).status is Status.CANCELLED
    assert not (tmp_path / "log").exists()
    executor.word.stop(8, StopReason.CANCELLED)  # of another one
    ask(executor, "append", {"path": str(tmp_path / "log"), "text": "it ran"})
    assert hear(executor.stream, Response).status is Status.OK


def test_the_soft_interrupt_obeys_the_stop_word(loaded: ForkserverHandle, spawn: Any, tmp_path: Path) -> None:
    executor, _ = spawn(1)
    running = tmp_path / "running"
    ask(executor, "announce_and_sleep", str(running))
    wait_for_file(running)
    executor.word.stop(9, StopReason.CANCELLED)
    loaded.tell(Interrupt(1))
    assert hear(executor.stream, Response).status is Status.CANCELLED


def test_signals_to_the_whole_group_are_the_supervisor_s(loaded: ForkserverHandle, spawn: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(loaded.pid, number)
    spawn(1)


def test_its_end_is_that_of_its_executors_too(loaded: ForkserverHandle, spawn: Any, tmp_path: Path) -> None:
    executor, pid = spawn(1)
    ask(executor, "never_stops", str(tmp_path / "running"))
    wait_for_file(tmp_path / "running")
    assert reap(loaded) == 0
    assert not psutil.pid_exists(pid)  # it has waited for them


def test_one_that_is_stopped_can_be_killed_and_its_executors_go_with_it(
    loaded: ForkserverHandle, spawn: Any
) -> None:
    _, pid = spawn(1)
    child = psutil.Process(pid)
    os.kill(loaded.pid, signal.SIGSTOP)
    loaded.kill()
    assert loaded.reap() == -signal.SIGKILL
    wait_until(lambda: dead(child))
