"""The steps of a build, each in a process as the compiler starts it."""

import json
from pathlib import Path
from typing import Any

import pytest

from molt_worker.compile import attempts, steps
from molt_worker.compile.record import FOLDER
from tests.support.builds import Built


def tried(built: Built, names: list[str], libraries: dict[str, str]) -> Any:
    """What a trial import in the project's folder says: why modules can't be imported."""
    done = attempts.run("import", (libraries, names), [], built.folder)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.splitlines()[-1].removeprefix(steps.ANSWER))


def test_a_trial_import_says_what_can_t_be_imported(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(built.folder))
    build = built.manifest.parent / FOLDER / built.record.key
    libraries = {name: str(build / file) for name, file in built.record.libraries.items()}
    assert tried(built, ["shop.core", "shop.money"], libraries) == {}
    (built.folder / "leave.py").write_text("raise SystemExit('not now')\n")
    del libraries["shop.money"]  # so its source is imported
    assert tried(built, ["leave", "shop.core", "nowhere", "shop.money"], libraries) == {
        "leave": "it can't be imported when compiled: SystemExit: not now",
        "nowhere": "it can't be imported when compiled: ModuleNotFoundError: No module named 'nowhere'",
        "shop.money": "something else was imported in its place",
    }


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("result", "told", "made_c"),
    [
        ("str", "given.py:2: error: Incompatible return value type", False),
        ("int", "CompileError: Command '['/bin/false', ", True),
    ],
)
def test_a_failure_that_comes_once_the_c_was_made_is_the_c_compiler_s(
    result: str, told: str, made_c: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    (tmp_path / "given.py").write_text(f"def f(n: int) -> {result}:\n    return n\n")
    done = attempts.run("compile", (str(tmp_path), "group", "0", ["given.py"]), [str(tmp_path)], tmp_path)
    assert done.returncode != 0
    assert told in done.stdout
    assert (steps.MADE_C in done.stdout) is made_c
    assert not (tmp_path / "lib").exists()
