"""Compiles a set of modules so often that all that are left can be compiled and imported.

Each attempt runs in processes of its own (`steps.py`). A module that mypyc names in an error is left in Python. If
mypyc, the C compiler or the trial import fail without a name, a binary search finds the module at fault.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from molt_worker.compile import steps as build_steps
from molt_worker.compile.plan import Source, extended
from molt_worker.compile.record import Module

Say = Callable[[str], None]

#: For attempts whose result is not kept: what a module does is the same at each level, and the C compiler is quicker.
QUICK: Final = "0"
_TRANSLATE: Final = ""  #: make the C code only
NO_COMPILER: Final = "a C compiler and Python's headers are needed: on Debian, apt install gcc python3-dev"
#: How mypyc names a module: for an error in its types, and if it crashes while it translates the module.
_MESSAGE: Final = re.compile(
    r"^(?P<path>[^:\n]+\.py):(?:(?P<line>\d+):)? (?:error: (?P<text>.*)|(?P<crash>[A-Z]\w*(?:Error|Exception)\b.*))$",
    re.M,
)
#: The C compiler's own words. What it prints of the code is left out.
_C_ERROR: Final = re.compile(r"^.*?(?:fatal )?error: (.*)$", re.M)


class BuildError(Exception):
    """The whole build failed. The text says what to do."""


@dataclass(frozen=True)
class Compiled:
    """The outcome of one attempt: the libraries by their import names, or the modules that failed, or neither."""

    libraries: dict[str, Path]
    failed: dict[str, Module]
    reason: str = ""  #: why there is neither
    translated: bool = True  #: the C code was made, so the reason is not mypyc's


@dataclass
class Attempts:
    """Compiles modules in a folder that holds nothing else.

    Args:
        group: The name of the library that all modules share.
        say: Called with a line for each step.
        sources: All modules that the exports need, by their names.
        entries: The modules of the entrypoints, which must be importable whatever is compiled.
    """

    work: Path
    group: str
    say: Say
    sources: dict[str, Source] = field(default_factory=dict)
    entries: Sequence[str] = ()

    @property
    def lib(self) -> Path:
        """The folder of the last attempt's libraries."""
        return self.work / "lib"

    def settle(self, modules: Sequence[Source], left: dict[str, Module], level: str) -> dict[str, Path]:
        """Compile what can be, and add the other modules to `left`. Returns the libraries by their import names.

        Raises BuildError: the compilers fail whatever they are given.
        """
        while able := [source for source in modules if source.name not in left]:
            if derived := extended(self.sources, able):
                left.update(derived)
                continue
            done = self.once(able, level)
            if done.libraries:
                return done.libraries
            left.update(done.failed or self._found(able, done))
        return {}

    def once(self, modules: Sequence[Source], level: str = QUICK) -> Compiled:
        """Compile these modules together, and import them in another process.

        Args:
            level: The C compiler's level of optimisation; empty: make the C code only.
        """
        names = [source.name for source in modules]
        self.say(f"mypyc: {', '.join(names)}")
        shutil.rmtree(self.lib, ignore_errors=True)
        self.work.mkdir(exist_ok=True)
        roots = sorted({_root_of(source) for source in modules})
        given = (str(self.work), self.group, level, [str(source.path) for source in modules])
        done = run("compile", given, roots, self.work)
        if done.returncode:
            failed = self._named(done.stdout, modules)
            translated = build_steps.MADE_C in done.stdout
            return Compiled({}, failed, "" if failed else _reason(done, translated=translated), translated)
        if level == _TRANSLATE:
            return Compiled({}, {})
        libraries = _libraries(self.lib)
        self.say("importing what was compiled")
        found = self._imported(libraries, names, roots)
        if isinstance(found, str):
            return Compiled({}, {}, found)
        # A module that imports a failed one may work once that one is left in Python, so try it again.
        first = {each.name for each in modules if found.keys().isdisjoint(each.imports)} & found.keys()
        if failed := {name: Module(name, False, found[name]) for name in first or found}:
            return Compiled({}, failed)
        entries = [name for name in self.entries if name not in names]
        if reason := self._entry_broken(libraries, entries, roots):
            return Compiled({}, {}, reason)
        return Compiled(libraries, {})

    def _entry_broken(self, libraries: dict[str, Path], entries: Sequence[str], roots: Sequence[str]) -> str:
        """Say which entry module in Python can be imported without the compiled modules only; empty: none."""
        broken = self._imported(libraries, entries, roots) if entries else {}
        usual = self._imported({}, entries, roots) if entries else {}
        if isinstance(broken, str) or isinstance(usual, str):
            return broken if isinstance(broken, str) and isinstance(usual, dict) else ""
        return "; ".join(f"{name}: {why}" for name, why in broken.items() if usual.get(name) != why)

    def _imported(
        self, libraries: dict[str, Path], names: Sequence[str], roots: Sequence[str]
    ) -> dict[str, str] | str:
        """Import modules in another process. Returns the reason for each that fails, or how the process has ended."""
        paths = {name: str(path) for name, path in libraries.items()}
        done = run("import", (paths, names), roots, self.work)
        answer = [line for line in done.stdout.splitlines() if line.startswith(build_steps.ANSWER + "{")]
        if not answer:
            return f"it ends the process that imports it when compiled ({_ended(done.returncode)})"
        found: dict[str, str] = json.loads(answer[-1].removeprefix(build_steps.ANSWER))
        return found

    def culprit(self, modules: Sequence[Source], fails: Callable[[Sequence[Source]], object]) -> str:
        """Return the name of a module without which fewer things fail, by a binary search.

        It is the last of the shortest beginning of `modules` that fails. All of them together do.
        """
        counts = range(1, len(modules))
        return modules[bisect_left(counts, True, key=lambda count: bool(fails(modules[:count])))].name

    def _found(self, modules: Sequence[Source], failure: Compiled) -> dict[str, Module]:
        """Return the module at fault with the reason. Raises BuildError: the compilers fail with any module."""
        level = QUICK if failure.translated else _TRANSLATE
        path = self.work / "molt_probe.py"
        path.write_text("def probe() -> int:\n    return 1\n")
        if why := self.once([Source("molt_probe", path, b"", ast.Module([], []))], level).reason:
            raise BuildError(f"the compilers fail with any module: {why}")
        self.say(f"searching for the module at fault: {failure.reason}")
        reasons = {modules[-1].name: failure.reason}

        def fails(some: Sequence[Source]) -> str:
            reasons[some[-1].name] = reason = self.once(some, level).reason
            return reason

        name = self.culprit(modules, fails)
        return {name: Module(name, False, reasons[name])}

    def _named(self, output: str, modules: Sequence[Source]) -> dict[str, Module]:
        """Return the modules that mypyc's output names, with the first reason for each."""
        by_path = {str(source.path): source.name for source in modules}
        failed: dict[str, Module] = {}
        for match in _MESSAGE.finditer(output):
            name = by_path.get(str(Path(self.work, match["path"]).absolute()))
            if name and name not in failed:
                text = match["text"] or f"mypyc fails: {match['crash']}"
                failed[name] = Module(name, False, text, int(match["line"] or 0))
        return failed


def run(step: str, given: object, roots: Sequence[str], work: Path) -> subprocess.CompletedProcess[str]:
    """Run a step in a process of its own. See `steps.py`."""
    # mypy looks for modules in the folders of their packages; the trial import uses the caller's sys.path.
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(roots), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", build_steps.__name__, step],
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=work,
        env=environment,
        check=False,
    )


def _ended(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def _reason(done: subprocess.CompletedProcess[str], *, translated: bool) -> str:
    """Return one line that says why compiling has failed."""
    if not translated:
        lines = [line for line in done.stdout.splitlines() if line and not line[0].isspace()]
        return f"mypyc fails ({_ended(done.returncode)}): {lines[-1] if lines else 'it prints nothing'}"
    output = done.stdout.partition(build_steps.MADE_C)[2].strip()
    errors = _C_ERROR.findall(output)
    if any("Python.h" in error for error in errors):
        return f"{errors[0]}; {NO_COMPILER}"
    said = "; ".join(errors[:3]) or output.splitlines()[-1]
    return f"the C compiler rejects the code that mypyc makes: {said}"


def _root_of(source: Source) -> str:
    """Return the folder that contains the module's top-level package."""
    depth = source.name.count(".") + (source.path.name == "__init__.py")
    return str(source.path.parents[depth])


def _libraries(folder: Path) -> dict[str, Path]:
    """Return the files of compiled modules, by the names that they are imported by."""
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    files = folder.rglob(f"*{suffix}")
    return {".".join(file.relative_to(folder).parts).removesuffix(suffix): file for file in files}
