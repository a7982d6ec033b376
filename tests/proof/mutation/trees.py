"""Copies of the tree, in which a mutant can be put and its tests be run. The working tree itself is never changed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
import venv
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tests.proof.mutation.modules import ROOT
from tests.proof.mutation.mutants import Mutant
from tests.proof.mutation.starter import FAILED as STARTER_FAILED
from tests.proof.native import programs
from tests.support.processes import marked

#: Every process of a test run has this variable, so that none is left when the run has taken too long.
_MARK: Final = "MOLT_MUTANT"
#: A run of tests may take so many times as long as it does without a fault, and so much longer.
_PATIENCE, _SLACK_S = 5, 60.0
_FIRST_LIMIT_S: Final = 900.0
_NO_TESTS: Final = 5  # pytest's exit code
_PRELOADED: Final = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"


class Ran(NamedTuple):
    """How a run of tests went."""

    failed: bool
    by: str  #: the first test that failed, or what else went wrong
    seconds: float


class Baselines:
    """How long tests take without a fault, and which of them fail even so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[float, list[str]]] = {}

    def of(self, tests: tuple[str, ...], tree: Tree) -> tuple[float, list[str]]:
        """Seconds, and the tests that fail here anyway. Measured in `tree` if they are not known yet."""
        with self._lock:
            known = self._known.get(tests)
        if known is None:
            known = self._known[tests] = tree.measure(tests)
        return known

    @property
    def failing(self) -> list[str]:
        """Tests that fail without a fault. They are left out."""
        return sorted({test for _, failing in self._known.values() for test in failing})


def _environment(folder: Path, copy: Path) -> str:
    """Make an environment with everything of this one, but for the packages, which are a copy's. Returns its Python.

    A PYTHONPATH would not do: tests run programs with one of their own, which would import the packages installed here.
    """
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    # As plain paths: their own .pth files, by which these packages are installed for editing, are not read.
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    Path(paths["purelib"], "copy.pth").write_text("\n".join([str(copy), *installed]) + "\n")
    python = str(Path(paths["scripts"], "python"))
    for script in Path(sysconfig.get_path("scripts")).iterdir():  # molt-worker, gunicorn
        here = Path(paths["scripts"], script.name)
        text = script.read_bytes() if script.is_file() and not here.exists() else b""
        if text.startswith(b"#!") and b"python" in text.partition(b"\n")[0]:
            here.write_bytes(b"\n".join([f"#!{python}".encode(), text.partition(b"\n")[2]]))
            here.chmod(0o755)
    return python


class Tree:
    """A copy of the tree, used by one thread at a time."""

    def __init__(self, folder: Path, baselines: Baselines) -> None:
        self._folder = folder
        self._baselines = baselines
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        built = [str(file.relative_to(ROOT)) for file in ROOT.glob("molt_accel/ipc/shm/_native*.so")]
        for name in filter(None, [*listed, *built]):
            if (ROOT / name).is_file():  # else it was deleted, and git doesn't know yet
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # Checked by what the sources say, not by their age: a mutant may be as old as its original.
        compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "."]
        subprocess.run(compiling, cwd=folder, check=True)
        self._child = 0  # the process that runs tests just now
        self._python = _environment(folder.with_suffix(".env"), folder)
        self._starter = subprocess.Popen(
            [self._python, str(Path(__file__).with_name("starter.py"))],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def try_mutant(self, mutant: Mutant) -> Ran:
        """Put a mutant in, run its tests until one fails, and take it out again."""
        path = self._folder / mutant.file
        original = path.read_text()
        ran, began_s = Ran(False, "", 0.0), time.monotonic()
        for tests in mutant.tests:
            seconds, left_out = self._baselines.of(tests, self)
            try:
                path.write_text(mutant.text)
                if wrong := self._build(mutant):
                    ran = Ran(False, f"it can't be compiled: {wrong}", 0.0)
                else:
                    ran = self._run(tests, _PATIENCE * seconds + _SLACK_S, left_out)
            finally:
                path.write_text(original)
                if mutant.builds:
                    for library in ROOT.glob("molt_accel/ipc/shm/_native*.so"):
                        shutil.copy2(library, self._folder / library.relative_to(ROOT))
            if ran.failed:
                break
        return ran._replace(seconds=time.monotonic() - began_s)

    def measure(self, tests: tuple[str, ...]) -> tuple[float, list[str]]:
        """Run tests without a fault: how many seconds they take, and which fail.

        Raises RuntimeError if there are none, or they can't be run.
        """
        output, code, seconds = self._pytest(tests, _FIRST_LIMIT_S, ["-rfE"])
        if code not in (0, 1):
            raise RuntimeError(f"{' '.join(tests)} can't be run without a fault:\n{output}")
        return seconds, re.findall(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - |$)", output, re.MULTILINE)

    def _run(self, tests: tuple[str, ...], limit_s: float, left_out: list[str]) -> Ran:
        options = ["-x", "-rfE", *(f"--deselect={test}" for test in left_out)]
        output, code, seconds = self._pytest(tests, limit_s, options)
        if code is None:
            return Ran(True, f"more than {limit_s:.0f} s", seconds)
        if code in (_NO_TESTS, STARTER_FAILED):
            raise RuntimeError(f"{' '.join(tests)}: nothing was tested:\n{output}")
        named = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return Ran(code != 0, named[1] if named else f"exit code {code}" if code else "", seconds)

    def _pytest(
        self, tests: tuple[str, ...], limit_s: float, options: list[str]
    ) -> tuple[str, int | None, float]:
        """Returns the output, the exit code (None: it took too long), and the seconds."""
        mark = uuid.uuid4().hex
        environ = {**os.environ, _MARK: mark}
        arguments = ["-n", "0", "-q", "--tb=no", "-W", _PRELOADED, *options, *tests]
        output = self._folder.with_suffix(".log")
        asked = {"arguments": arguments, "environ": environ, "output": str(output)}
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        began_s = time.monotonic()
        self._starter.stdin.write(json.dumps(asked) + "\n")
        self._starter.stdin.flush()
        pid = self._child = int(self._starter.stdout.readline())
        late = threading.Event()

        def kill() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(limit_s, kill)
        timer.start()
        code = int(self._starter.stdout.readline())
        timer.cancel()
        self._child = 0
        for each in marked(_MARK, mark):
            with contextlib.suppress(psutil.Error):
                each.kill()
        said = output.read_text(errors="replace")
        return said, None if late.is_set() else code, time.monotonic() - began_s

    def interrupt(self) -> None:
        """End the run of tests that is under way, if there is one."""
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)

    def close(self) -> None:
        """End the process that runs the tests."""
        with self._starter:
            pass

    def _build(self, mutant: Mutant) -> str:
        """Build the native core if tests need that. Returns the compiler's complaint: it must not be what notices."""
        command: list[str] = []
        if mutant.builds:
            command = [self._python, "setup.py", "-q", "build_ext", "--inplace"]
        elif mutant.file.endswith(".h"):  # the tests compile it themselves
            flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Imolt_accel/ipc/shm/core"]
            command = [*programs.compiler(), *flags, "tests/proof/native/core_test.c"]
        if not command:
            return ""
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        return done.stderr[-500:] if done.returncode else ""
