"""Where programs run: in mount and process namespaces of their own, in control groups, under limits."""

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support import ROOT

#: Longer than anything here takes on a slow machine; reaching it is a hang.
PATIENCE_S = 100.0


@functools.cache
def allowed(*command: str) -> bool:
    """Whether this user may run a command here."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S).returncode == 0
    except OSError:
        return False


def after(script: str) -> list[str]:
    """What runs a command in a shell that has done something first."""
    return ["sh", "-c", f'{script} && exec "$@"', "sh"]


def mounted(script: str) -> list[str]:
    """What runs a command where mounts are as the script makes them. Skips where that can't be done."""
    if not allowed("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"):
        pytest.skip("this user may not mount in a namespace of its own")
    return ["unshare", "-m", *after(script)]


def processes_apart() -> list[str]:
    """What runs a command as the first process of a namespace. Skips where that can't be done."""
    if not allowed("unshare", "-p", "--fork", "--mount-proc", "--kill-child", "true"):
        pytest.skip("this user may not make process namespaces")
    return ["unshare", "-p", "--fork", "--mount-proc", "--kill-child"]


def run(program: str, *arguments: str, inside: list[str] | None = None, **environ: str) -> dict[str, Any]:
    """Run a function of `programs` there; what it returned, and what it and its workers logged as ``log``."""
    done = subprocess.run(
        [*(inside or []), sys.executable, "-m", "tests.system.environments.programs", program, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "log": done.stderr}
