"""What a shared pool's log says of requests that their executor can't log any more: it was killed."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltTimeout, MoltWorkerCrashed
from tests.support import EXPORTS
from tests.support.errors import raised
from tests.support.pools import Share
from tests.support.processes import in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is served on Linux only")


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of an event, without their times."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key != "ts"} for row in rows if row["event"] == event
    ]


@pytest.fixture
def client(share: Share) -> Client:
    """Of a pool that has one executor, whose log is JSON."""
    client = share(
        transport="shm", worker_name="log", exports=EXPORTS, executors=1, grace_ms=50, log_json=True
    )
    client.start()
    return client


def test_a_crash_names_request_executor_and_signal(client: Client, pool_log: Path, tmp_path: Path) -> None:
    path = tmp_path / "running"
    killer = in_thread(lambda: os.kill(int(wait_for_file(path)), signal.SIGKILL))
    error = raised(MoltWorkerCrashed, client.call, "announce_and_sleep", str(path))
    killer.join()
    (line,) = wait_until(lambda: lines(pool_log, "executor_crashed"))
    assert line == {
        "level": "error", "event": "executor_crashed", "executor": 1, "error": error.detail,
        "request_id": error.request_id, "entry": "announce_and_sleep",
    }  # fmt: skip
    assert error.detail == "the executor died while it ran 'announce_and_sleep': signal 9 (SIGKILL)"


def test_a_kill_after_the_grace_names_the_request(client: Client, pool_log: Path, tmp_path: Path) -> None:
    error = raised(MoltTimeout, client.call, "never_stops", str(tmp_path / "running"), timeout_ms=100)
    (line,) = wait_until(lambda: lines(pool_log, "executor_killed"))
    assert line == {
        "level": "warning", "event": "executor_killed", "executor": 1, "request_id": error.request_id,
        "entry": "never_stops",
    }  # fmt: skip
    assert lines(pool_log, "executor_crashed") == []


def test_a_request_larger_than_its_ring_can_not_be_named(client: Client, pool_log: Path) -> None:
    with pytest.raises(MoltWorkerCrashed) as caught:
        client.call("crash", {"signal": int(signal.SIGKILL), "padding": "x" * 1_000_000})
    (line,) = wait_until(lambda: lines(pool_log, "executor_crashed"))
    assert line == {
        "level": "error",
        "event": "executor_crashed",
        "executor": 1,
        "error": "the executor died while it ran '?': signal 9 (SIGKILL)",
    }
    assert caught.value.detail == "the executor died while it ran 'crash': signal 9 (SIGKILL)"
