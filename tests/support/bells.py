"""An arena in memory of this process alone, for what needs one and no pool."""

import mmap
from typing import Any

from molt_accel.ipc.shm import arena as arenas


def small_arena(channels: int = 1) -> Any:
    """An arena that takes no descriptor."""
    core = arenas.native()
    return core.Arena(mmap.mmap(-1, core.arena_size(channels, 1, 4096)), channels, 1, 4096)
