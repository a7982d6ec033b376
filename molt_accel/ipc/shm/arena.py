"""The shared-memory object, which the worker makes and its clients map.

It loses its name before it is used, so that nothing stays in /dev/shm when a process is killed. Its pages are reserved
when it is made, so that a full /dev/shm is an error here and never a SIGBUS later.
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
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

from molt_accel.errors import MoltIncompatible, MoltWorkerUnavailable, NoSharedMemory

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena, ArenaView

#: A quarter of what a container's /dev/shm has by default.
DEFAULT_BYTES: Final = 16 * 1024 * 1024
_MIN_RING: Final = 4 * 1024
_MAX_RING: Final = 128 * 1024
#: Channels beyond those of requests that are queued or run: leased, but idle or just being freed.
_SPARE_CHANNELS: Final = 32


_View = TypeVar("_View", bound="ArenaView")


@functools.cache
def native() -> ModuleType:
    """Return the native core. Raises NoSharedMemory if it can't run here.

    Modules that are imported only afterwards import `_native` itself, whose stub type checkers know.
    """
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
    return _native


@dataclass(frozen=True, slots=True)
class Geometry:
    channels: int
    slots: int
    ring_bytes: int

    @classmethod
    def fitting(cls, executors: int, capacity: int, limit: int = DEFAULT_BYTES) -> Geometry:
        """Return the geometry for a pool: a channel for each possible request, rings as large as fits.

        Args:
            executors: Size of the pool.
            capacity: Places in its queue.
            limit: Largest size of the arena, in bytes.

        Raises:
            NoSharedMemory: not even the smallest rings fit.
        """
        channels = executors + capacity + _SPARE_CHANNELS
        # For the executors at work, for those that replace them at a reload, and for some that are being reaped.
        slots = 4 * executors + 16
        size = native().arena_size
        smallest = size(1, slots, _MIN_RING)
        # A payload that doesn't fit a ring streams through it. So rings shrink first, and then the number of channels.
        most = 1 + (limit - smallest) // (size(2, slots, _MIN_RING) - smallest)
        channels = min(channels, most, native().MAX_CHANNELS)
        # Arrays are aligned: some bytes too many.
        while channels > 0 and size(channels, slots, _MIN_RING) > limit:
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
    """Make an arena. Returns it and the descriptor by which clients map it.

    Raises NoSharedMemory if there is no /dev/shm, or no room in it.
    """
    import posix_ipc

    core = native()
    size = core.arena_size(geometry.channels, geometry.slots, geometry.ring_bytes)
    try:
        # If this process is killed right here the name stays, but holds no memory yet. It tells who made it.
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
        mapped = mmap.mmap(memory.fd, size)
        return core.Arena(mapped, geometry.channels, geometry.slots, geometry.ring_bytes), memory.fd
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.close(memory.fd)
        raise NoSharedMemory(
            f"no room in /dev/shm for the {size / 2**20:.1f} MiB of this pool ({exc.strerror}); make it larger "
            "(docker run --shm-size), lower MOLT_WORKER_MAX_QUEUE, or use MOLT_TRANSPORT=stdio"
        ) from exc


def attach(fd: int) -> Arena:
    """Map an arena by its descriptor, and close that.

    Raises:
        MoltIncompatible: it is not an arena of this version.
        MoltWorkerUnavailable: it can't be mapped.
    """
    kind: type[Arena] = native().Arena
    return _attach(fd, kind, mmap.ACCESS_WRITE)


def view(fd: int) -> ArenaView:
    """Map an arena read-only by its descriptor, and close that. Raises as `attach` does."""
    kind: type[ArenaView] = native().ArenaView
    return _attach(fd, kind, mmap.ACCESS_READ)


def _attach(fd: int, kind: Callable[[mmap.mmap], _View], access: int) -> _View:
    try:
        return kind(mmap.mmap(fd, os.fstat(fd).st_size, access=access))
    except (OSError, ValueError) as exc:
        failure = MoltIncompatible if isinstance(exc, ValueError) else MoltWorkerUnavailable
        raise failure(f"can't attach to the worker's memory: {exc}") from exc
    finally:
        os.close(fd)
