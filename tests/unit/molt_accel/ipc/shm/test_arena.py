"""The shared-memory object: how it is divided, made, reserved, mapped and named by nobody."""

import errno
import mmap
import os
import subprocess
import sys
import sysconfig
from typing import Any

import pytest

from molt_accel.errors import MoltIncompatible, MoltWorkerUnavailable, NoSharedMemory
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.arena import DEFAULT_BYTES, Geometry
from molt_accel.ipc.shm.layout import Gauge
from tests.support.errors import raised
from tests.support.handover import core

GEOMETRY = Geometry(4, 2, 4096)


def size_of(geometry: Geometry) -> int:
    return int(core.arena_size(geometry.channels, geometry.slots, geometry.ring_bytes))


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# -- geometry ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("executors", "capacity", "limit", "expected"),
    [
        (2, 64, DEFAULT_BYTES, Geometry(98, 24, 64 * 1024)),
        (1, 0, DEFAULT_BYTES, Geometry(33, 20, 128 * 1024)),  # rings are never larger than this
        (2, 64, 4 << 20, Geometry(98, 24, 16 * 1024)),
        (2, 64, 1 << 20, Geometry(97, 24, 4 * 1024)),
        (1, 65536, 1 << 30, Geometry(4096, 20, 64 * 1024)),  # there are never more channels than this
    ],
)
def test_a_pool_gets_the_channels_it_can_use_and_the_largest_rings_that_fit(
    executors: int, capacity: int, limit: int, expected: Geometry
) -> None:
    assert Geometry.fitting(executors, capacity, limit) == expected
    assert core.MAX_CHANNELS == 4096


@pytest.mark.parametrize("executors", [1, 2, 8, 64, 256, 512])
@pytest.mark.parametrize("capacity", [0, 64, 1000, 65536])
@pytest.mark.parametrize("megabytes", [4, 16, 256])
def test_whatever_is_asked_for_the_limit_holds(executors: int, capacity: int, megabytes: int) -> None:
    limit = megabytes << 20
    try:
        geometry = Geometry.fitting(executors, capacity, limit)
    except NoSharedMemory:
        geometry = Geometry(executors + 2, 4 * executors + 16, 4096)
        assert size_of(geometry) > limit
        return
    assert size_of(geometry) <= limit
    assert geometry.channels >= executors + 2
    assert geometry.slots >= 2 * executors  # a pool, and one that replaces it
    # Rings shrink first; only then are there fewer channels.
    if geometry.channels < min(executors + capacity, 4096):
        one_more = Geometry(geometry.channels + 1, geometry.slots, 4096)
        assert (geometry.ring_bytes, size_of(one_more) > limit) == (4096, True)


def test_where_the_smallest_does_not_fit_the_error_says_what_to_do() -> None:
    error = raised(NoSharedMemory, Geometry.fitting, 200, 64, 1 << 20)
    assert error.detail == (
        "1 MiB are too little for 200 executors; raise MOLT_WORKER_ARENA_MB, or use MOLT_TRANSPORT=stdio"
    )


@pytest.mark.parametrize(
    ("channels", "slots", "ring"),
    [
        (0, 1, 4096), (1, 0, 4096), (4097, 1, 4096), (1, 4097, 4096), (1, 1, 2048), (1, 1, 5000),
        (1, 1, 1 << 31),
    ],
)  # fmt: skip
def test_impossible_geometries_have_no_size(channels: int, slots: int, ring: int) -> None:
    with pytest.raises(
        ValueError, match=f"impossible geometry: {channels} channels, {slots} slots, rings of {ring}"
    ):
        core.arena_size(channels, slots, ring)


# -- making and attaching ---------------------------------------------------------------------------------
def test_all_who_map_it_see_the_same() -> None:
    arena, fd = arenas.create(GEOMETRY)
    try:
        other = arenas.attach(os.dup(fd))
        view = arenas.view(os.dup(fd))
        assert [(each.channels, each.slots, each.ring_bytes) for each in (arena, other, view)] == [
            (4, 2, 4096)
        ] * 3
        other.set_gauge(Gauge.CAPACITY, 77)
        other.set_in_use(3)
        assert arena.step(2, 0, 5 << 32)
        for each in (arena, other, view):
            assert (each.gauge(Gauge.CAPACITY), each.in_use, each.word(2)) == (77, 3, 5 << 32)
    finally:
        os.close(fd)


def test_a_view_can_not_write() -> None:
    arena, fd = arenas.create(GEOMETRY)
    view = arenas.view(fd)
    assert set(dir(view)).isdisjoint(
        {
            "set_gauge",
            "set_in_use",
            "add_counter",
            "set_slot_gauge",
            "step",
            "reset_slot",
            "retire",
            "close",
            "mend_marks",
        }
    )
    with pytest.raises(AttributeError):
        view.in_use = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        core.Channel(view, 0, 100)
    with pytest.raises(TypeError):
        core.Slot(view, 0, 0)
    assert arena.in_use == 0


def test_a_view_needs_no_descriptor_that_it_could_write_by() -> None:
    arena, fd = arenas.create(GEOMETRY)
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(MoltWorkerUnavailable):
        arenas.attach(os.dup(read_only))
    assert arenas.view(read_only).channels == arena.channels


def test_its_name_is_gone_and_its_pages_are_there() -> None:
    before = set(os.listdir("/dev/shm"))
    _, fd = arenas.create(GEOMETRY)
    try:
        assert not {name for name in set(os.listdir("/dev/shm")) - before if f"molt-{os.getpid()}" in name}
        found = os.fstat(fd)
        assert found.st_size == size_of(GEOMETRY)
        assert found.st_blocks * 512 >= found.st_size  # reserved: no write can fail later
        assert found.st_mode & 0o777 == 0o600
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_where_there_is_no_room_it_is_an_error_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = fds()
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    error = raised(NoSharedMemory, arenas.create, GEOMETRY)
    assert error.detail == (
        "no room in /dev/shm for the 0.2 MiB of this pool (No space left on device); make it larger "
        "(docker run --shm-size), lower MOLT_WORKER_MAX_QUEUE, or use MOLT_TRANSPORT=stdio"
    )
    assert fds() == before


def test_where_none_can_be_made_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import posix_ipc

    def refuse(*args: object, **kwargs: object) -> None:
        raise posix_ipc.PermissionsError("No permission")

    monkeypatch.setattr(posix_ipc, "SharedMemory", refuse)
    with pytest.raises(
        NoSharedMemory, match="no shared memory can be made: No permission; is /dev/shm mounted"
    ):
        arenas.create(GEOMETRY)


def _image(change: Any = lambda image: None, cut: int = 0) -> bytes:
    memory = mmap.mmap(-1, size_of(GEOMETRY))
    core.Arena(memory, 4, 2, 4096)
    image = bytearray(memory)
    change(image)
    return bytes(image[: len(image) - cut])


def _set(at: int, value: int) -> Any:
    def change(image: bytearray) -> None:
        image[at] = value

    return change


@pytest.mark.parametrize("how", [arenas.attach, arenas.view])
@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "cannot mmap an empty file"),
        (b"\0" * 100, "it is too small"),
        (b"\0" * 100_000, "it is none, or was never finished"),
        (_image(_set(0, 0)), "it is none, or was never finished"),
        (_image(_set(8, 99)), "it was made by another version of this library"),
        (_image(_set(12, 0)), "it was made by another version of this library"),
        (_image(_set(16, 5)), "its size is not what its geometry says"),
        (_image(_set(28, 3)), "its size is not what its geometry says"),
        (_image(cut=4096), "its size is not what its geometry says"),
    ],
)
def test_what_is_no_arena_is_refused_and_its_descriptor_closed(how: Any, image: bytes, why: str) -> None:
    before = fds()
    fd = os.memfd_create("damaged")
    os.write(fd, image)
    error = raised(MoltIncompatible, how, fd)
    assert error.detail.startswith("can't attach to the worker's memory: ")
    assert error.detail.endswith(why)
    assert fds() == before


def test_a_descriptor_that_can_not_be_mapped_is_refused() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(MoltWorkerUnavailable, match="can't attach to the worker's memory"):
        arenas.attach(fd)


def test_memory_of_another_size_is_not_made_an_arena() -> None:
    with pytest.raises(ValueError, match="the memory has not the size of this geometry"):
        core.Arena(mmap.mmap(-1, 4096), 4, 2, 4096)


def test_read_only_memory_is_not_worked_with() -> None:
    with pytest.raises(BufferError):
        core.Arena(_image())
    assert core.ArenaView(_image()).channels == 4


# -- where it can't run -----------------------------------------------------------------------------------
def test_without_linux_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NoSharedMemory, match="shared memory is served on Linux only"):
        arenas.native.__wrapped__()


def test_on_free_threaded_python_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: 1)
    with pytest.raises(NoSharedMemory, match="has not been proved on free-threaded Python"):
        arenas.native.__wrapped__()


def test_without_the_native_core_it_says_so() -> None:
    script = """
import sys
sys.modules["molt_accel.ipc.shm._native"] = None
from molt_accel.errors import NoSharedMemory
from molt_accel.ipc.shm.arena import native
try:
    native()
except NoSharedMemory as exc:
    print(exc.detail)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("the native core is missing (")
