"""What a worker has of the process that started it: nothing that could harm it, and nothing that it keeps."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from molt_accel import Client, MoltWorkerUnavailable
from tests.support import ROOT, TRANSPORTS
from tests.support.driver import MakeModule
from tests.support.processes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")


#: A host that ignores and blocks what can be, and then calls. Its real-time class is set where that is allowed.
HOST = f"""
import os, signal, sys, time
for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
sys.path.insert(0, {str(ROOT)!r})
from molt_accel import Client, MoltTimeout, MoltWorkerCrashed, MoltWorkerUnavailable

os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
with Client(transport=sys.argv[1], worker_name="inherited", exports="host_exports", executors=1) as client:
    print(client.call("state"))
    try:
        client.call("sleep", 60, timeout_ms=200)
    except MoltTimeout as exc:
        print(exc.phase)
    try:
        client.call("crash")
    except MoltWorkerCrashed as exc:
        print(exc.signal)
    print(client.call("child"))
    try:
        client.call("kill_worker")
    except MoltWorkerUnavailable as exc:
        print(exc.may_have_run)
"""
EXPORTED = """
import os, psutil, signal, subprocess, time
from molt_worker import export

@export
def state(_):
    ignored = [n.name for n in signal.Signals if signal.getsignal(n) is signal.SIG_IGN]
    blocked = [signal.Signals(n).name for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    return [ignored, blocked]

@export
def sleep(seconds):
    time.sleep(seconds)

@export
def crash(_):
    os.kill(os.getpid(), signal.SIGSEGV)

@export
def kill_worker(_):
    psutil.Process().parent().parent().kill()
    time.sleep(60)

@export
def child(_):
    return subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode
"""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_signals_that_the_host_ignores_or_blocks_are_none_in_the_worker(
    make_module: MakeModule, transport: str
) -> None:
    make_module("host_exports", EXPORTED)
    done = subprocess.run(
        [sys.executable, "-c", HOST, transport], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["[['SIGPIPE', 'SIGXFSZ'], []]", "running", "11", "-15", "True"], (
        done.stderr
    )


STARTER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from molt_accel import Client

client = Client(transport="shm", worker_name="left", exports="printing", executors=1, linger_ms=60_000)
print(client.call("say", "from the starter"))
"""
PRINTING = """
import os, sys
from molt_worker import export

@export
def say(text):
    print(text)
    print(text, file=sys.stderr)
    return "said"

@export
def broken_output(_):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    print("nobody reads this")
    print("nor this", file=sys.stderr)
    return "goes on"
"""


@pytest.fixture
def left(make_module: MakeModule) -> psutil.Process:
    """A pool whose starter, which was run with its output captured, has ended."""
    make_module("printing", PRINTING)
    done = subprocess.run([sys.executable, "-c", STARTER], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("said\n", "")
    with Client(transport="shm", worker_name="left", exports="printing") as client:
        return psutil.Process(client.ping()["pid"])


def _open(process: psutil.Process) -> list[str]:
    """What the processes of a worker have open as their standard streams."""
    return [
        os.readlink(f"/proc/{each.pid}/fd/{fd}")
        for each in (process, *process.children(recursive=True))
        for fd in (0, 1, 2)
    ]


def test_a_pool_holds_nothing_of_its_starter_and_logs_to_a_file(left: psutil.Process) -> None:
    log = Path(os.environ["MOLT_RUNTIME_DIR"]) / "left.log"
    assert left.is_running()  # and yet the starter's pipes had an end
    assert set(_open(left)) == {"/dev/null", str(log)}
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    with Client(transport="shm", worker_name="left", exports="printing") as client:
        assert client.call("say", "from another") == "said"
    text = log.read_text()
    assert " worker_started name=left " in text
    assert [text.count(f"{each}\n") for each in ("from the starter", "from another")] == [2, 2]
    status = [sys.executable, "-m", "molt_worker", "status", "--name", "left"]
    shown = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert [line.split() for line in shown.splitlines() if line.startswith("log")] == [["log", str(log)]]
    left.terminate()
    wait_until(lambda: not left.is_running())
    with Client(transport="shm", worker_name="left", exports="printing", linger_ms=0) as client:
        assert client.call("say", "from the next") == "said"
    assert "from another" in Path(f"{log}.1").read_text()
    assert "from another" not in log.read_text()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_output_that_nobody_takes_fails_no_request(
    make_client: Callable[..., Client], make_module: MakeModule, transport: str
) -> None:
    make_module("printing", PRINTING)
    client = make_client(transport=transport, exports="printing")
    assert client.call("broken_output") == "goes on"


def test_the_error_of_a_pool_that_did_not_start_has_its_last_lines(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo no such luck >&2; echo at all >&2; exit 3"]
    with (
        Client(transport="shm", worker_cmd=command) as client,
        pytest.raises(MoltWorkerUnavailable) as caught,
    ):
        client.call("echo")
    assert caught.value.detail == (
        "the worker can't start: it exited with code 3; it wrote: no such luck | at all"
    )


@pytest.mark.parametrize("setting", ["path", "stderr"])
def test_where_a_pool_logs_can_be_chosen(make_module: MakeModule, tmp_path: Path, setting: str) -> None:
    make_module("printing", PRINTING)
    log = tmp_path / "chosen.log"
    log.write_text("before\n")
    done = subprocess.run(
        [sys.executable, "-c", STARTER.replace("60_000", "0")],
        env={**os.environ, "MOLT_WORKER_LOG": str(log) if setting == "path" else "stderr"},
        capture_output=True,
        text=True,
        check=True,
    )
    text = log.read_text() if setting == "path" else done.stderr
    assert text.count("from the starter\n") == 2
    assert text.startswith("before\n") == (setting == "path")
    assert not list(Path(os.environ["MOLT_RUNTIME_DIR"]).glob("*.log"))


@pytest.mark.parametrize(
    ("name", "why"), [("none/log", "No such file or directory"), ("fifo", "it is no regular file")]
)
def test_a_log_that_can_t_be_opened_is_said(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (
        Client(transport="shm", log=str(tmp_path / name)) as client,
        pytest.raises(MoltWorkerUnavailable) as caught,
    ):
        client.call("echo")
    assert caught.value.detail == (
        f"the worker can't start: can't log to {tmp_path}/{name}: {why}; set MOLT_WORKER_LOG"
    )
