"""Client and worker in different process namespaces, as in containers that share a directory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from molt_accel import MoltWorkerCrashed
from tests.support import EXPORTS, ROOT
from tests.support.pools import Share, health, idle, path_of, with_worker
from tests.support.processes import wait_until
from tests.system.environments.places import PATIENCE_S, processes_apart, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no namespaces")


@pytest.fixture
def worker_apart(pool_log: Path) -> Iterator[None]:
    """A worker that is the first process of a namespace."""
    command = [*processes_apart(), sys.executable, "-m", "molt_worker", "--shm", "pool"]
    with pool_log.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--exports", "tests.support.pool_entrypoints", "--executors", "2"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        wait_until(lambda: Path(path_of()).exists() or process.poll() is not None, PATIENCE_S)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_worker_in_its_namespace_serves_and_replaces_executors(worker_apart: None, share: Share) -> None:
    client = share(autostart=False)
    assert idle(client)["pid"] == 1
    payload = bytes(2_000_000)
    assert client.call("echo_raw", payload, codec="raw") == payload
    for _ in range(3):
        with pytest.raises(MoltWorkerCrashed):
            client.call("crash", {"signal": 9})
        assert client.call("echo", 1) == 1
    second = share(autostart=False)  # whose death the worker can tell by its socket alone
    second.start()
    assert health(client)["clients"] == 2
    second.close()
    wait_until(lambda: health(client)["clients"] == 1)
    assert len(idle(client)["executors"]["pids"]) == 2


def test_clients_in_namespaces_of_their_own_share_a_pool(share: Share) -> None:
    client = with_worker(share(exports=EXPORTS))
    settings = {"MOLT_WORKER_NAME": "pool", "MOLT_WORKER_AUTOSTART": "0"}
    for _ in range(2):
        found = run("calls", "shm", inside=processes_apart(), **settings)
        assert (found["transport"], found["deaths"]) == ("shm", 0)
    wait_until(lambda: health(client)["clients"] == 1)
    assert client.call("echo", 1) == 1


def test_a_pool_that_is_started_in_a_namespace_ends_with_it() -> None:
    assert run("calls", "shm", inside=processes_apart())["transport"] == "shm"
