"""Builds the native core of the shared-memory transport; everything else is said in setup.cfg.

Where that transport can run, a package without it would be a slower one than was asked for, so a build that fails
is a failure, and says what to install. Elsewhere nothing is built, and the package speaks stdio.
"""

import os
import sys
import sysconfig
from glob import glob
from importlib.util import find_spec

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

#: The first with sem_clockwait, without which a waiter's time limit would follow the wall clock. musl has none.
GLIBC = (2, 30)

HELP = """
molt-accel: the native core of the shared-memory transport could not be built; the reason is above.
It needs a C11 compiler and the headers of this Python:
    Debian, Ubuntu:  apt install gcc libc6-dev python3-dev
    Fedora, RHEL:    dnf install gcc glibc-devel python3-devel
or a wheel, which has it inside.
"""


class BuildNative(build_ext):
    """`build_ext` whose failure says what to do."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # Cython's C is an intermediate as an object file is. Kept where those are, none is ever an older Cython's,
        # and environments that are made from one checkout at a time don't write each other's.
        self.cython_c_in_temp = True

    def run(self) -> None:
        if self.extensions and find_spec("Cython") is None:
            raise SystemExit("molt-accel: to build without isolation, install Cython: pip install cython")
        try:
            super().run()
        except (BaseError, CCompilerError, OSError) as exc:
            raise SystemExit(f"{exc}\n{HELP}") from exc


def glibc_version() -> tuple[int, ...]:
    """The version of the C library if it is glibc, else ()."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except ValueError:  # a C library that doesn't know the name
        return ()
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else ()


def extensions() -> list[Extension]:
    """What is to be built here; `molt_accel.ipc.shm.arena.native` tells the user why it isn't there."""
    if sys.platform != "linux" or sysconfig.get_config_var("Py_GIL_DISABLED") or glibc_version() < GLIBC:
        return []
    core = Extension(
        "molt_accel.ipc.shm._native",
        ["molt_accel/ipc/shm/_native.pyx"],
        include_dirs=["molt_accel/ipc/shm/core"],
        depends=[
            *sorted(glob("molt_accel/ipc/shm/core/*.h") + glob("molt_accel/ipc/shm/binding/*.pxi")),
            "setup.py",
        ],
        extra_compile_args=[
            *("-std=c11", "-O3", "-fvisibility=hidden"),
            *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror=implicit-function-declaration"),
        ],
        libraries=["pthread"],
    )
    return [core]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
