"""The steps of a build that run in a process of their own: ``python -m molt_worker.compile.steps STEP``, JSON on stdin.

mypyc exits where types are wrong and keeps all it has read in memory; and a compiled module that crashes the process
that imports it must crash another one than that of the build.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from molt_worker.entrypoints.importer import BuildFinder, is_compiled

#: What is printed before what: C was made, so errors from here on are the C compiler's; the answer of a trial.
MADE_C = "molt: made C"
ANSWER = "molt: "


def compile_modules(work: str, group: str, level: str, paths: Sequence[str]) -> None:
    """Make C of modules, and libraries of that in ``work/lib``.

    Args:
        group: A name for the library that all of them share.
        level: How much the C compiler optimises.
    """
    from mypyc.build import mypycify
    from setuptools import Distribution

    flags = [
        "--config-file=",  # a project's own may be stricter than it takes to compile
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "--namespace-packages",
        "--explicit-package-bases",
        "--no-color-output",
        "--no-error-summary",
        f"--cache-dir={work}/cache",
    ]
    extensions = mypycify([*paths, *flags], opt_level=level, target_dir=f"{work}/c", group_name=group)
    print(MADE_C, flush=True)
    command = Distribution({"name": group, "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = f"{work}/lib", f"{work}/o"
    command.ensure_finalized()
    try:
        command.run()
    except Exception as exc:  # the C compiler has said all there is to say
        sys.exit(f"{type(exc).__name__}: {exc}")


def import_modules(libraries: Mapping[str, str], names: Sequence[str]) -> None:
    """Import modules from their libraries, and print which can't be, and why."""
    BuildFinder({name: Path(path) for name, path in libraries.items()}).install()
    failed = {}
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as exc:  # whatever a module does when imported, SystemExit included
            failed[name] = f"it can't be imported when compiled: {type(exc).__name__}: {exc}"
        else:
            if not is_compiled(name):
                failed[name] = "something else was imported in its place"
    print(ANSWER + json.dumps(failed))


if __name__ == "__main__":
    step = compile_modules if sys.argv[1] == "compile" else import_modules
    step(*json.load(sys.stdin))
