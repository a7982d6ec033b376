"""What a worker has of the process that started it: nothing that could harm it, and nothing that it keeps."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from molt_accel import Client, MoltTimeout, MoltWorkerCrashed, MoltWorkerUnavailable
from tests.support import EXPORTS, ROOT, TRANSPORTS
from tests.support.processes import wait_until

MakeModule = Callable[[str, str], Path]

#: A host that ignores and blocks what can be, and then calls. Its real-time class is set where that is allowed.
HOST = f"""
import os, signal, sys, time
for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
sys.path.insert(0, {str(ROOT)!r})
from molt_accel import Client, MoltTimeout, MoltWorkerCrashed

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
"""
EXPORTED = """
import os, signal, subprocess, time
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
    assert done.stdout.splitlines() == ["[['SIGPIPE', 'SIGXFSZ'], []]", "running", "11", "-15"], done.stderr
