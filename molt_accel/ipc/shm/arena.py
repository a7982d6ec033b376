"""The shared-memory object: made and reserved by the worker, mapped by its clients, known by no name.

Its name is gone before anybody uses it, so that nothing stays in /dev/shm whoever is killed; descriptor and
mapping are all there is. Its pages are reserved when it is made, so a full /dev/shm is an error here and never a
SIGBUS later.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from molt_accel.errors import MoltIncompatible, MoltWorkerUnavailable, NoSharedMemory
from molt_accel.ipc import frame, messages

if TYPE_CHECKING:
    from molt_accel.ipc.shm import _native as types
    from molt_accel.ipc.shm._native import Arena, ArenaView

#: A container's /dev/shm has 64 MiB; a quarter of that is what the arena takes by default, at most.
DEFAULT_BYTES: Final = 16 * 1024 * 1024
_MIN_RING: Final = 4 * 1024
_MAX_RING: Final = 128 * 1024
#: Channels beyond what queue and executors can hold: leased, but idle or just being freed.
_SPARE_CHANNELS: Final = 32


class Native(Protocol):
    """What others use of the native core, `_native.pyi`; mypy holds the two against each other."""

    MAX_CHANNELS: int
    BUCKETS: int
    STATES: tuple[int, ...]
    SLOT_FREE: int
    SLOT_BUSY: int
    SLOT_IDLE: int
    ADMITTED: int
    WAITING: int
    BUSY: int
    BAD_FRAME: int
    OUTCOME: int
    CLOSED: int
    REQUEST: int
    RETIRE: int
    TRANSFERRED: int
    Corrupt: type[types.Corrupt]
    Arena: type[types.Arena]
    ArenaView: type[types.ArenaView]
    Channel: type[types.Channel]
    Slot: type[types.Slot]
    ParkMeter: type[types.ParkMeter]

    def arena_size(self, channels: int, slots: int, ring_bytes: int) -> int: ...


_View = TypeVar("_View", bound="ArenaView")


@functools.cache
def native() -> Native:
    """The native core, as `_native.pyi` describes it. Raises NoSharedMemory where there is none."""
    if sys.platform != "linux":
        raise NoSharedMemory("shared memory is served on Linux only")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NoSharedMemory("the shared-memory transport has not been proved on free-threaded Python")
    try:
        from molt_accel.ipc.shm import _native
    except ImportError as exc:
        raise NoSharedMemory(
            f"the native core is missing ({exc}); with glibc 2.30 or newer, reinstall molt-accel"
        ) from exc
    _native.use_frames(messages.Request, messages.Response, frame.CODECS, frame.STATUSES)
    return _native


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an arena is divided."""

    channels: int
    slots: int
    ring_bytes: int

    @classmethod
    def fitting(cls, executors: int, capacity: int, limit: int = DEFAULT_BYTES) -> Geometry:
        """The geometry for a pool: a channel for each request there can be, rings as large as the limit allows.

        Args:
            executors: Size of the pool.
            places: Places in its queue.
            limit: Bytes that the arena should not exceed.

        Raises:
            NoSharedMemory: not even the smallest rings fit.
        """
        channels = executors + capacity + _SPARE_CHANNELS
        # One pool at work, one that replaces it at a reload, and some that are just being reaped.
        slots = 4 * executors + 16
        size = native().arena_size
        smallest = size(1, slots, _MIN_RING)
        # What doesn't fit a ring streams through it. So rings shrink first, and only then are there fewer channels.
        most = 1 + (limit - smallest) // (size(2, slots, _MIN_RING) - smallest)
        channels = min(channels, most, native().MAX_CHANNELS)
        while channels > 0 and size(channels, slots, _MIN_RING) > limit:  # by some bytes for each
            channels -= 1
        if channels < executors + 2:
            raise NoSharedMemory(
                f"{limit >> 20} MiB are too little for {executors} executors; "
                "raise MOLT_WORKER_ARENA_MB, or use MOLT_TRANSPORT=stdio"
            )
        ring = _MAX_RING
        while ring > _MIN_RING and size(channels, slots, ring) > limit:
            ring //= 2
        return cls(channels, slots, ring)


def create(geometry: Geometry) -> tuple[Arena, int]:
    """Make an arena. Returns it and the descriptor by which others map it.

    Raises:
        NoSharedMemory: there is no /dev/shm, or no room in it.
    """
    import posix_ipc

    core = native()
    size = core.arena_size(geometry.channels, geometry.slots, geometry.ring_bytes)
    try:
        # Named after its maker: a name that stays is of one that was killed right here, and holds no memory yet.
        name = f"/molt-{os.getpid()}-{os.urandom(8).hex()}"
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0)
    except (posix_ipc.Error, OSError) as exc:
        raise NoSharedMemory(
            f"no shared memory can be made: {exc}; is /dev/shm mounted and writable?"
        ) from exc
    try:
        memory.unlink()
        os.ftruncate(memory.fd, size)
        os.posix_fallocate(memory.fd, 0, size)
        return core.Arena(
            _map(memory.fd, size), geometry.channels, geometry.slots, geometry.ring_bytes
        ), memory.fd
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.close(memory.fd)
        raise NoSharedMemory(
            f"no room in /dev/shm for the {size / 2**20:.1f} MiB of this pool ({exc.strerror}); make it larger "
            "(docker run --shm-size), lower MOLT_WORKER_MAX_QUEUE, or use MOLT_TRANSPORT=stdio"
        ) from exc


def attach(fd: int) -> Arena:
    """Map an arena by its descriptor, which is closed.

    Raises:
        MoltIncompatible: it is not an arena of this version.
        MoltWorkerUnavailable: it can't be mapped.
    """
    return _attach(fd, native().Arena, mmap.PROT_READ | mmap.PROT_WRITE)


def view(fd: int) -> ArenaView:
    """Map an arena to look at, and nothing else, by its descriptor, which is closed. Raises as `attach` does."""
    return _attach(fd, native().ArenaView, mmap.PROT_READ)


def _attach(fd: int, kind: Callable[[mmap.mmap], _View], access: int) -> _View:
    try:
        return kind(_map(fd, os.fstat(fd).st_size, access))
    except (OSError, ValueError) as exc:
        failure = MoltIncompatible if isinstance(exc, ValueError) else MoltWorkerUnavailable
        raise failure(f"can't attach to the worker's memory: {exc}") from exc
    finally:
        os.close(fd)


def _map(fd: int, size: int, access: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
    return mmap.mmap(fd, size, mmap.MAP_SHARED, access)
