"""molt_accel.launcher: which command starts a worker, how it is started, and how soon again."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from molt_accel import launcher
from molt_accel.config import Config
from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.launcher import RestartPolicy, start_stdio_worker, worker_command

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
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert worker_command(config) == [python, "-m", "molt_worker"]
    on_path = _program(tmp_path / "path" / "molt-worker")
    assert worker_command(config) == [on_path]
    beside = _program(tmp_path / "beside" / "molt-worker")
    assert worker_command(config) == [beside]
    Path(beside).chmod(0o644)
    assert worker_command(config) == [on_path]


# -- starting -------------------------------------------------------------------------------------------


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """What the process wrote until its end."""
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
    said = finish(start_stdio_worker(config))
    assert said.decode() == "['app', 'stdio', 'kept', '3', None]"


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
def test_a_command_that_cannot_run_is_an_unavailable_worker_with_a_hint(command: str, error: int) -> None:
    with pytest.raises(MoltWorkerUnavailable) as caught:
        start_stdio_worker(Config(worker_cmd=command))
    assert caught.value.detail == (
        f"can't start the worker with {command!r}: {os.strerror(error)}; set MOLT_WORKER_CMD, "
        "or install molt-accel where molt-worker is on PATH"
    )


def test_the_installed_command_is_a_worker() -> None:
    command = shutil.which("molt-worker", path=os.path.dirname(sys.executable))
    assert command is not None
    said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("molt-worker ")


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
        policy.died(now_s, launcher.STABLE_S, "killed", was_ready=True)
        policy.check(now_s)


def test_a_worker_that_died_as_soon_as_it_was_ready_is_replaced_after_a_pause_that_does_not_grow() -> None:
    policy = RestartPolicy()
    for now_s in (100.0, 101.0, 102.0):
        policy.died(now_s, launcher.STABLE_S - 0.01, "killed", was_ready=True)
        assert refused_until(policy, now_s) == launcher.FIRST_BACKOFF_S


def test_failed_starts_back_off_to_a_bound_and_then_are_tried_rarely() -> None:
    policy = RestartPolicy()
    waits = []
    for _ in range(launcher.RESTART_LIMIT + 2):
        policy.died(100.0, 1000.0, "exit code 2", was_ready=False)
        waits.append(refused_until(policy, 100.0))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 30.0, 30.0]
    assert policy.failed_starts == launcher.RESTART_LIMIT + 2


def test_a_worker_that_was_ready_forgives_the_failed_starts_before_it() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.died(100.0, 0.0, "exit code 2", was_ready=False)
    policy.died(200.0, 5.0, "killed", was_ready=True)
    policy.check(200.0)
    policy.died(300.0, 0.0, "exit code 2", was_ready=False)
    assert refused_until(policy, 300.0) == launcher.FIRST_BACKOFF_S


def test_a_refusal_says_when_and_why() -> None:
    policy = RestartPolicy()
    policy.died(100.0, 0.0, "the worker is gone: it exited with code 2", was_ready=False)
    with pytest.raises(MoltWorkerUnavailable) as caught:
        policy.check(100.02)
    expected = "the worker is started again in 0.1 s: the worker is gone: it exited with code 2"
    assert caught.value.detail == expected
