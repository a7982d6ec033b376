"""molt_worker.runtime.streams: print and logging in a child of a process whose threads held the streams' locks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: A thread is stuck in a write to standard error, whose lock it holds, from here on.
STUCK = """
import os, sys, threading
def stick():
    _, full = os.pipe()
    real = os.dup(2)
    os.dup2(full, 2)
    os.set_blocking(full, False)
    try:
        while True: os.write(full, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(full, True)
    writing = threading.Thread(target=sys.stderr.write, args=("x" * 300_000,), daemon=True, name="agent")
    writing.start()
    while open(f"/proc/self/task/{writing.native_id}/stat").read().rpartition(")")[2].split()[0] != "S":
        pass  # it sleeps when it is in the write
    os.dup2(real, 2)
"""
EXPORTS = """
import logging, sys
from molt_worker import export
logging.basicConfig()
@export
def say(payload):
    print("printed", file=sys.stderr)
    logging.warning("logged")
    return payload
"""
CALL = """
from molt_accel import Client
with Client(transport="stdio", exports="said", executors=1, log_level="warning") as client:
    print(client.call("say", 5, timeout_ms=60_000))
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("where", ["at import", "an agent in every process"])
def test_a_thread_that_holds_a_streams_lock_at_the_fork_stops_no_executor(tmp_path: Path, where: str) -> None:
    at_import = where == "at import"
    (tmp_path / "said.py").write_text((STUCK + "stick()\n" if at_import else "") + EXPORTS)
    if not at_import:
        only = "if any(word.endswith(('molt-worker', 'molt_worker')) for word in sys.orig_argv): stick()\n"
        (tmp_path / "sitecustomize.py").write_text(STUCK + only)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "5\n", done.stderr
    assert "printed" in done.stderr
    assert "WARNING:root:logged" in done.stderr
    if at_import:
        assert "threads_at_import" in done.stderr
        assert "threads=agent" in done.stderr
