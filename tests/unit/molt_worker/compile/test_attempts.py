"""Attempts with modules that the compilers reject: the one at fault is found, and the compilers' words are told."""

from __future__ import annotations

import ast
import stat
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from molt_worker.compile import attempts as subject
from molt_worker.compile import steps
from molt_worker.compile.attempts import Attempts, BuildError
from molt_worker.compile.plan import Source
from molt_worker.compile.record import Module


def sources(folder: Path, **texts: str) -> list[Source]:
    found = []
    for name, text in texts.items():
        path = folder / f"{name}.py"
        path.write_text(text)
        found.append(Source(name, path, text.encode(), ast.parse(text)))
    return found


@pytest.mark.parametrize("at_fault", range(7))
def test_the_module_at_fault_is_found_by_bisecting(tmp_path: Path, at_fault: int) -> None:
    modules = sources(tmp_path, **{f"m{number}": "" for number in range(7)})
    tried = []

    def fails(some: Sequence[Source]) -> bool:
        tried.append(len(some))
        return modules[at_fault] in some

    assert Attempts(tmp_path, "group", str).culprit(modules, fails) == f"m{at_fault}"
    assert len(tried) <= 3


def completed(output: str) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], 1, output)


def test_what_the_compilers_say_is_told_apart() -> None:
    crash = "Traceback (most recent call last):\n  File x\nAssertionError: object\n"
    assert (
        subject._reason(completed(crash), translated=False)
        == "mypyc fails (exit code 1): AssertionError: object"
    )
    rejected = f"{steps.MADE_C}\na.c:1:2: warning: odd\na.c:7:3: error: 'x' undeclared\n  7 | x\nCompileError: failed\n"
    assert subject._reason(completed(rejected), translated=True) == (
        "the C compiler rejects the code that mypyc makes: 'x' undeclared"
    )
    no_headers = f"{steps.MADE_C}\na.c:1:10: fatal error: Python.h: No such file or directory\n"
    reason = subject._reason(completed(no_headers), translated=True)
    assert reason == f"Python.h: No such file or directory; {subject.NO_COMPILER}"


def test_a_module_that_crashes_mypyc_is_named_by_it_or_by_its_error(tmp_path: Path) -> None:
    modules = sources(tmp_path, a="", b="", c="")
    output = (
        f"{tmp_path}/b.py:3: AssertionError: Expected a type\n"
        f"{tmp_path}/c.py:2: note: nothing\n{tmp_path}/c.py:5: error: Wrong\n"
    )
    assert Attempts(tmp_path, "group", str)._named(output, modules) == {
        "b": Module("b", False, "mypyc fails: AssertionError: Expected a type", 3),
        "c": Module("c", False, "Wrong", 5),
    }


@pytest.fixture
def picky_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C compiler, but for code that has a function named `rejected`."""
    real = sysconfig.get_config_var("CC")
    script = tmp_path / "cc"
    script.write_text(
        '#!/bin/sh\nfor each; do case "$each" in *.c) if grep -q ___rejected "$each"; then\n'
        f'echo "$each:1:1: error: no such thing" >&2; exit 1; fi;; esac; done\nexec {real} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))


@pytest.mark.slow
@pytest.mark.usefixtures("picky_compiler")
def test_a_module_whose_code_the_c_compiler_rejects_is_left_in_python(tmp_path: Path) -> None:
    function = "def {}(n: int) -> int:\n    return n\n"
    modules = sources(tmp_path, a=function.format("fine"), b=function.format("rejected"), c="import a, b\n")
    left: dict[str, Module] = {}
    libraries = Attempts(tmp_path / "work", "group", str).settle(modules, left, subject.QUICK)
    assert {"a", "c"} <= libraries.keys()
    assert list(left) == ["b"]
    assert left["b"].reason == "the C compiler rejects the code that mypyc makes: no such thing"


@pytest.mark.slow
def test_compilers_that_fail_with_any_module_end_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    modules = sources(tmp_path, a="X = 1\n", b="Y = 1\n")
    with pytest.raises(BuildError, match="the compilers fail with any module: the C compiler rejects"):
        Attempts(tmp_path / "work", "group", str).settle(modules, {}, subject.QUICK)
