"""Builds the native core of the shared-memory transport; everything else is said in setup.cfg.

On Linux a package without it would be a slower one than was asked for, so a failed build fails, and says what to
install. Elsewhere there is no such transport and nothing is built.
"""

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

HELP = """
molt-accel: the native core of the shared-memory transport could not be built.
It needs a C11 compiler and the headers of this Python:
    Debian, Ubuntu:  apt install gcc libc6-dev python3-dev
    Fedora, RHEL:    dnf install gcc python3-devel
    Alpine:          apk add gcc musl-dev python3-dev
or install a wheel, which has it inside. The compiler's own words are above.
"""


class BuildNative(build_ext):
    """`build_ext` whose failure says what to do."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, OSError) as exc:
            raise SystemExit(f"{exc}\n{HELP}") from exc


def extensions() -> list[Extension]:
    if sys.platform != "linux":
        return []
    from Cython.Build import cythonize

    core = Extension(
        "molt_accel.ipc._native",
        ["molt_accel/ipc/_native.pyx"],
        include_dirs=["molt_accel/ipc"],
        depends=["molt_accel/ipc/_core.h"],
        extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"],
        libraries=["pthread"],
    )
    return list(cythonize([core]))


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
