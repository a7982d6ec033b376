"""Control groups with a quota: the processes of a group together get so much processor time in each period."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from molt_worker.runtime import cgroups

PERIOD_US = 100_000


class NoQuota(Exception):
    """No group with a quota can be made here; the text says why."""


class Quota:
    """Makes groups that are allowed so many processors' time each, and removes them in the end.

    Processes are in a group from their first instruction, so that a worker's look at its limits sees the quota. Groups
    are made below one of this process's own, in whichever version of control groups limits processors here.
    """

    def __init__(self, processors: float, root: str = cgroups.ROOT, own: str = cgroups.OWN) -> None:
        self._quota_us = round(processors * PERIOD_US)
        self._parents = list(cgroups.of_this_process("cpu", root, own))
        self._prefix = f"molt-bench-{secrets.token_hex(4)}"
        self._made: list[Path] = []

    def __enter__(self) -> Quota:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._made:
            # One that still has processes stays; who started them tells of them.
            with contextlib.suppress(OSError):
                group.rmdir()
        self._made.clear()

    def entering(self, name: str) -> tuple[str, ...]:
        """What stands before a command so that it runs in a new group of that name. Raises NoQuota."""
        group = self._group(f"{self._prefix}-{name}")
        self._made.append(group)
        return ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group))

    def _group(self, name: str) -> Path:
        reasons = []
        for parent in self._parents:
            group = parent / name
            try:
                group.mkdir()
            except OSError as error:
                reasons.append(f"{parent}: {error.strerror}")
                continue
            try:
                self._limit(group)
            except OSError as error:
                reasons.append(f"{parent}: {error.strerror or error}")
                group.rmdir()
            else:
                return group
        raise NoQuota(f"no control group with a quota can be made ({'; '.join(dict.fromkeys(reasons))})")

    def _limit(self, group: Path) -> None:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{self._quota_us} {PERIOD_US}")
        elif (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(self._quota_us))
        else:
            raise OSError("processors aren't limited there")
