"""How a process may end with its client left open: never a hang, never a worker left behind, no noise."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.integration.django.servers import gone
from tests.support import EXPORTS, ROOT
from tests.support.processes import wait_for_file, wait_until

pytestmark = pytest.mark.sample(1)

_START = """
import asyncio, atexit, os, signal, sys, threading, time
from pathlib import Path
from molt_accel import Client, MoltError

client = Client(exports={exports!r}, executors=4, log_level="error")
client.start()
print(client.ping()["pid"], flush=True)

def long_call(path):
    return client.call("announce_and_sleep", str(path), timeout_ms=200_000)

def in_thread(function, *args, daemon=True):
    threading.Thread(target=function, args=args, daemon=daemon).start()

def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.002)

HERE = Path({here!r})
"""


@pytest.fixture(autouse=True)
def _each_transport(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every script runs once on each."""
    monkeypatch.setenv("MOLT_TRANSPORT", transport)


def start(body: str, here: Path) -> subprocess.Popen[str]:
    """Run a script that has a client."""
    code = _START.format(exports=EXPORTS, here=str(here)) + textwrap.dedent(body)
    return subprocess.Popen(
        # Python 3.12 warns of forks of processes with threads: what is tested here.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Exit code, lines after the worker's pid, and stderr; checks that the worker is gone."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    worker, *lines = out.splitlines()
    wait_until(lambda: gone(int(worker)))
    return process.returncode, lines, err


def run(body: str, here: Path) -> tuple[int, list[str], str]:
    return finish(start(body, here))


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param("pass", 0, id="end of the script"),
        pytest.param("sys.exit(3)", 3, id="sys.exit"),
        pytest.param("os._exit(3)", 3, id="os._exit"),
        pytest.param("in_thread(os._exit, 3); time.sleep(60)", 3, id="os._exit in a thread"),
        pytest.param("in_thread(sys.exit, 3, daemon=False)", 0, id="sys.exit in a thread"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, id="SIGTERM"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, id="SIGKILL"),
        pytest.param("os.abort()", -signal.SIGABRT, id="abort"),
        pytest.param("os.execv('/bin/true', ['true'])", 0, id="exec"),
        pytest.param("client.keep = client; del client", 0, id="client in a cycle"),
    ],
)
def test_a_process_may_end_in_any_way(body: str, code: int, tmp_path: Path) -> None:
    assert run(body, tmp_path) == (code, [], "")


def test_an_unhandled_exception_ends_it_with_nothing_but_its_traceback(tmp_path: Path) -> None:
    code, lines, err = run("raise LookupError('the end')", tmp_path)
    assert (code, lines) == (1, [])
    assert err.count("Traceback") == 1
    assert err.endswith("LookupError: the end\n")


@pytest.mark.sample(2)
@pytest.mark.parametrize("ending", ["pass", "os._exit(0)"])
def test_daemon_threads_may_be_in_calls_at_exit(tmp_path: Path, ending: str) -> None:
    body = f"""
    def quietly(path):
        try:
            long_call(path)
        except MoltError:
            pass

    for name in "abc":
        in_thread(quietly, HERE / name)
    for name in "abc":
        wait_for(HERE / name)
    {ending}
    """
    assert run(body, tmp_path) == (0, [], "")


def test_a_thread_that_is_no_daemon_gets_its_answer_after_the_script_has_ended(tmp_path: Path) -> None:
    body = """
    def call():
        print(client.call("wait_for_file", str(HERE / "go"), timeout_ms=200_000), flush=True)

    in_thread(call, daemon=False)
    wait_for(HERE / "go.running")
    in_thread(lambda: (threading.main_thread().join(), (HERE / "go").touch()), daemon=False)
    """
    assert run(body, tmp_path) == (0, ["released"], "")


def test_a_call_made_too_late_is_refused(tmp_path: Path) -> None:
    body = """
    def late():
        try:
            client.call("echo", 1)
        except MoltError as error:
            print(type(error).__name__, error)

    # Run in the order of their registration, from the end; the client's was registered when it was made.
    atexit._clear()
    atexit.register(late)
    atexit.register(client.close)
    """
    assert run(body, tmp_path) == (0, ["MoltClientClosed the client is closed"], "")


def test_ctrl_c_in_a_call_ends_the_call_and_the_process(tmp_path: Path) -> None:
    process = start("client.call('clean_up', str(HERE / 'file'), timeout_ms=200_000)", tmp_path)
    wait_for_file(tmp_path / "file")
    process.send_signal(signal.SIGINT)
    code, lines, err = finish(process)
    assert (code, lines) == (-signal.SIGINT, [])
    assert err.endswith("KeyboardInterrupt\n")
    assert err.count("Traceback") == 1
    # A shared pool outlives the process, and stops its work beside it.
    wait_until(lambda: not (tmp_path / "file").exists())


@pytest.mark.sample(1)
def test_a_worker_that_neither_starts_nor_stops_does_not_stop_the_process_from_ending(tmp_path: Path) -> None:
    body = """
    program = "import sys, time; open(sys.argv[1], 'w'); time.sleep(5); open(sys.argv[2], 'w')"
    deaf = Client(worker_cmd=[sys.executable, "-c", program, str(HERE / "up"), str(HERE / "over")], grace_ms=0)
    in_thread(deaf._transport.start)
    wait_for(HERE / "up")
    """
    process = start(body, tmp_path)
    process.wait(60)
    assert not (tmp_path / "over").exists()
    assert finish(process) == (0, [], "")


# -- asyncio ------------------------------------------------------------------------------------------------
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("asyncio.run(main(client.acall))", id="asyncio.run"),
        pytest.param("asyncio.run(main(in_a_thread))", id="to_thread of a loop that was left"),
        pytest.param(
            "loop = asyncio.new_event_loop(); loop.run_until_complete(main(client.acall)); loop.close()",
            id="a loop closed under the call",
        ),
    ],
)
def test_an_event_loop_may_end_with_a_call_in_flight(tmp_path: Path, ending: str) -> None:
    body = f"""
    import logging

    logging.getLogger("asyncio").disabled = True  # that a pending task was destroyed is asyncio's to say

    async def in_a_thread(entry, payload, **options):
        return await asyncio.to_thread(client.call, entry, payload, **{{**options, "timeout_ms": 500}})

    async def main(call):
        global task  # else it is collected
        task = asyncio.ensure_future(call("clean_up", str(HERE / "file"), timeout_ms=200_000))
        while not (HERE / "file").exists():
            await asyncio.sleep(0.002)

    {ending}
    print(client.call("echo", "still here"))
    """
    code, lines, err = run(body, tmp_path)
    assert (code, lines) == (0, ["still here"])
    assert "molt" not in err
    wait_until(lambda: not (tmp_path / "file").exists())


# -- fork ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("used", [True, False])
def test_a_forked_child_that_ends_as_interpreters_do_spares_the_parent(tmp_path: Path, used: bool) -> None:
    body = f"""
    worker = client.ping()["pid"]
    pid = os.fork()
    if pid == 0:
        if {used}:
            client.call("echo", 1)
        sys.exit(5)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(client.ping()["pid"] == worker)
    """
    assert run(body, tmp_path) == (0, ["5", "True"], "")


def test_a_child_outlives_its_parent_and_the_parents_worker_does_not(tmp_path: Path) -> None:
    body = """
    if os.fork() == 0:
        os.close(1), os.close(2)
        wait_for(HERE / "go")
        (HERE / "answer").write_text(client.call("echo", "from the child"))
        sys.exit()
    """
    assert run(body, tmp_path) == (0, [], "")
    (tmp_path / "go").touch()
    assert wait_for_file(tmp_path / "answer") == "from the child"
