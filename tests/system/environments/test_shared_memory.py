"""/dev/shm as containers and careful administrators have it: small, full, filled later, not there, noexec."""

import sys

import pytest

from tests.system.environments.places import mounted, run

pytestmark = [
    pytest.mark.sample(1),
    pytest.mark.skipif(sys.platform != "linux", reason="shared memory is served on Linux only"),
]

_SMALL = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
_NOWHERE = (
    "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/zero c 1 5 "
    "&& mknod -m 666 /dev/urandom c 1 9"
)
#: Machines on which shared memory can't be had, and what is told of them.
WITHOUT = {
    "full": (f"{_SMALL} && head -c 60M /dev/zero > /dev/shm/filler", "no room in /dev/shm for the 1"),
    "read-only": ("mount -t tmpfs -o ro tmpfs /dev/shm", "is /dev/shm mounted and writable?"),
    "not there": (_NOWHERE, "is /dev/shm mounted and writable?"),
}
_WARNING = "no shared memory, so each server process starts a worker of its own: "


@pytest.mark.parametrize("options", ["size=64m", "size=64m,noexec,nosuid,nodev"])
def test_64_mb_are_enough_for_several_pools_with_defaults(options: str) -> None:
    found = run("pools", "3", inside=mounted(f"mount -t tmpfs -o {options} tmpfs /dev/shm"))
    assert found["transports"] == ["shm", "shm", "shm"], found["log"]


def test_only_the_pools_that_find_no_room_go_without() -> None:
    transports = (found := run("pools", "7", inside=mounted(_SMALL)))["transports"]
    fitting = transports.index("stdio")
    assert fitting >= 4
    assert transports == ["shm"] * fitting + ["stdio"] * (7 - fitting)
    assert found["log"].count(_WARNING) == 7 - fitting


@pytest.mark.parametrize("machine", WITHOUT)
def test_without_shared_memory_shm_says_why_and_auto_goes_on_with_one_warning(machine: str) -> None:
    script, why = WITHOUT[machine]
    found = run("calls", "shm", inside=mounted(script))
    assert found["error"] == "NoSharedMemory"
    assert found["detail"].startswith("the worker can't start: ")
    assert why in found["detail"]
    found = run("calls", "auto", inside=mounted(script))
    assert found["transport"] == "stdio"
    (warning,) = [line for line in found["log"].splitlines() if line.startswith(_WARNING)]
    assert why in warning


def test_a_pool_doesn_t_notice_that_dev_shm_is_filled_later() -> None:
    """Its pages were reserved: no SIGBUS, whoever touches which of them first."""
    found = run("filled", "shm", inside=mounted(_SMALL))
    assert found["same"], found
    assert found["deaths"] == 0
    assert "no room in /dev/shm" in found["refused"]
