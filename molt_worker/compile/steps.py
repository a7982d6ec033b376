"""The steps of a build that run in a process of their own: ``python -m molt_worker.compile.steps STEP``, JSON on stdin.

mypyc exits if types are wrong, and keeps in memory all that it has read. A compiled module may crash the process that
imports it. Neither may harm the process of the build.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from molt_worker.entrypoints.importer import BuildFinder, is_compiled

MADE_C = "molt: made C"  #: printed once the C code is made: errors below it are the C compiler's
ANSWER = "molt: "  #: begins the line with the result of a trial import


def compile_modules(work: str, group: str, level: str, paths: Sequence[str]) -> None:
    """Translate modules to C, and compile that to libraries in ``work/lib``.

    Args:
        group: The name of the library that all modules share.
        level: The optimisation level of the C compiler; empty: make the C code only.
    """
    from mypyc.build import mypycify
    from setuptools import Distribution

    flags = [
        "--config-file=",  # the project's mypy settings may refuse what mypyc can compile
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "--namespace-packages",
        "--explicit-package-bases",
        "--disable-error-code=annotation-unchecked",  # a note, for which mypyc would give up
        "--no-color-output",
        "--no-error-summary",
        f"--cache-dir={work}/cache",
    ]
    extensions = mypycify([*paths, *flags], opt_level=level or "0", target_dir=f"{work}/c", group_name=group)
    print(MADE_C, flush=True)
    if not level:
        return
    command = Distribution({"name": group, "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = f"{work}/lib", f"{work}/o"
    command.ensure_finalized()
    try:
        command.run()
    except Exception as exc:  # the C compiler has printed the reason
        sys.exit(f"{type(exc).__name__}: {exc}")


def import_modules(libraries: Mapping[str, str], names: Sequence[str]) -> None:
    """Import modules from their libraries, and print the reason for each that fails, as JSON."""
    BuildFinder({name: Path(path) for name, path in libraries.items()}).install()
    failed = {}
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as exc:  # a module may raise anything when imported, also SystemExit
            failed[name] = f"it can't be imported when compiled: {type(exc).__name__}: {exc}"
        else:
            if not is_compiled(name):
                failed[name] = "something else was imported in its place"
    print(ANSWER + json.dumps(failed))


if __name__ == "__main__":
    step = compile_modules if sys.argv[1] == "compile" else import_modules
    step(*json.load(sys.stdin))
