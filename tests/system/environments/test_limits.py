"""Limits of descriptors, memory and paths, and directories that can't be written to: it works, or says why not."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.environments.places import after, mounted, run

pytestmark = [
    pytest.mark.sample(1),
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are as Linux has them"),
]

UNAVAILABLE = ("MoltWorkerUnavailable", "MoltStartFailed")


def test_64_descriptors_are_enough(transport: str) -> None:
    assert run("calls", transport, inside=after("ulimit -n 64"))["transport"] == transport


@pytest.mark.parametrize("limit", [6, 8, 16, 24])
def test_too_few_descriptors_are_an_error_that_says_so(transport: str, limit: int) -> None:
    found = run("calls", transport, inside=after(f"ulimit -n {limit}"))
    assert found.get("transport") == transport or found["error"] in UNAVAILABLE, found


def test_little_address_space_is_enough_or_an_error_that_says_so(transport: str) -> None:
    assert run("calls", transport, inside=after("ulimit -v 600000")).get("transport") == transport


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("mount -t tmpfs -o ro tmpfs {parent}", "can't make the directory"),
        ("mount --bind -o ro {path} {path} && mount -o remount,ro,bind {path}", "can't lock"),
    ],
    ids=["it can't be made", "nothing can be made in it"],
)
def test_a_read_only_runtime_directory_is_an_error_that_says_so(script: str, why: str) -> None:
    with tempfile.TemporaryDirectory(prefix="molt-test-", dir="/tmp") as parent:  # short enough for a socket
        path = parent if "{path}" in script else os.path.join(parent, "new")
        inside = mounted(script.format(parent=parent, path=path))
        found = run("calls", "shm", inside=inside, MOLT_RUNTIME_DIR=path)
        assert run("calls", "auto", inside=inside, MOLT_RUNTIME_DIR=path)["transport"] == "stdio"
    assert found["error"] == "NoSharedMemory"
    assert why in found["detail"]
    assert "Read-only file system; set MOLT_RUNTIME_DIR" in found["detail"]


def test_a_runtime_directory_with_too_long_a_path_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30)
    found = run("calls", "shm", MOLT_RUNTIME_DIR=str(path))
    assert found["error"] == "NoSharedMemory"
    assert "the socket's path is too long" in found["detail"]
    assert "set MOLT_RUNTIME_DIR" in found["detail"]


def test_a_long_path_for_temporary_files_is_of_no_interest(transport: str, tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30)
    path.mkdir()
    assert run("calls", transport, TMPDIR=str(path))["transport"] == transport
