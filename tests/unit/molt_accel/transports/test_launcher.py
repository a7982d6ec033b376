"""molt_accel.transports.launcher: which command starts a worker, how it is started, and how soon again."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from molt_accel.config import Config
from molt_accel.errors import (
    MoltError,
    MoltIncompatible,
    MoltProtocolError,
    MoltStartFailed,
    MoltWorkerUnavailable,
    NoSharedMemory,
)
from molt_accel.ipc import control
from molt_accel.ipc.frame import VERSION
from molt_accel.transports import interpreter, launcher
from molt_accel.transports.launcher import (
    NeverListened,
    RestartPolicy,
    attach_or_start,
    start_stdio_worker,
    worker_command,
)
from tests.support.errors import raised
from tests.support.processes import wait_until


# -- the command ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("configured", "command"),
    [
        ("worker", ["worker"]),
        ("/a/python -m molt_worker --log-json", ["/a/python", "-m", "molt_worker", "--log-json"]),
        ("'/a b/worker' \"c d\" e\\ f", ["/a b/worker", "c d", "e f"]),
    ],
)
def test_the_configured_command_is_split_as_a_shell_would(configured: str, command: list[str]) -> None:
    assert worker_command(Config(worker_cmd=configured)) == command


def _program(path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("configured", ["", "  \t"])
def test_the_script_beside_the_interpreter_comes_first_then_path_then_the_module(
    configured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(worker_cmd=configured)
    python = str(tmp_path / "beside" / "python")
    monkeypatch.setattr(interpreter, "find", lambda: python)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert worker_command(config) == [python, "-m", "molt_worker"]
    on_path = _program(tmp_path / "path" / "molt-worker")
    assert worker_command(config) == [on_path]
    beside = _program(tmp_path / "beside" / "molt-worker")
    assert worker_command(config) == [beside]
    Path(beside).chmod(0o644)
    assert worker_command(config) == [on_path]


def test_without_an_interpreter_or_a_script_the_error_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = str(raised(MoltStartFailed, worker_command, Config()))
    assert text.startswith(f"no Python of this environment ({sys.prefix}) is found to start a worker with")
    assert "Set MOLT_WORKER_CMD" in text


# -- starting -------------------------------------------------------------------------------------------
def finish(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(60)
    os.set_blocking(process.stdout.fileno(), True)
    with process.stdout:
        return process.stdout.read()


def test_a_worker_is_told_the_configuration_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_EXPORTS", "inherited")
    monkeypatch.setenv("MOLT_TRANSPORT", "shm")
    monkeypatch.setenv("UNRELATED", "kept")
    program = "import os; print([os.environ.get(n) for n in os.environ['NAMES'].split()], end='')"
    monkeypatch.setenv("NAMES", "MOLT_EXPORTS MOLT_TRANSPORT UNRELATED MOLT_WORKER_EXECUTORS MOLT_SPIN_US")
    config = Config.load(worker_cmd=[sys.executable, "-c", program], exports="app", executors=3)
    assert finish(start_stdio_worker(config)).decode() == "['app', 'stdio', 'kept', '3', None]"


def test_our_ends_of_the_pipes_do_not_block_and_the_worker_s_do() -> None:
    program = "import os; print(os.get_blocking(0), os.get_blocking(1), os.getsid(0) == os.getpid(), end='')"
    process = start_stdio_worker(Config.load(worker_cmd=[sys.executable, "-c", program]))
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        assert not os.get_blocking(pipe.fileno())
        assert not os.get_inheritable(pipe.fileno())
        assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) >= 65536
    assert finish(process) == b"True True True"


@pytest.mark.parametrize(
    ("command", "error"), [("/no/such/worker --flag", errno.ENOENT), ("/", errno.EACCES)]
)
def test_a_command_that_cannot_run_is_a_failed_start_with_a_hint(command: str, error: int) -> None:
    caught = raised(MoltStartFailed, start_stdio_worker, Config(worker_cmd=command))
    assert caught.detail == (
        f"can't start the worker with {command!r}: {os.strerror(error)}; set MOLT_WORKER_CMD, "
        "or install molt-accel where molt-worker is on PATH"
    )


def test_the_installed_command_is_a_worker() -> None:
    command = shutil.which("molt-worker", path=os.path.dirname(sys.executable))
    assert command is not None
    said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("molt-worker ")


# -- pools ----------------------------------------------------------------------------------------------
#: What the programs here begin with, in place of a worker: `fail()` says why it can't start, as a worker does.
_WORKER = """
import os, socket, sys, time
from molt_accel.ipc import frame
from molt_accel.ipc.control import new_socket
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import StartFailed

def fail(**body):
    os.write(1, encode(StartFailed({"error": "MoltWorkerUnavailable", **body})))
    os._exit(2)

def listen():
    path = os.path.join(os.environ["MOLT_RUNTIME_DIR"], os.environ["MOLT_WORKER_NAME"] + ".sock")
    listener = new_socket()
    listener.bind(path)
    listener.listen()
    return listener

def serve(seconds):
    if os.fork():
        os._exit(0)
    listener = listen()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    listener.settimeout(seconds)
    try:
        sock, _ = listener.accept()
        sock.recv(1)
    except OSError:
        pass
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    if sys.platform != "linux":
        pytest.skip("there are no pools")
    return tmp_path / "run"


def pool_config(directory: Path, script: str, *arguments: object, **fields: Any) -> Config:
    command = [sys.executable, "-c", _WORKER + script, *map(str, arguments)]
    known = {"worker_name": "pool", "runtime_dir": str(directory), "start_timeout_ms": 60_000}
    return Config.load(worker_cmd=command, **{**known, **fields})


def attach(config: Config, not_before_s: float = 0.0) -> None:
    attach_or_start(config, not_before_s).close()


def starting(directory: Path) -> bool:
    fd = control.lock(str(directory), "pool", "starter", wait=False)
    if fd is not None:
        os.close(fd)
    return fd is None


def test_a_pool_that_nobody_serves_is_started_and_told_how(directory: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = """
names = ["MOLT_TRANSPORT", "MOLT_WORKER_NAME", "MOLT_WORKER_EXECUTORS", "MOLT_WORKER_LINGER_MS"]
open(sys.argv[1], "w").write(repr([sys.argv[2:], [os.environ[name] for name in names], os.getsid(0) == os.getpid()]))
serve(30)
"""
    attach(pool_config(directory, script, told, executors=3, linger_ms=77))
    assert told.read_text() == repr([["--shm", "pool", "--linger"], ["shm", "pool", "3", "77"], True])
    assert not starting(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("script", "kind", "detail"),
    [
        (
            "fail(detail='no room', code='no_shared_memory')",
            NoSharedMemory,
            "the worker can't start: no room",
        ),
        ("fail(detail='bad exports')", MoltStartFailed, "the worker can't start: bad exports"),
        ("sys.exit(3)", MoltStartFailed, "the worker can't start: it exited with code 3; see its log"),
        (
            "print('what', flush=True); sys.exit(0)",
            MoltStartFailed,
            "the worker can't start: it exited with code 0; see its log",
        ),
        ("fail(detail='old', code='incompatible')", MoltIncompatible, "the worker can't start: old"),
        (
            "frame.VERSION += 1; fail(detail='new')",
            MoltIncompatible,
            f"the worker speaks another protocol: unknown version: {VERSION + 1}, this side speaks {VERSION}; client ",
        ),
        ("sys.exit(0)", NeverListened, "the pool 'pool' was started, but does not listen on "),
    ],
)
def test_a_pool_that_can_t_be_started_is_an_error_that_says_why(
    directory: Path, script: str, kind: type[MoltWorkerUnavailable], detail: str
) -> None:
    error = raised(MoltWorkerUnavailable, attach, pool_config(directory, script))
    assert type(error) is kind
    assert error.detail.startswith(detail)
    assert not starting(directory)


def test_a_program_that_never_listens_is_killed_in_time(directory: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = """
child = os.fork()
open(sys.argv[1], "a").write(f"{os.getpid()} ")
if child:
    os._exit(0)
time.sleep(1000)
"""
    config = pool_config(directory, script, pids, start_timeout_ms=1500)
    error = raised(MoltStartFailed, attach, config)
    assert error.detail.endswith(" did not listen within 1500 ms; see its log")
    assert len(pids.read_text().split()) == 2
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()))


@pytest.mark.parametrize("after_s", [0.0, 0.3])
def test_one_that_another_serves_is_attached_to(directory: Path, tmp_path: Path, after_s: float) -> None:
    """That one had its name when this one was started, but not its socket yet."""
    starts = tmp_path / "starts"
    script = """
open(sys.argv[1], "a").write("x")
if os.fork() == 0:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    time.sleep(float(sys.argv[2]))
    serve(30)
    os._exit(0)
fail(detail="another worker serves it", code='already_served')
"""
    attach(pool_config(directory, script, starts, after_s))
    assert starts.read_text() == "x"


def test_one_whose_other_worker_never_listens_is_tried_again_and_given_up(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_TAKEOVER_S", 0.01)
    starts = tmp_path / "starts"
    script = (
        "open(sys.argv[1], 'a').write('x'); fail(detail='another worker serves it', code='already_served')"
    )
    with pytest.raises(MoltWorkerUnavailable, match=r"^the worker can't start: another worker serves it$"):
        attach(pool_config(directory, script, starts, start_timeout_ms=2000))
    assert len(starts.read_text()) > 1


def test_a_starter_is_waited_for_for_a_time_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_STARTER_S", 0.2)
    control.ensure_directory(str(directory))
    held = control.lock(str(directory), "pool", "starter", wait=False)
    assert held is not None
    try:
        started_s = time.monotonic()
        attach(pool_config(directory, "serve(30)"))
        assert time.monotonic() - started_s >= 0.2
    finally:
        os.close(held)


def test_who_waits_for_a_starter_attaches_as_soon_as_the_pool_listens(directory: Path) -> None:
    """Though the starter still has its lock."""
    control.ensure_directory(str(directory))
    held = control.lock(str(directory), "pool", "starter", wait=False)
    assert held is not None
    listener = control.new_socket()
    try:
        with ThreadPoolExecutor(1) as threads:
            attaching = threads.submit(attach, pool_config(directory, "sys.exit(9)"))
            listener.bind(control.socket_path(str(directory), "pool"))
            listener.listen()
            attaching.result(60)
    finally:
        listener.close()
        os.close(held)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("error", [MoltWorkerUnavailable("another user's"), KeyboardInterrupt()])
def test_whoever_fails_to_connect_keeps_no_lock(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, held: bool
) -> None:
    control.ensure_directory(str(directory))
    other = control.lock(str(directory), "pool", "starter", wait=False) if held else None

    def connect(path: str) -> None:
        raise error

    monkeypatch.setattr(launcher, "connect", connect)
    with pytest.raises(type(error)):
        launcher._become_starter(str(directory), "pool", "nowhere", time.monotonic() + 60)
    assert starting(directory) is held
    if other is not None:
        os.close(other)


def test_a_start_that_is_too_early_waits_and_looks_whether_another_was_allowed(directory: Path) -> None:
    started_s = time.monotonic()
    attach(pool_config(directory, "serve(30)"), started_s + 0.3)
    assert time.monotonic() - started_s >= 0.3
    other = Path(f"{directory}2")
    control.ensure_directory(str(other))
    with control.new_socket() as listener, ThreadPoolExecutor(1) as threads:
        attaching = threads.submit(attach, pool_config(other, "sys.exit(9)"), time.monotonic() + 1000)
        listener.bind(control.socket_path(str(other), "pool"))
        listener.listen()
        attaching.result(60)


def test_without_autostart_nothing_is_started(directory: Path) -> None:
    config = pool_config(directory, "serve(30)", autostart=False)
    with pytest.raises(MoltWorkerUnavailable, match=r"^nobody serves the pool 'pool' \("):
        attach(config)
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_open_to_others_is_not_used(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    with pytest.raises(MoltWorkerUnavailable, match=r"must be a directory of this user with mode 0700"):
        attach(pool_config(directory, "serve(30)"))


def test_a_lock_that_can_t_be_made_is_an_error_that_names_it(directory: Path) -> None:
    control.ensure_directory(str(directory))
    (directory / "pool.starter").mkdir()
    error = raised(MoltWorkerUnavailable, attach, pool_config(directory, "serve(30)"))
    assert error.detail.startswith(
        f"can't lock {directory}/pool.starter: Is a directory; set MOLT_RUNTIME_DIR"
    )


# -- restarts, by a clock of the test's own -------------------------------------------------------------
def refused_until(policy: RestartPolicy, now_s: float) -> float:
    """Until when a start is refused: the first time, in steps of 1 ms, that it is not."""
    steps = 0
    while True:
        try:
            policy.check(now_s + steps / 1000)
        except MoltWorkerUnavailable:
            steps += 1
        else:
            return steps / 1000


def test_a_first_start_is_never_refused() -> None:
    RestartPolicy().check(0.0)


def test_a_worker_that_worked_for_a_while_is_replaced_at_once() -> None:
    policy = RestartPolicy()
    for now_s in (100.0, 100.1, 100.2):
        policy.died(now_s, launcher.STABLE_S, MoltWorkerUnavailable("killed"), was_ready=True)
        policy.check(now_s)


def test_a_worker_that_died_as_soon_as_it_was_ready_is_replaced_after_a_pause_that_does_not_grow() -> None:
    policy = RestartPolicy()
    for now_s in (100.0, 101.0, 102.0):
        policy.died(now_s, launcher.STABLE_S - 0.01, MoltWorkerUnavailable("killed"), was_ready=True)
        assert refused_until(policy, now_s) == launcher.FIRST_BACKOFF_S


def test_failed_starts_back_off_to_a_bound_and_then_are_tried_rarely() -> None:
    policy = RestartPolicy()
    waits = []
    for _ in range(launcher.RESTART_LIMIT + 2):
        policy.died(100.0, 1000.0, MoltWorkerUnavailable("exit code 2"), was_ready=False)
        waits.append(refused_until(policy, 100.0))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 30.0, 30.0]
    assert policy.failed_starts == launcher.RESTART_LIMIT + 2


def test_a_worker_that_was_ready_forgives_the_failed_starts_before_it() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.died(100.0, 0.0, MoltWorkerUnavailable("exit code 2"), was_ready=False)
    policy.died(200.0, 5.0, MoltWorkerUnavailable("killed"), was_ready=True)
    policy.check(200.0)
    policy.died(300.0, 0.0, MoltWorkerUnavailable("exit code 2"), was_ready=False)
    assert refused_until(policy, 300.0) == launcher.FIRST_BACKOFF_S


def test_a_refusal_says_when_and_why() -> None:
    policy = RestartPolicy()
    policy.died(
        100.0, 0.0, MoltWorkerUnavailable("the worker is gone: it exited with code 2"), was_ready=False
    )
    error = raised(MoltWorkerUnavailable, policy.check, 100.02)
    expected = "the worker is gone: it exited with code 2 (the next start is tried in 0.1 s)"
    assert (type(error), error.detail) == (MoltWorkerUnavailable, expected)
    assert policy.not_before_s == 100.1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MoltStartFailed("why", facts={"may_have_run": 1}), MoltStartFailed),
        (MoltProtocolError("why"), MoltWorkerUnavailable),
    ],
)
def test_a_refusal_is_of_the_last_error_s_kind(error: MoltError, kind: type[MoltWorkerUnavailable]) -> None:
    policy = RestartPolicy()
    policy.died(100.0, 0.0, error, was_ready=False)
    with pytest.raises(MoltWorkerUnavailable, match=r"^why \(the next start is tried in 0\.1 s\)$") as caught:
        policy.check(100.02)
    assert (type(caught.value), caught.value.may_have_run) == (kind, False)
