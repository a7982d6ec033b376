"""Where nats-py is not installed: what asks for it says so, and all else goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import EXPORTS
from tests.support.nats_server import PATIENCE_S

HIDDEN = """
import logging, sys
logging.basicConfig(level="WARNING", format="LOG %(levelname)s %(message)s", stream=sys.stdout)
sys.modules["nats"] = None
"""
INSTALL = "pip install 'molt-accel[nats]'"


def ran(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that can't import nats-py."""
    path = folder / "script.py"
    path.write_text(HIDDEN + script)
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


CALLS_OTHERS = """
import asyncio
from molt_accel import Client, MoltStartFailed, MoltWorkerUnavailable

def told(call):
    try:
        call()
    except MoltWorkerUnavailable as error:
        assert isinstance(error, MoltStartFailed) and not error.may_have_run
        print(error.detail)

with Client(transport="nats", nats_url="nats://127.0.0.1:1") as client:
    told(lambda: client.call("echo", 1))
    told(client.start)
    told(lambda: asyncio.run(client.acall("echo", 1)))
"""


def test_a_client_of_other_hosts_says_how_to_install_it(tmp_path: Path) -> None:
    done = ran(tmp_path, CALLS_OTHERS)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(INSTALL in line and "nats-py" in line for line in lines), lines


OVERFLOWS = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from molt_accel import Client, MoltBusy

def refused(client):
    try:
        client.call("echo", 1)
    except MoltBusy:
        return True
    return False

with Client(transport=sys.argv[1], overflow="nats", nats_url="nats://127.0.0.1:1", exports=sys.argv[2], executors=1,
            max_queue=0, log_level="error") as client, ThreadPoolExecutor(1) as threads:
    client.start()
    while client.ping()["executors"].get("idle") != 1:
        time.sleep(0.001)
    print(client.call("echo", "here"))
    held = threads.submit(client.call, "wait_for_file", sys.argv[3], timeout_ms=60_000)
    while not refused(client):
        time.sleep(0.001)
    for _ in range(100):
        assert refused(client)
        for thread in threading.enumerate():
            if thread.name == "molt-starter":
                thread.join()
    open(sys.argv[3], "w").close()
    print(held.result(60))
"""


@pytest.mark.parametrize("transport", ["shm", "stdio"])
def test_the_local_pool_serves_alone_with_one_warning(tmp_path: Path, transport: str) -> None:
    if transport == "shm" and sys.platform != "linux":
        pytest.skip("no shared memory")
    done = ran(tmp_path, OVERFLOWS, transport, EXPORTS, str(tmp_path / "go"))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("here", "released")
    (warning,) = (line for line in lines if "overflow" in line)
    assert warning.startswith("LOG WARNING no overflow to other hosts")
    assert INSTALL in warning


def test_the_bridge_says_it_too(tmp_path: Path) -> None:
    script = "from molt_worker.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    done = ran(tmp_path, script, "bridge", "--name", "pool", "--nats", "nats://127.0.0.1:1")
    assert done.returncode == 2
    assert INSTALL in done.stderr
