"""Few processors: one for everybody, or a share of one. Nobody may spin then, and everything works."""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.system.environments.places import after, allowed, run

pytestmark = [
    pytest.mark.sample(1),
    pytest.mark.skipif(sys.platform != "linux", reason="taskset and control groups are Linux's"),
]

#: How to give a control group half a processor: the file that says so, and what is written there.
_LIMITS = {"/sys/fs/cgroup": ("cpu.max", "50000 100000"), "/sys/fs/cgroup/cpu": ("cpu.cfs_quota_us", "50000")}


@pytest.fixture
def half_a_processor() -> Iterator[list[str]]:
    """What runs a command in a control group with half a processor."""
    for root, (name, limit) in _LIMITS.items():
        group = Path(root) / f"molt-test-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / name).exists():
                continue
            (group / name).write_text(limit)
            yield after(f"echo $$ > {group}/cgroup.procs")
            wait_until(lambda group=group: not (group / "cgroup.procs").read_text())
            return
        finally:
            group.rmdir()
    pytest.skip("this user may not limit a control group's processors")


def test_on_one_processor_everything_works_and_nobody_spins(transport: str) -> None:
    if not allowed("taskset", "-c", str(min(os.sched_getaffinity(0))), "true"):
        pytest.skip("there is no taskset")
    found = run("idle", transport, inside=["taskset", "-c", str(min(os.sched_getaffinity(0)))])
    assert (found["cpus"], found["spinners"], found["members"]) == (1, 0, 5)
    assert found["spent_s"] < 0.2


def test_under_a_quota_everything_works_and_nobody_spins(transport: str, half_a_processor: list[str]) -> None:
    found = run("idle", transport, inside=half_a_processor)
    assert found["spinners"] == 0
    assert found["spent_s"] < 0.2


def test_an_idle_worker_needs_no_processor(transport: str) -> None:
    assert run("idle", transport)["spent_s"] < 0.2
