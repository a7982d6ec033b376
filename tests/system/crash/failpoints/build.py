"""Builds the native core with failpoints, in a folder of its own; the one in the source tree stays as it is."""

import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[3]


def build(folder: Path, **environment: str) -> Path:
    """The native core with failpoints, built in `folder` unless it is there, with this in its environment.

    One process of those that share the folder builds it, the others wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = list(folder.glob("lib/**/_native*.so"))
        if not built:
            flags = f"{os.environ.get('CFLAGS', '')} -DMOLT_FAILPOINTS -I{shlex.quote(str(HERE))}"
            command = [sys.executable, "setup.py", "-q", "build_ext"]
            command += ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
            subprocess.run(command, cwd=ROOT, env={**os.environ, **environment, "CFLAGS": flags}, check=True)
            built = list(folder.glob("lib/**/_native*.so"))
        (library,) = built
        return library


def environ(library: Path, control: Path) -> dict[str, str]:
    """What makes failpoints work in a process and all that it starts: a native core with them, and a control file."""
    paths = [str(HERE / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MOLT_FAILPOINTS_NATIVE": str(library),
        "MOLT_FAILPOINTS_FILE": str(control),
    }
