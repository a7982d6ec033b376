"""The control groups of this process, which may limit what it gets of the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = "/sys/fs/cgroup"
OWN: Final = "/proc/self/cgroup"
#: The file of a group's limit of memory, in version 2 of control groups and in version 1. "max": no limit.
_MEMORY: Final = ("memory.max", "memory.limit_in_bytes")


def of_this_process(controller: str, root: str = ROOT, own: str = OWN) -> Iterator[Path]:
    """The folders in which limits of a controller (``cpu``, ``memory``) may stand for this process.

    Each of its groups, and each group around that, may have one. A container sees only the innermost, at the root.
    """
    paths = {"": "/", controller: "/"}  # by hierarchy: that of version 2, and the controller's of version 1
    with contextlib.suppress(OSError, ValueError):
        for line in Path(own).read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                paths[controller if controllers else ""] = path
    for hierarchy, path in paths.items():
        group = PurePosixPath(path)
        for each in (group, *group.parents):
            yield Path(root, hierarchy, each.as_posix().lstrip("/"))


def memory(machine: int, root: str = ROOT, own: str = OWN) -> int:
    """Return how many bytes of memory this process and its children may have: the machine's, or the least limit."""
    limits = [machine]
    for group in of_this_process("memory", root, own):
        for name in _MEMORY:
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((group / name).read_text()))
    return min(limits)
