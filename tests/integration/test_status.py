"""`molt-worker status` beside pools that work, die, drain and come back."""

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from molt_accel import Client, MoltError, MoltInvalidInput, MoltWorkerUnavailable, __version__
from molt_accel.config import Config
from molt_worker.cli.observer import Observer, PoolPlace, pools_in
from molt_worker.supervisor.shm.snapshot import Snapshot
from tests.support import EXPORTS
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import closing_all, in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is served on Linux only")

#: What moves the cursor or sets colours; it stands between words.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COMMAND = [sys.executable, "-m", "molt_worker", "status"]


@pytest.fixture
def make_pool() -> Iterator[Callable[..., Client]]:
    """Makes clients, each with a pool of its own of one executor; all are closed in the end."""
    defaults = {"transport": "shm", "exports": EXPORTS, "executors": 1, "log_level": "error"}
    with closing_all(lambda **config: Client(**{**defaults, **config})) as make:
        yield lambda name="pool", **config: with_worker(make(worker_name=name, **config))


Observe = Callable[..., Observer]


@pytest.fixture
def observe() -> Iterator[Observe]:
    """Attaches observers to pools by their names."""
    with closing_all(lambda name="pool": Observer.of(PoolPlace.of(Config.load(worker_name=name)))) as attach:
        yield attach


@contextlib.contextmanager
def calling(client: Client, entry: str, payload: Any, **options: Any) -> Iterator[None]:
    """A call that is under way meanwhile, and is waited for in the end, however it ends."""

    def call() -> None:
        with contextlib.suppress(MoltError):
            client.call(entry, payload, **options)

    thread = in_thread(call)
    try:
        yield
    finally:
        thread.join()


def status(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )


def document(*arguments: str) -> dict[str, Any]:
    done = status("--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def next_worker(client: Client) -> int:
    """The process id of the worker that is started next; 0 as long as it is too early for that."""
    with contextlib.suppress(MoltWorkerUnavailable):
        # The supervisor answers this itself; a call might still be answered by an executor of the last one.
        pid = int(client.ping()["pid"])
        client.call("echo", 1)
        return pid
    return 0


# -- once ---------------------------------------------------------------------------------------------------
def test_the_document_tells_what_the_pool_itself_tells(make_pool: MakeClient) -> None:
    client = make_pool(executors=2, max_queue=7)
    for number in range(5):
        client.call("echo", number)
    with pytest.raises(MoltInvalidInput):
        client.call("fail", "invalid")
    shown = document("--name", "pool")
    report = client.ping()
    executors = shown.pop("executors")
    assert [executor["number"] for executor in executors] == [1, 2]
    assert sorted(executor["pid"] for executor in executors) == sorted(report["executors"]["pids"])
    assert [(executor["state"], executor["running"]) for executor in executors] == [("idle", None)] * 2
    assert sum(executor["calls"] for executor in executors) == 6
    assert all(executor["rss_bytes"] > 2**20 for executor in executors)
    memory = shown.pop("memory")
    assert sorted(memory) == [
        "arena_bytes", "executors_rss_bytes", "forkserver_rss_bytes", "supervisor_rss_bytes",
    ]  # fmt: skip
    assert all(size > 2**20 for size in memory.values())
    assert memory["executors_rss_bytes"] == sum(executor["rss_bytes"] for executor in executors)
    assert 0 < shown.pop("uptime_s") <= report["uptime_s"]
    for name in ("queue_us", "exec_us"):
        spread = shown.pop(name)
        assert 0 < spread["p50"] <= spread["p95"] <= spread["p99"]
    assert sorted(shown.pop("spin")) == ["clients", "executors", "limit_us"]
    outcomes = shown.pop("outcomes")
    assert {name: count for name, count in outcomes.items() if count} == report["outcomes"]
    entries = shown.pop("entries")
    assert sorted(entries) == ["echo", "fail"]
    assert (entries, shown.pop("shed")) == (report["entries"], report["shed"])
    assert shown == {
        "name": "pool",
        "socket": os.path.join(os.environ["MOLT_RUNTIME_DIR"], "pool.sock"),
        "log": os.path.join(os.environ["MOLT_RUNTIME_DIR"], "pool.log"),
        "schema_version": 1,
        "version": __version__,
        "state": "serving",
        "pid": report["pid"],
        "clients": 1,
        "exports": {"count": len(report["exports"]), "compiled": 0},
        "queue": {"depth": 0, "capacity": 7},
        "in_flight": 0,
        "calls": 6,
        "pool_size": 2,
        "restarts": {"executor_starts": 2, "executor_deaths": 0, "recycled": 0, "reloads": 0},
        "bad_frames": 0,
    }


def test_what_runs_and_waits_is_shown(make_pool: MakeClient, tmp_path: Path) -> None:
    client = make_pool()
    running, gate = tmp_path / "running", tmp_path / "gate"
    with calling(client, "announce_and_sleep", str(running), timeout_ms=60_000) as _:
        wait_for_file(running)
        with calling(client, "wait_for_file", str(gate), timeout_ms=60_000):
            shown = wait_until(lambda: (found := document("--name", "pool"))["queue"]["depth"] and found)
            text = status("--name", "pool").stdout
            os.kill(shown["executors"][0]["pid"], signal.SIGKILL)
            gate.write_text("open")
    assert shown["in_flight"] == 1
    (executor,) = shown["executors"]
    assert executor["state"] == "busy"
    request = executor["running"]
    assert (request["entry"], request["stopping"]) == ("announce_and_sleep", False)
    assert request["for_ms"] > 0
    assert request["for_ms"] + request["deadline_ms"] <= 60_000
    lines = text.splitlines()
    assert lines[4:6] == ["executors   1 busy, 1 of 1 ready", "queue       1 of 64 places, 1 in flight"]
    executor_line, waiting_line = (lines[lines.index("") + 2], lines[-1])
    assert re.match(
        r" +1 +\d+  busy   announce_and_sleep +[\d.]+ m?s +[\d.]+ s +0 +[\d.]+ MiB$", executor_line
    )
    assert re.match(r"wait_for_file +normal +- +0 +1 +0$", waiting_line)
    after = document("--name", "pool")
    assert after["restarts"] == {"executor_starts": 2, "executor_deaths": 1, "recycled": 0, "reloads": 0}
    assert [executor["number"] for executor in after["executors"]] == [2]
    assert {name: count for name, count in after["outcomes"].items() if count} == {
        "Ok": 1,
        "WorkerCrashed": 1,
    }


def test_a_request_whose_client_gave_up_is_stopping(
    make_pool: MakeClient, observe: Observe, tmp_path: Path
) -> None:
    client = make_pool(grace_ms=5_000)
    path = tmp_path / "running"
    observer = observe()

    async def call_and_give_up() -> None:
        task = asyncio.create_task(client.acall("never_stops", str(path)))
        await asyncio.to_thread(wait_for_file, path)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(call_and_give_up())
    (executor,) = observer.look().executors
    assert executor.state == "stopping"
    assert executor.running is not None
    assert (executor.running.entry, executor.running.stopping) == ("never_stops", True)


def test_a_pool_that_imports_has_no_executors_yet(
    make_module: Callable[[str, str], Path], observe: Observe, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    make_module(
        "imports_slowly",
        f"""
import os, time
from molt_worker import export

@export
def echo(payload):
    return payload

while not os.path.exists({str(gate)!r}):
    time.sleep(0.01)
""",
    )
    with Client(transport="shm", worker_name="slow", exports="imports_slowly", executors=1) as client:
        with calling(client, "echo", 1):
            wait_until(lambda: list(pools_in(os.environ["MOLT_RUNTIME_DIR"])))
            observer = observe("slow")
            looked: Snapshot = wait_until(lambda: (found := observer.look()).queue["depth"] and found)
            gate.write_text("open")
        assert (looked.state, looked.executors, looked.clients) == ("starting", [], 1)
        assert looked.memory["forkserver_rss_bytes"] is not None
        assert document("--name", "slow")["state"] == "serving"


def test_the_default_is_the_configured_pool_then_the_only_or_the_project_s_own(
    make_pool: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(
        "TZ", raising=False
    )  # Django sets it, if another test has set Django up in this process
    make_pool("named", exports="")
    assert document()["name"] == "named"  # the only one
    make_pool("", exports="")
    assert json.loads(status("--json", MOLT_WORKER_NAME="named").stdout)["name"] == "named"
    own = json.loads(
        status("--json", MOLT_WORKER_EXECUTORS="1", MOLT_LOG_LEVEL="error", MOLT_EXPORTS="").stdout
    )
    assert own["name"] == Config.load(exports="", executors=1, log_level="error").pool_name


def test_a_pool_whose_worker_was_killed_is_none(make_pool: MakeClient) -> None:
    worker = psutil.Process(make_pool("dead").ping()["pid"])
    worker.kill()
    wait_until(lambda: not worker.is_running())
    done = status("--name", "dead")
    directory = os.environ["MOLT_RUNTIME_DIR"]
    assert os.path.exists(os.path.join(directory, "dead.sock"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"molt-worker: nobody serves the pool 'dead' in {directory}; no pool is served there; one is by a "
        "client's first call, or by molt-worker --shm NAME\n"
    )


# -- what looking costs the pool --------------------------------------------------------------------------
def test_a_look_takes_nothing_of_a_supervisor_that_is_stopped(
    make_pool: MakeClient, observe: Observe
) -> None:
    client = make_pool()
    observer = observe()
    worker = psutil.Process(client.ping()["pid"])
    worker.suspend()
    try:
        before = observer.look()
        client.call("echo", 1)  # which needs no supervisor either
        after = observer.look()
        assert observer.sleep(0)
    finally:
        worker.resume()
    assert after.outcomes["Ok"] == before.outcomes["Ok"] + 1


def test_an_observer_takes_no_channel_and_keeps_no_pool_alive(
    make_pool: MakeClient, observe: Observe
) -> None:
    client = make_pool()
    observer = observe()
    assert observer.look().clients == 1
    assert observer.sleep(0)
    client.close()
    assert not observer.sleep(60)


def test_a_pool_that_drains_says_so_until_its_last_request_is_done(
    make_pool: MakeClient, observe: Observe, tmp_path: Path
) -> None:
    client = make_pool()
    gate, started = tmp_path / "gate", tmp_path / "started"
    observer = observe()
    pid = observer.look().pid
    with calling(client, "wait_for_file", str(gate)):
        wait_until(lambda: observer.look().in_flight)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: observer.look().state == "draining")
        assert observer.sleep(0)
        gate.write_text("open")
    assert not observer.sleep(60)
    assert not started.exists()


# -- live ---------------------------------------------------------------------------------------------------
class Terminal:
    """A watch on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._fd, inner = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, "--watch", "--interval", "0.1", *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"},
        )
        os.close(inner)
        self.text = ""

    def wait_for(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """Wait until something of this pattern is written. What was written before is not looked at again."""
        until = time.monotonic() + timeout_s
        while (found := re.search(pattern, _CONTROL.sub("", self.text), re.S)) is None:
            left = until - time.monotonic()
            assert left > 0, self.text[-3000:]
            assert self._read(left), self.text[-3000:]
        self.text = ""
        return found

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return True
        try:
            self.text += os.read(self._fd, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            return False
        return True

    def rest(self) -> str:
        """What it still writes until it ends."""
        while self._read(60):
            pass
        assert self.process.wait(60) == 0
        return self.text

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


Watch = Callable[..., Terminal]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Starts watches."""
    with closing_all(Terminal) as start:
        yield start


def test_a_watch_follows_a_pool_and_the_next_one_until_ctrl_c(
    make_pool: MakeClient, watch: Watch, tmp_path: Path
) -> None:
    client = make_pool()
    terminal = watch("--name", "pool")
    first = client.ping()["pid"]
    terminal.wait_for(rf"serving.*pid {first}.*calls/s.*deadline in")
    with calling(client, "announce_and_sleep", str(tmp_path / "running"), timeout_ms=60_000):
        terminal.wait_for(r"1 busy, 1 of 1 ready.*busy +announce_and_sleep")
        os.kill(client.ping()["executors"]["pids"][0], signal.SIGKILL)
        terminal.wait_for(r"2 executors started, 1 died")
    os.kill(first, signal.SIGKILL)
    terminal.wait_for(r"the pool pool has ended; waiting for the next one")
    assert terminal.process.poll() is None
    second = wait_until(lambda: next_worker(client))
    terminal.wait_for(rf"serving.*pid {second}.*calls +(\d+)  \(Ok \1\)")
    terminal.process.send_signal(signal.SIGINT)
    rest = terminal.rest()
    assert "\x1b[?25h" in rest  # the cursor is back
    assert "Traceback" not in rest


def test_ctrl_c_ends_a_watch_that_waits_for_the_next_pool(make_pool: MakeClient, watch: Watch) -> None:
    client = make_pool()
    terminal = watch("--name", "pool")
    terminal.wait_for("serving")
    client.close()
    terminal.wait_for("has ended; waiting")
    terminal.process.send_signal(signal.SIGINT)
    assert "Traceback" not in terminal.rest()


def test_a_watch_without_a_terminal_says_what_to_do(make_pool: MakeClient) -> None:
    make_pool()
    done = status("--name", "pool", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "molt-worker: --watch needs a terminal; without one, ask again and again with --json\n"
    )


def test_a_watch_without_rich_names_the_extra_a_look_needs_none(make_pool: MakeClient) -> None:
    make_pool()
    script = """
import sys
sys.modules["rich"] = None
from molt_worker.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    results = [
        subprocess.run(
            [sys.executable, "-c", script, "status", "--name", "pool", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for arguments in ([], ["--json"], ["--watch"])
    ]
    assert [done.returncode for done in results] == [0, 0, 2]
    assert results[2].stderr == (
        "molt-worker: --watch needs rich; install it with: pip install 'molt-accel[watch]'\n"
    )
