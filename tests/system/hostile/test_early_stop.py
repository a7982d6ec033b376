"""A worker that is told to stop before it has begun to serve."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.pools import path_of

#: A worker that gets a signal between binding its socket and its loop.
_PROGRAM = """
import os, signal, sys
from molt_worker.cli import main as cli
from molt_worker.supervisor.shm import supervisor as shm_supervisor

def listen(self, listen=shm_supervisor.ShmSupervisor.listen):
    listen(self)
    os.kill(os.getpid(), int(sys.argv.pop()))

shm_supervisor.ShmSupervisor.listen = listen
sys.exit(cli.main(["--shm", "pool", "--exports", "tests.support.pool_entrypoints"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_bind_and_run_leaves_no_socket_behind(number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(int(number))], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(path_of())
