"""Which Python a worker is started with: the one of this process's environment.

`sys.executable` isn't always it. Where a server embeds Python (uWSGI, mod_wsgi), it is that server, a Python outside
the environment, or nothing.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Final

_CHECK: Final = "import sys; print(sys.prefix, *sys.version_info[:2], sep='\\n')"
_CHECK_S: Final = 10.0


def find() -> str | None:
    """Return the path of an interpreter with this process's version and environment; None if none is found."""
    if getattr(sys, "frozen", False):  # a program that carries its modules along, such as PyInstaller's
        return None
    return _find(sys.executable or "", sys.prefix)


@functools.cache
def _find(executable: str, prefix: str) -> str | None:
    directory, name = os.path.split(executable)
    of_prefix = prefix in (os.path.dirname(directory), sys.base_prefix)
    if of_prefix and name.lower().startswith(("python", "pypy")):
        return executable
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    names = (f"python{version}", "python3", "python", "pypy3")
    base = getattr(sys, "_base_executable", "") or ""
    for path in (*(os.path.join(prefix, "bin", name) for name in names), base, executable):
        if os.path.basename(path).lower().startswith(("python", "pypy")) and _serves(path, prefix):
            return path
    return None


def _serves(path: str, prefix: str) -> bool:
    """Whether it is an interpreter of this version and environment. It is run to see."""
    try:
        said = subprocess.run(
            [path, "-c", _CHECK], capture_output=True, text=True, timeout=_CHECK_S, check=True
        ).stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    version = [str(number) for number in sys.version_info[:2]]
    return said[1:] == version and os.path.realpath(said[0]) == os.path.realpath(prefix)
