"""Telling server and worker processes apart, on real process trees."""

import os
import shlex
import signal
from collections.abc import Callable

import psutil
import pytest

from bench.core.processes import MARK_VARIABLE, Family, is_worker_command
from tests.bench.conftest import Program

Spawn = Callable[..., Program]

# Prints its pid and those of what it starts, then lives until its standard input ends.
PLAIN = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
FORKING = """
import os, sys
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print(os.getpid(), child, flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""
# A server whose child is a molt-worker that has forked an executor.
TREE = f"""
import os, subprocess, sys
command = ["molt-worker", "-c", {FORKING!r}]
worker = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, text=True)
print(os.getpid(), worker.stdout.readline().strip(), flush=True)
sys.stdin.read()
worker.wait()
"""
# A server whose client has started a pool, or a worker of its own.
CLIENT = """
import os, sys
from molt_accel import Client
with Client(transport=sys.argv[1], executors=2, log_level="error") as client:
    client.start()
    while (state := client.ping())["executors"]["idle"] < 2 or len(state["executors"]["pids"]) < 2:
        pass  # an executor may be idle before its supervisor was told its pid
    print(os.getpid(), state["pid"], *state["executors"]["pids"], flush=True)
    sys.stdin.read()
"""


WORKERS = (
    "molt-worker --stdio", "/some/bin/python /some/bin/molt-worker --shm name", "python -m molt_worker --stdio",
    "python -m molt_worker.cli", "python -c 'from molt_worker.cli import main; main()'",
    "python /some/place/molt_worker/__main__.py", "'molt-worker: executor 3'", "'molt_worker supervisor' ''",
)  # fmt: skip
OTHERS = (
    "", "''", "'gunicorn: worker [demo]'", "python -m gunicorn --chdir /srv/molt_worker",
    "/home/molt_worker/env/bin/python -m gunicorn demo.django_app.wsgi:application",
    "python -m demo.molt_worker_app.make_table", "python -m molt_workers", "vi molt_worker",
)  # fmt: skip


@pytest.mark.parametrize("command", [*WORKERS, *OTHERS])
def test_a_worker_is_known_by_its_command_line(command: str) -> None:
    assert is_worker_command(shlex.split(command)) == (command in WORKERS)


def parts(family: Family) -> dict[int, str]:
    return {member.process.pid: member.part for member in family.members()}


def pids(process: Program) -> list[int]:
    return [int(pid) for pid in process.says().split()]


def test_a_worker_below_its_server(spawn: Spawn) -> None:
    root = spawn(TREE)
    server, worker, executor = pids(root)
    family = Family(root.pid, "no such mark")
    assert parts(family) == {server: "server", worker: "worker", executor: "worker"}
    # The second look goes by what the first remembered.
    assert parts(family) == {server: "server", worker: "worker", executor: "worker"}


def test_a_worker_beside_its_server_is_found_by_its_mark(spawn: Spawn) -> None:
    mark = f"mark-{os.getpid()}-beside"
    environment = os.environ | {MARK_VARIABLE: mark}
    server = spawn(PLAIN, env=environment)
    pids(server)
    family = Family(server.pid, mark)
    assert parts(family) == {server.pid: "server"}
    # Started after the first look, by somebody else, and no child of the server.
    supervisor, executor = pids(spawn(FORKING, "molt-worker", env=environment, start_new_session=True))
    assert parts(family) == {server.pid: "server", supervisor: "worker", executor: "worker"}


def test_the_worker_of_a_client_is_the_worker_detached_or_not(spawn: Spawn, transport: str) -> None:
    mark = f"mark-{os.getpid()}-{transport}"
    root = spawn(CLIENT, arguments=[transport], env=os.environ | {MARK_VARIABLE: mark})
    server, supervisor, *executors = pids(root)
    detached = server not in [parent.pid for parent in psutil.Process(supervisor).parents()]
    assert detached == (transport == "shm")
    (template,) = {psutil.Process(executor).ppid() for executor in executors}
    workers = dict.fromkeys([supervisor, template, *executors], "worker")
    assert len(workers) == 4
    assert parts(Family(server, mark)) == {server: "server", **workers}


def test_a_mark_in_the_command_line_will_do(spawn: Spawn) -> None:
    mark = f"mark-{os.getpid()}-titled"
    worker = spawn(f"{PLAIN}  # {mark}", "molt-worker")
    pids(worker)
    assert parts(Family(None, mark)) == {worker.pid: "worker"}


def test_strangers_and_the_dead_are_no_members(spawn: Spawn) -> None:
    root, stranger = spawn(PLAIN), spawn(PLAIN, "molt-worker")
    pids(root)
    pids(stranger)
    family = Family(root.pid, "no such mark")
    assert parts(family) == {root.pid: "server"}
    root.send_signal(signal.SIGKILL)
    # Not reaped yet: a zombie has ended, too.
    os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(root.pid).status() == psutil.STATUS_ZOMBIE
    assert parts(family) == {}
    root.wait()
    assert parts(family) == {}
